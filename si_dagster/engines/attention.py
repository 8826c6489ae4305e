"""Attention of many rows to few shared prefixes: one token at a time, each prefix held and read once.

Samples of a prompt would each hold a copy of its keys and values; here a row attends to the keys of its
prompt and to those of its own tokens apart, and the two results are merged by their log-sum-exps, which is
exact (as in Hydragen, arXiv 2402.05099). With a pico policy the copies are most of what memory has to move.

It serves models whose attention is a plain softmax over all earlier tokens; `SERVED` lists them, others
attend to copies. It does nothing for passes of several tokens, where reading keys is not what takes the time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "shared_prefix"

SERVED = ("llama", "mistral", "olmo2", "qwen2", "qwen3")
"""Model types whose attention has neither soft caps nor sinks (sliding windows are read from the config)."""


@dataclass
class SharedPrefix:
    """Keys and values of prefixes, and which rows go on from which.

    Attributes:
        keys: One tensor a layer, shape (prefixes, key heads, tokens, head size).
        values: The same.
        mask: Bool, (prefixes, 1, tokens), False where a slot is padding; `None` if none is.
        row_prefix: Prefix of each row, ascending; int64, shape (rows,).
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    mask: torch.Tensor | None
    row_prefix: torch.Tensor

    def __post_init__(self) -> None:
        counts = torch.bincount(self.row_prefix, minlength=len(self.keys[0]))
        starts = counts.cumsum(0) - counts
        rows = torch.arange(len(self.row_prefix), device=self.row_prefix.device)
        self.width = int(counts.max())
        self.place = self.row_prefix * self.width + rows - starts[self.row_prefix]
        """Place of each row in a table of (prefixes, width)."""

    def select(self, parents: torch.Tensor) -> "SharedPrefix":
        """The same prefixes for the rows `parents`, without those that no row needs, once they are half."""
        row_prefix = self.row_prefix[parents]
        used, renamed = torch.unique_consecutive(row_prefix, return_inverse=True)
        if 2 * len(used) > len(self.keys[0]):
            return SharedPrefix(self.keys, self.values, self.mask, row_prefix)
        keys, values = ([layer[used] for layer in layers] for layers in (self.keys, self.values))
        return SharedPrefix(keys, values, None if self.mask is None else self.mask[used], renamed)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What each row reads in its prefix, and the log-sum-exp of its scores.

        Args:
            layer: Index of the layer.
            query: Shape (rows, key heads, queries a key head, head size).
            scale: Factor of the scores.

        Returns:
            Shapes (rows, key heads, queries a key head, head size) and (..., 1).
        """
        keys, values = self.keys[layer], self.values[layer]
        prefixes, heads, _, size = keys.shape
        group = query.shape[2]
        table = query
        if len(query) != prefixes * self.width:
            table = query.new_zeros((prefixes * self.width, *query.shape[1:]))
            table[self.place] = query
        table = table.view(prefixes, self.width, heads, group, size).transpose(1, 2)
        table = table.reshape(prefixes, heads, self.width * group, size)
        mask = None if self.mask is None else self.mask[:, None]
        read, weight = attended(table, keys, values, scale, mask)
        return self._rows(read, group), self._rows(weight, group)

    def _rows(self, table: torch.Tensor, group: int) -> torch.Tensor:
        prefixes, heads, _, size = table.shape
        rows = table.view(prefixes, heads, self.width, group, size).transpose(1, 2)
        return rows.reshape(prefixes * self.width, heads, group, size)[self.place]


def attended(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention and the log-sum-exp of its scores: (batch, heads, queries, size) and (..., 1)."""
    scores = torch.matmul(query * scale, keys.transpose(2, 3)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    total = scores.logsumexp(dim=-1, keepdim=True)
    return torch.matmul((scores - total).exp().to(values.dtype), values), total


def attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; without a shared prefix it is that of `sdpa`.

    Args:
        module: The attention layer.
        query: Shape (rows, heads, 1, head size) where a prefix is shared.
        key: Of the row's own tokens, shape (rows, key heads, tokens, head size).
        value: The same.
        attention_mask: `None` where a prefix is shared: own tokens are never padded.
        scaling: Factor of the scores; default 1/sqrt(head size).
        shared_prefix: What the rows go on from.
        kwargs: For `sdpa`.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, num_heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], num_heads // key.shape[1], size)
    scale = size**-0.5 if scaling is None else scaling
    read, weight = shared_prefix.attend(module.layer_idx, grouped, scale)
    own_read, own_weight = attended(grouped, key, value, scale)
    merged = torch.lerp(own_read, read, torch.sigmoid(weight - own_weight).to(read.dtype))
    return merged.reshape(rows, 1, num_heads, size), None


def share_prefixes(model: "PreTrainedModel") -> bool:
    """Let the model attend to shared prefixes, if it is one of those served; says whether it does."""
    config = model.config
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if config.model_type not in SERVED or windows or windowed or config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
