"""Pico policies: a character tokenizer and a small Llama, both ordinary Hugging Face objects.

Everything that loads Qwen loads a pico policy: the checkpoint folder has a config, safetensors and a
tokenizer. What this module does not do: train (see `pretrain`), know any task, or promise the same
weights on another version of torch.
"""

import string
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN = "\u2400", "\u2404", "\ufffd"
"""One character each and outside ASCII, so that no text of a task or a policy can spell a special token."""

CHARACTERS = tuple(sorted(set(string.printable) - set("\t\r\x0b\x0c")))
"""Newline and the 95 printable ASCII characters."""


class PolicyShape(Protocol):
    """The fields of a recipe that fix the architecture; names as in `transformers.LlamaConfig`."""

    @property
    def hidden_size(self) -> int: ...  # noqa: D102

    @property
    def intermediate_size(self) -> int: ...  # noqa: D102

    @property
    def num_hidden_layers(self) -> int: ...  # noqa: D102

    @property
    def num_attention_heads(self) -> int: ...  # noqa: D102

    @property
    def max_position_embeddings(self) -> int: ...  # noqa: D102


def character_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer of one token a character: printable ASCII, newline, padding, end and unknown.

    There is no beginning token, padding is on the left (a batch of prompts ends where generation
    begins), and a character outside the vocabulary becomes the unknown token rather than vanishing.

    Examples:
        >>> tokenizer = character_tokenizer()
        >>> ids = tokenizer("?1_A\\n").input_ids
        >>> len(ids), tokenizer.decode(ids)
        (5, '?1_A\\n')
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = (PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, *CHARACTERS)
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_policy(recipe: PolicyShape, tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
    """A Llama of the recipe's shape with random weights drawn from `seed`, in float32.

    Input and output embeddings are tied. The caller's global random state is left as it was.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_attention_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.get_vocab()[EOS_TOKEN],
        pad_token_id=tokenizer.get_vocab()[PAD_TOKEN],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()
