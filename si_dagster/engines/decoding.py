"""Drawing completions token by token from branches of common beginnings.

Samples that have agreed so far are one row of the batch, whether they come from one prompt or have said the
same: a row splits when its samples draw different tokens, and goes when the last of them has ended. So `n`
samples of a sure policy cost little more than one. It knows no prompts' texts and keeps no counters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from si_dagster.engines.base import SamplingParams
from si_dagster.engines.branches import Branches
from si_dagster.engines.tokens import decoded_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPACT_BELOW = 0.75
"""Ended rows are carried along until fewer than this share live: dropping rows copies all keys and values."""


@dataclass
class Draws:
    """What a batch of samples has drawn, one row a sample.

    Attributes:
        tokens: int64, shape (num_samples, max_tokens); -1 behind the end.
        logprobs: Summed log-probability of the drawn tokens under the policy, nats; float64, (num_samples,).
        stopped: Whether the sample ended by itself; bool, (num_samples,).
        num_rows: Rows read in all steps, of which samples shared some.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: np.ndarray
    num_rows: int = 0


class StopRule:
    """Which tokens end a completion.

    End-of-sequence tokens do at once. A stop string can only end within a token whose text has the last
    character of that string, so the text is decoded and searched after such tokens alone.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", eos: Sequence[int], size: int, stop: Sequence[str]
    ) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(stop)
        self.ends = np.zeros(size, dtype=bool)
        self.ends[[token for token in eos if token < size]] = True
        self.suspects = np.zeros(size, dtype=bool)
        if self.strings:
            known = min(size, len(tokenizer))
            texts = tokenizer.batch_decode([[token] for token in range(known)])
            pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
            self.suspects[:known] = [self._may_end(t, p) for t, p in zip(texts, pieces, strict=True)]
        # A token may be one byte of a character, and decoders may drop a few characters at the seam.
        self.tail = 8 + max((len(s.encode()) for s in self.strings), default=0)

    def _may_end(self, text: str, piece: str | None) -> bool:
        last = {string[-1] for string in self.strings}
        whole = text + (piece or "").replace("\u2581", " ")  # SentencePiece writes a space as U+2581
        return "\ufffd" in text or any(character in whole for character in last)

    def ended(self, tokens: np.ndarray) -> np.ndarray:
        """Whether samples have ended with their last token.

        Args:
            tokens: All tokens drawn so far; int64, shape (num_samples, num_drawn).

        Returns:
            Bool, shape (num_samples,).
        """
        ended = self.ends[tokens[:, -1]]
        searched = np.flatnonzero(self.suspects[tokens[:, -1]] & ~ended)
        if len(searched):
            # Samples that ended in an earlier step are not asked about, so no row holds padding (-1).
            tails = decoded_texts(self.tokenizer, tokens[searched, -self.tail :].tolist())
            ended[searched] = [any(string in tail for string in self.strings) for tail in tails]
        return ended


def warpers(sampling: SamplingParams) -> LogitsProcessorList:
    """Temperature, then top-k, then top-p, as vLLM and transformers order them."""
    chosen: list[Any] = []
    if sampling.temperature != 1.0:
        chosen.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(chosen)


def drawer(sampling: SamplingParams) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """How tokens are chosen from (logits of the rows, row of each sample, uniform of each sample).

    By the inverse of the cumulative distribution, found for all samples with one search: the distribution of
    row r is shifted to (r, r + 1], which makes the rows one ascending sequence.
    """
    if sampling.temperature == 0.0:
        return lambda logits, row, uniform: logits.argmax(dim=-1)[row]
    warp = warpers(sampling)

    def draw(logits: torch.Tensor, row: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        probabilities = warp(None, logits).softmax(dim=-1)  # pyright: ignore[reportArgumentType]
        cumulative = probabilities.to(torch.float64).cumsum(dim=-1)
        cumulative /= cumulative[:, -1:].clone()
        cumulative += torch.arange(len(logits), device=logits.device)[:, None]
        return torch.searchsorted(cumulative.view(-1), uniform + row, right=True) - row * logits.shape[1]

    return draw


def draw_samples(
    branches: Branches,
    logits: torch.Tensor,
    row: np.ndarray,
    numbers: np.ndarray,
    limits: np.ndarray,
    sampling: SamplingParams,
    rule: StopRule,
) -> Draws:
    """Draw one completion a sample.

    Args:
        branches: The prompts, read.
        logits: What follows them; shape (rows, vocabulary).
        row: Row of each sample; int64, shape (num_samples,).
        numbers: Uniforms of each sample; float64, shape (num_samples, max_tokens).
        limits: Most tokens of each sample, at least 1; shape (num_samples,).
        sampling: Temperature and truncation; its `n` and `max_tokens` are not read.
        rule: What ends a completion.
    """
    count = len(row)
    draws = Draws(np.full(numbers.shape, -1), np.zeros(count), np.zeros(count, dtype=bool))
    choose, device, size = drawer(sampling), logits.device, logits.shape[1]
    uniform = torch.from_numpy(np.ascontiguousarray(numbers.T)).to(device)
    alive = np.arange(count)
    for step in range(numbers.shape[1]):
        logits = logits.float()
        rows, kept = torch.from_numpy(row).to(device), torch.from_numpy(alive).to(device)
        chosen = choose(logits, rows, uniform[step, kept])
        logprobs = logits[rows, chosen] - logits.logsumexp(dim=-1)[rows]
        tokens = chosen.cpu().numpy()
        draws.tokens[alive, step] = tokens
        draws.logprobs[alive] += logprobs.double().cpu().numpy()
        ended = rule.ended(draws.tokens[alive, : step + 1] if rule.strings else tokens[:, None])
        draws.stopped[alive] = ended
        living = ~ended & (step + 1 < limits[alive])
        if not living.any():
            break
        alive = alive[living]
        pairs, row = np.unique(row[living] * size + tokens[living], return_inverse=True)
        next_tokens, row = branch_out(branches, pairs // size, pairs % size, row)
        draws.num_rows += len(next_tokens)
        logits = branches.extend(torch.from_numpy(next_tokens[:, None]).to(device))[:, -1]
    return draws


def branch_out(
    branches: Branches, parents: np.ndarray, tokens: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make the rows of the next step, one for each (parent, token) that was drawn.

    Where no row splits and few have ended the rows stay in place, the ended ones reading token 0 for nobody.

    Args:
        branches: The rows so far, changed in place.
        parents: Row each new row continues, ascending; shape (num_new,).
        tokens: Its token, shape (num_new,).
        row: For each sample the index among the new rows.

    Returns:
        The token each row reads next, and the row of each sample.
    """
    num_rows = len(branches.lengths)
    splits = bool((parents[1:] == parents[:-1]).any())
    if splits or len(parents) < COMPACT_BELOW * num_rows:
        branches.select(torch.from_numpy(parents).to(branches.lengths.device))
        return tokens, row
    column = np.zeros(num_rows, dtype=np.int64)
    column[parents] = tokens
    return column, parents[row]
