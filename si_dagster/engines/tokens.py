"""Text to token ids and back, the same for every engine that reads tokens itself.

Where a prompt ends and its continuation begins decides log-probabilities, so there is one rule for it. It
holds a tokenizer and a context window, no weights, and applies no chat templates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from si_dagster.engines.base import EngineError

BOUNDARY_CHARACTERS = 32
"""Trailing characters of a prompt that are tokenised together with a continuation: what a merge may reach."""

MAX_REMEMBERED = 4096
"""Continuations kept by (end of prompt, text): labels come back for every prompt."""


class TokenCodec:
    """A tokenizer and the window its policy can see.

    Args:
        tokenizer: Of transformers.
        context_window: Most tokens of prompt and completion together.
        path: Names the policy in errors.
    """

    def __init__(self, tokenizer: Any, context_window: int, path: str) -> None:
        self.tokenizer, self.context_window, self.path = tokenizer, context_window, path
        self._continuations: dict[tuple[str, str], np.ndarray] = {}

    def encode(self, texts: Sequence[str], room: int) -> list[np.ndarray]:
        """Token ids of prompts, special tokens added as the tokenizer does by itself; at least one token.

        Args:
            texts: Prompts.
            room: Tokens that must fit behind each.

        Raises:
            EngineError: If a prompt is too long; it is quoted.
        """
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=True)["input_ids"]
        start = next(
            (t for t in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if t is not None), 0
        )
        ids = [np.array(tokens or [start], dtype=np.int64) for tokens in encoded]
        longest = max(range(len(ids)), key=lambda index: len(ids[index]))
        self.check_window(len(ids[longest]), room, texts[longest])
        return ids

    def check_window(self, length: int, room: int, text: str | None = None) -> None:
        """Refuse `length` tokens with `room` behind them that do not fit the context window.

        Raises:
            EngineError: With both numbers.
        """
        if length + room <= self.context_window:
            return
        of = "" if text is None else f"; it begins {text[:60]!r}"
        raise EngineError(
            f"a prompt of {length} tokens with {room} behind it does not fit the context window of "
            f"{self.context_window} tokens of {self.path}{of}: fewer few-shot examples make it shorter"
        )

    def continuation(self, prompt: str, text: str) -> np.ndarray:
        """Token ids of `text` as it is tokenised behind the prompt.

        The end of the prompt and the text are tokenised together; where a merge crosses the border the text
        is tokenised by itself (ours; lm-evaluation-harness cuts in the same place without that exception).
        """
        key = prompt[-BOUNDARY_CHARACTERS:], text
        if key not in self._continuations:
            before, both = self.tokenizer([key[0], key[0] + text], add_special_tokens=False)["input_ids"]
            apart = both[: len(before)] == before
            ids = (
                both[len(before) :] if apart else self.tokenizer(text, add_special_tokens=False)["input_ids"]
            )
            if len(self._continuations) > MAX_REMEMBERED:
                self._continuations.clear()
            self._continuations[key] = np.array(ids, dtype=np.int64)
        return self._continuations[key]


def decoded_texts(tokenizer: Any, tokens: list[list[int]]) -> list[str]:
    """Texts of token lists without special tokens.

    By the Rust decoder itself where that is the same: on the way through `batch_decode` every token is looked
    at by Python, a tenth of the time of drawing with a pico policy.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return backend.decode_batch(tokens, skip_special_tokens=True)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it.

    Examples:
        >>> cut_at_stop("12\\n34 56", (" ", "\\n"))
        '12'
    """
    found = [position for string in stop if (position := text.find(string)) >= 0]
    return text[: min(found)] if found else text


def end_tokens(generation_config: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a completion: the tokenizer's, and those the checkpoint's generation config lists."""
    listed = getattr(generation_config, "eos_token_id", None)
    tokens = [*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id]
    return [token for token in dict.fromkeys(tokens) if token is not None]


def distinct(texts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The different token sequences in order of appearance, and for each sequence its place among them."""
    places: dict[bytes, int] = {}
    row = np.array([places.setdefault(ids.tobytes(), len(places)) for ids in texts], dtype=np.int64)
    first = np.unique(row, return_index=True)[1]
    return [texts[index] for index in first], row
