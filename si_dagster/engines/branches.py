"""Texts that grow from common beginnings: the keys and values of a batch, read once and branched.

A row of `Branches` is a text that a model has read so far. `select` makes rows out of rows (a parent may be
taken many times or not at all), `extend` reads further tokens on every row. It does not choose tokens, and
it does not save memory on sliding-window layers: they keep all keys, behind the right mask.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from si_dagster.engines.attention import NAME, SharedPrefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROWTH = 16
"""Tokens of room added whenever a layer is full; `DynamicLayer` copies all keys at each token instead."""


class RoomyLayer(DynamicLayer):
    """A cache layer with room at its end, so that a further token is written and not everything copied."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.room = GROWTH

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take type and device of the first keys."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values of shape (rows, heads, tokens, head size); returns all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if self.keys is None or end > self.keys.shape[2]:
            self.keys, self.values = (
                self._grown(self.keys, key_states),
                self._grown(self.values, value_states),
            )
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states  # pyright: ignore[reportOptionalSubscript]
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]  # pyright: ignore[reportOptionalSubscript]

    def _grown(self, kept: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        rows, heads, tokens, size = new.shape
        room = torch.empty(
            (rows, heads, self.length + tokens + self.room, size), dtype=new.dtype, device=new.device
        )
        if kept is not None:
            room[:, :, : self.length] = kept[:, :, : self.length]
        return room

    def get_seq_length(self) -> int:
        """Tokens held, room not counted."""
        return self.length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`, in that order and as often as they occur."""
        self.keys, self.values = self._rows(self.keys, indices), self._rows(self.values, indices)

    def _rows(self, kept: torch.Tensor | None, indices: torch.Tensor) -> torch.Tensor | None:
        if kept is None:
            return None
        shape = (len(indices), kept.shape[1], self.length + self.room, kept.shape[3])
        rows = torch.empty(shape, dtype=kept.dtype, device=kept.device)
        torch.index_select(kept[:, :, : self.length], 0, indices, out=rows[:, :, : self.length])
        return rows


def empty_cache(model: "PreTrainedModel") -> Cache:
    """A cache for the model: roomy layers if all its layers are attention, else what transformers takes."""
    usual = DynamicCache(config=model.config)
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in usual.layers)
    if not plain or not usual.layers:
        return usual
    return Cache(layers=[RoomyLayer() for _ in usual.layers])


class Branches:
    """A batch of texts with their cache; starts as one empty text."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model = model
        self.cache = empty_cache(model)
        self.lengths = torch.zeros(1, dtype=torch.long, device=model.device)
        self.mask: torch.Tensor | None = None
        """Bool, (rows, slots): which slots hold tokens; `None` as long as no row was padded."""
        self.slots = 0
        self.prefix: SharedPrefix | None = None

    def share(self) -> None:
        """Hold what was read so far once, however many rows go on from it, one token at a time each."""
        layers: list[Any] = self.cache.layers
        if self.model.config._attn_implementation != NAME or not self.slots:
            return
        keys, values = zip(
            *[(layer.keys[:, :, : self.slots], layer.values[:, :, : self.slots]) for layer in layers],
            strict=True,
        )
        mask = None if self.mask is None else self.mask[:, None]
        self.prefix = SharedPrefix(
            list(keys), list(values), mask, torch.arange(len(self.lengths), device=self.lengths.device)
        )
        self.cache, self.mask, self.slots = empty_cache(self.model), None, 0

    def select(self, parents: torch.Tensor, room: int = GROWTH) -> None:
        """Replace the rows by copies of other rows.

        Args:
            parents: Row each new row copies; int64, shape (new_rows,), ascending if `share`d.
            room: Tokens that will be read next, as far as known: room for them is made with the copy.
        """
        self.lengths = self.lengths[parents]
        if self.prefix is not None:
            self.prefix = self.prefix.select(parents)
        if self.mask is not None:
            self.mask = self.mask[parents]
        if self.slots:
            for layer in self.cache.layers:
                layer.room = room  # pyright: ignore[reportAttributeAccessIssue]
            self.cache.batch_select_indices(parents)

    def fork(self, parents: torch.Tensor) -> "Branches":
        """Rows `parents` as branches of their own; these stay as they are."""
        other = copy.copy(self)
        other.cache = copy.copy(self.cache)
        other.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        other.select(parents)
        return other

    def extend(self, tokens: torch.Tensor, held: torch.Tensor | None = None, keep: int = 1) -> torch.Tensor:
        """Read further tokens on every row.

        Args:
            tokens: Token ids, int64, shape (rows, num_tokens).
            held: Bool, same shape: False where a slot is padding; `None` if there is none.
            keep: Trailing slots whose logits are wanted.

        Returns:
            Logits that follow the last `keep` slots, shape (rows, keep, vocabulary), in the model's type.
        """
        rows, count = tokens.shape
        if held is not None and self.mask is None:
            self.mask = torch.ones((rows, self.slots), dtype=torch.bool, device=tokens.device)
        if self.mask is not None:
            added = torch.ones_like(tokens, dtype=torch.bool) if held is None else held
            self.mask = torch.cat([self.mask, added], dim=1)
        steps = torch.arange(1, count + 1, device=tokens.device) if held is None else held.cumsum(dim=1)
        positions = (self.lengths[:, None] + steps - 1).clamp(min=0)
        output = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
            **({} if self.prefix is None else {"shared_prefix": self.prefix}),
        )
        self.slots += count
        self.lengths = self.lengths + (count if held is None else held.sum(dim=1))
        return output.logits

    def grow(self, parents: np.ndarray, segments: Sequence[np.ndarray], keep: int = 1) -> torch.Tensor:
        """Make rows out of rows and read one segment on each; see `select` and `extend_ragged`."""
        self.select(torch.from_numpy(parents).to(self.lengths.device), room=max(map(len, segments)))
        return self.extend_ragged(segments, keep)

    def extend_ragged(self, segments: Sequence[np.ndarray], keep: int = 1) -> torch.Tensor:
        """Read one segment a row, padded on the left so that all end in the last slot; see `extend`."""
        width = max(len(segment) for segment in segments)
        tokens = np.zeros((len(segments), width), dtype=np.int64)
        held = np.arange(width)[::-1] < np.array([len(segment) for segment in segments])[:, None]
        tokens[held] = np.concatenate(segments)
        device = self.lengths.device
        return self.extend(
            torch.from_numpy(tokens).to(device),
            None if held.all() else torch.from_numpy(held).to(device),
            keep=min(keep, width),
        )
