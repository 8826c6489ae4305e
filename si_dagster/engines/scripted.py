"""The scripted engine: a policy whose distribution is written down, for running the whole loop in seconds.

A script maps prompts to weighted completions. Prompts it does not hold are looked at by a small model of
skill: a prompt with a 4x4 Sudoku is answered rightly with probability `skill`, a prompt with a puzzle and its
answer is judged rightly with probability `verifier_accuracy`. A file `scripted_policy.json` in the checkpoint
folder sets these numbers, so that "training" can raise them. It reads no weights, imports no torch, counts
one token a character and one for the end, and knows nothing of any task but Sudoku.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from si_dagster.engines.base import Completion, EngineError, Prompt, SamplingParams, Usage
from si_dagster.engines.streams import uniforms

POLICY_FILE = "scripted_policy.json"

GRID = re.compile(r"(?:[1-4_][\s|,;.+-]*){15}[1-4_]")
"""16 cells, `_` for blank, in one row or drawn as a grid."""

UNSCRIPTED_ANSWERS = tuple(str(digit) for digit in range(10))
"""What the policy answers where it has neither script nor skill, each as likely as the others."""

UNKNOWN_LOGPROB = -100.0
"""Log-probability of a text the script does not hold: finite, as that of any policy with a softmax."""


@dataclass(frozen=True)
class Skill:
    """The numbers of a scripted policy.

    Attributes:
        skill: Probability of a right answer.
        verifier_accuracy: Share of (puzzle, answer) pairs whose verdict leans the right way.
    """

    skill: float = 0.5
    verifier_accuracy: float = 0.8

    def __post_init__(self) -> None:
        for name, value in (("skill", self.skill), ("verifier_accuracy", self.verifier_accuracy)):
            if not 0.0 <= value <= 1.0:
                raise EngineError(f"scripted engine: {name} is {value}, but a probability lies in [0, 1]")


class ScriptedEngine:
    """A policy without weights.

    Args:
        path: Checkpoint folder that may hold `scripted_policy.json`, an object with the fields of `Skill` and
            `script`; `None` for a policy of keywords only.
        script: Prompt -> {completion: weight}; weights are normalised.
        skill: Overrides the file.
        verifier_accuracy: Overrides the file.
        trust_remote_code: Accepted for the sake of one signature; there is no code to run.

    Raises:
        EngineError: If the folder is missing or the file cannot be read.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        script: Mapping[str, Mapping[str, float]] | None = None,
        skill: float | None = None,
        verifier_accuracy: float | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        fields = read_policy_file(Path(path)) if path is not None else {}
        self._script: dict[str, Mapping[str, float]] = {**fields.pop("script", {}), **(script or {})}
        given = {"skill": skill, "verifier_accuracy": verifier_accuracy}
        self.skill = Skill(
            **{**fields, **{name: value for name, value in given.items() if value is not None}}
        )
        self._usage = Usage()
        self._closed = False

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`; a completion is drawn whole, with the first uniform of its stream."""
        started = self._started()
        results = [self._draw(prompt, sampling) for prompt in prompts]
        self._usage.read(sum(len(prompt.text) for prompt in prompts))
        self._usage.completion_tokens += sum(c.num_tokens for row in results for c in row)
        self._usage.seconds += time.perf_counter() - started
        return results

    def _draw(self, prompt: Prompt, sampling: SamplingParams) -> list[Completion]:
        texts, weights = self.distribution(prompt.text)
        chances = truncated(weights, sampling)
        draws = uniforms(sampling.seed, ((prompt.key, j) for j in range(sampling.n)), 1)[:, 0]
        chosen = np.searchsorted(chances.cumsum() / chances.sum(), draws, side="right")
        made = {i: finished(texts[i], float(np.log(weights[i])), sampling) for i in set(chosen.tolist())}
        return [made[i] for i in chosen.tolist()]

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`; the first label is read as "correct", the others as opposites."""
        started = self._started()
        shares = np.array([self._correct_share(prompt) for prompt in prompts])
        chances = np.empty((len(prompts), len(labels)))
        chances[:, :1] = shares[:, None]
        chances[:, 1:] = (1.0 - shares[:, None]) / max(1, len(labels) - 1)
        behind = sum(max(0, len(label) - 1) for label in labels)  # what the last token is, is read from none
        self._usage.read(sum(map(len, prompts)) + len(prompts) * behind)
        self._usage.seconds += time.perf_counter() - started
        return np.log(chances)

    def _correct_share(self, prompt: str) -> float:
        right = is_right(prompt)
        side, strength = hash_uniforms(prompt)
        if right is None:
            return 0.05 + 0.9 * side
        leans_right = side < self.skill.verifier_accuracy
        share = 0.55 + 0.4 * strength
        return share if leans_right == right else 1.0 - share

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`; a text outside the script gets `UNKNOWN_LOGPROB`."""
        started = self._started()
        scores = [self._logprob(p, c) for p, c in zip(prompts, completions, strict=True)]
        self._usage.read(sum(map(len, prompts)) + sum(max(0, len(c) - 1) for c in completions))
        self._usage.seconds += time.perf_counter() - started
        return np.array(scores, dtype=np.float64), np.array([len(c) for c in completions], dtype=np.int64)

    def _logprob(self, prompt: str, completion: str) -> float:
        texts, weights = self.distribution(prompt)
        chance = sum(w for text, w in zip(texts, weights, strict=True) if text == completion)
        return math.log(chance) if chance > 0 else UNKNOWN_LOGPROB if completion else 0.0

    def distribution(self, prompt: str) -> tuple[list[str], np.ndarray]:
        """Completions the policy may give to a prompt, and their probabilities; shape (num_completions,)."""
        if prompt in self._script:
            weights = np.array(list(self._script[prompt].values()), dtype=np.float64)
            return list(self._script[prompt]), weights / weights.sum()
        grids = [cells(found) for found in GRID.findall(prompt)]
        if not grids or "_" not in grids[-1]:
            return list(UNSCRIPTED_ANSWERS), np.full(len(UNSCRIPTED_ANSWERS), 1 / len(UNSCRIPTED_ANSWERS))
        right, wrong = answers(grids[-1])
        chances = [self.skill.skill, *[(1 - self.skill.skill) / len(wrong)] * len(wrong)]
        return [right, *wrong], np.maximum(chances, 1e-12)

    def usage(self) -> Usage:
        """See `Engine.usage`."""
        return replace(self._usage)

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _started(self) -> float:
        if self._closed:
            raise EngineError("the scripted engine is closed")
        return time.perf_counter()


def read_policy_file(folder: Path) -> dict[str, Any]:
    """The fields of `scripted_policy.json`; none where a folder has no such file.

    Raises:
        EngineError: If the folder is missing, or the file is no object of known fields.
    """
    if not folder.is_dir():
        raise EngineError(f"{folder}: no such checkpoint folder")
    file = folder / POLICY_FILE
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{file}: not JSON: {error}") from error
    known = {"skill", "verifier_accuracy", "script"}
    if not isinstance(fields, dict) or set(fields) - known:
        raise EngineError(f"{file}: expected an object with {', '.join(sorted(known))}")
    return fields


def truncated(weights: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """Weights of whole completions after temperature, top-k and top-p, as an engine does it with tokens.

    Examples:
        >>> truncated(np.array([0.6, 0.3, 0.1]), SamplingParams(top_p=0.7)).tolist()
        [0.6, 0.3, 0.0]
        >>> truncated(np.array([0.6, 0.3, 0.1]), SamplingParams(temperature=0.0)).tolist()
        [1.0, 0.0, 0.0]
    """
    if sampling.temperature == 0.0:
        return np.eye(len(weights))[weights.argmax()]
    if sampling.temperature != 1.0:
        with np.errstate(divide="ignore"):  # a weight of 0 stays 0
            logits = np.log(weights) / sampling.temperature
        weights = np.exp(logits - logits.max())
        weights = weights / weights.sum()
    order = np.argsort(-weights, kind="stable")
    above = np.cumsum(weights[order]) - weights[order]
    keep = above < sampling.top_p
    if sampling.top_k > 0:
        keep &= np.arange(len(weights)) < sampling.top_k
    return np.where(np.isin(np.arange(len(weights)), order[keep]), weights, 0.0)


def finished(text: str, logprob: float, sampling: SamplingParams) -> Completion:
    """A completion cut where a stop string or the limit ends it.

    Examples:
        >>> finished("12\\n34", -0.5, SamplingParams(stop=("\\n",)))
        Completion(text='12', num_tokens=3, logprob=-0.5, finish_reason='stop')
        >>> finished("12\\n34", -0.5, SamplingParams(max_tokens=4))
        Completion(text='12\\n3', num_tokens=4, logprob=-0.5, finish_reason='length')
    """
    ends = [(found + len(string), found) for string in sampling.stop if (found := text.find(string)) >= 0]
    num_tokens, length = min(ends, default=(len(text) + 1, len(text)))
    if num_tokens > sampling.max_tokens:
        return Completion(text[: sampling.max_tokens], sampling.max_tokens, logprob, "length")
    return Completion(text[:length], num_tokens, logprob, "stop")


def cells(text: str) -> str:
    """The 16 cells of a matched grid.

    Examples:
        >>> cells("1 _ 3 4|3 4 1 2|2 1 4 3|4 3 2 1")
        '1_34341221434321'
    """
    return re.sub(r"[^1-4_]", "", text)


@cache
def all_solutions() -> tuple[str, ...]:
    """The 288 valid grids.

    Examples:
        >>> len(all_solutions()), all_solutions()[0]
        (288, '1234341221434321')
    """
    rows = ["".join(row) for row in permutations("1234")]
    bands = [
        (upper, lower) for upper, lower in product(rows, repeat=2) if not set(upper[:2]) & set(lower[:2])
    ]
    return tuple(
        "".join(top + bottom)
        for top, bottom in product(bands, repeat=2)
        if all(len(set(column)) == 4 for column in zip(*top, *bottom, strict=True))
    )


def fits(puzzle: str, grid: str) -> bool:
    """Whether a full grid keeps the clues of a puzzle."""
    return all(clue in ("_", cell) for clue, cell in zip(puzzle, grid, strict=True))


def answers(puzzle: str) -> tuple[str, list[str]]:
    """One right answer to a puzzle, and every wrong one that differs from it in one blank cell."""
    right = next((grid for grid in all_solutions() if fits(puzzle, grid)), puzzle.replace("_", "1"))
    blanks = [index for index, clue in enumerate(puzzle) if clue == "_"]
    wrong = [
        right[:index] + digit + right[index + 1 :]
        for index in blanks
        for digit in "1234"
        if digit != right[index]
    ]
    return right, wrong


def is_right(prompt: str) -> bool | None:
    """Whether the last puzzle of a verification prompt is solved by the text behind it.

    Returns:
        `None` where the prompt holds no puzzle with blanks. An answer that is no full grid is wrong.
    """
    found: Iterator[re.Match[str]] = GRID.finditer(prompt)
    grids = [cells(match.group()) for match in found]
    puzzles = [index for index, grid in enumerate(grids) if "_" in grid]
    if not puzzles:
        return None
    behind = grids[puzzles[-1] + 1 :]
    return bool(behind) and behind[-1] in all_solutions() and fits(grids[puzzles[-1]], behind[-1])


def hash_uniforms(text: str) -> tuple[float, float]:
    """Two numbers in [0, 1) fixed by a text."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:], "big") / 2**64
