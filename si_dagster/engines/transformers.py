"""The engine over Hugging Face transformers: any causal model that transformers can load, on CPU or one GPU.

It has a decoding loop of its own rather than `model.generate`, for two reasons: the draw of a sample must
depend on its key alone, and samples of a prompt that agree so far are one text and are computed once. What it
does not do: tensor parallelism, continuous batching, quantisation (use the vLLM engine for large policies)
or chat templates.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from si_dagster.engines.attention import share_prefixes
from si_dagster.engines.base import (
    WANT_OF_MEMORY,
    Completion,
    EngineError,
    Prompt,
    SamplingParams,
    Usage,
)
from si_dagster.engines.branches import Branches
from si_dagster.engines.checkpoints import (
    CPU_CACHE_BYTES,
    chosen_device,
    chosen_dtype,
    load_checkpoint,
    token_bytes,
)
from si_dagster.engines.decoding import StopRule, draw_samples
from si_dagster.engines.prefixes import reading_levels, run_starts, shared_lengths
from si_dagster.engines.streams import uniforms
from si_dagster.engines.tokens import TokenCodec, cut_at_stop, decoded_texts, distinct, end_tokens

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_LOGITS = 2**25
"""Most logits held at once (rows x slots x vocabulary): 128 MiB in float32, more while drawing."""


class TransformersEngine:
    """One policy served by transformers.

    Args:
        path: Checkpoint folder, or the name of a model on the Hugging Face hub.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (float32 on CPU, bfloat16 on CUDA) or the name of a torch type.
        max_batch_rows: Most texts in one forward pass.
        max_batch_tokens: Most tokens (rows x length) whose keys are held at once; `None` takes what fits
            1 GiB on CPU and half of the free memory on CUDA.
        num_threads: CPU threads of torch in this process; `None` leaves its default.
        trust_remote_code: Whether to run model code that lies in the checkpoint.

    Raises:
        EngineError: If there is no such checkpoint, it has no safetensors, or device and type do not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_rows: int = 2048,
        max_batch_tokens: int | None = None,
        num_threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.path, self.max_batch_rows = str(path), max_batch_rows
        place = chosen_device(device)
        self._model, self._tokenizer = load_checkpoint(
            self.path, place, chosen_dtype(dtype, place), trust_remote_code
        )
        share_prefixes(self._model)
        config = self._model.config.get_text_config()
        self.context_window = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self._codec = TokenCodec(self._tokenizer, self.context_window, self.path)
        self.vocab_size = int(config.vocab_size)
        self.device: torch.device = self._model.device
        self.max_batch_tokens = max_batch_tokens or affordable_tokens(config, self._model.dtype, self.device)
        self._stop_rules: dict[tuple[str, ...], StopRule] = {}
        self._usage = Usage(
            num_parameters=sum(p.numel() for p in self._model.parameters()),
            num_gpus=int(self.device.type == "cuda"),
        )

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`; completions also end where the context window does (`length`)."""
        with self._call():
            texts = self._codec.encode([prompt.text for prompt in prompts], room=1)
            order = sorted(range(len(prompts)), key=lambda index: (len(texts[index]), texts[index].tobytes()))
            samples = [(index, sample) for index in order for sample in range(sampling.n)]
            rule = self._stop_rule(sampling.stop)
            results: dict[tuple[int, int], Completion] = {}
            for batch in self._sample_batches(samples, texts, sampling):
                drawn = self._halving(batch, lambda part: self._draw(part, prompts, texts, sampling, rule))
                results.update(zip(batch, drawn, strict=True))
            self._usage.completion_tokens += sum(completion.num_tokens for completion in results.values())
            return [[results[index, sample] for sample in range(sampling.n)] for index in range(len(prompts))]

    def _sample_batches(
        self, samples: Sequence[tuple[int, int]], texts: Sequence[np.ndarray], sampling: SamplingParams
    ) -> Iterator[Sequence[tuple[int, int]]]:
        start = 0
        while start < len(samples):
            guess = len(texts[samples[min(start + self.max_batch_rows, len(samples)) - 1][0]])
            rows = self._rows(guess + sampling.max_tokens, 1)
            rows = rows // sampling.n * sampling.n or rows
            yield samples[start : start + rows]
            start += rows

    def _rows(self, length: int, slots: int) -> int:
        """Rows of a batch whose texts have `length` tokens and whose logits are kept at `slots` of them."""
        by_logits = MAX_LOGITS // (self.vocab_size * slots)
        return max(1, min(self.max_batch_rows, self.max_batch_tokens // length, by_logits))

    def _draw(
        self,
        samples: Sequence[tuple[int, int]],
        prompts: Sequence[Prompt],
        texts: Sequence[np.ndarray],
        sampling: SamplingParams,
        rule: StopRule,
    ) -> list[Completion]:
        """Completions of (prompt index, sample index) pairs, those of one text side by side."""
        unique, row = distinct([texts[index] for index, _ in samples])
        self._count_repeated([texts[index] for index in {index for index, _ in samples}], unique)
        branches = Branches(self._model)
        logits = self._read(branches, unique, np.array([len(ids) - 1 for ids in unique]))[:, -1]
        branches.share()
        limits = np.minimum(
            sampling.max_tokens, self.context_window - np.array([len(u) for u in unique])[row]
        )
        streams = [(prompts[index].key, sample) for index, sample in samples]
        numbers = uniforms(sampling.seed, streams, int(limits.max()))
        draws = draw_samples(branches, logits, row, numbers, limits, sampling, rule)
        counts = (draws.tokens >= 0).sum(axis=1)
        self._usage.extra["rows_read"] = self._usage.extra.get("rows_read", 0.0) + draws.num_rows
        decoded = self._decode(draws.tokens, counts)
        return [
            Completion(
                cut_at_stop(text, sampling.stop), int(count), float(logprob), "stop" if stopped else "length"
            )
            for text, count, logprob, stopped in zip(
                decoded, counts, draws.logprobs, draws.stopped, strict=True
            )
        ]

    def _decode(self, tokens: np.ndarray, counts: np.ndarray) -> list[str]:
        """Texts of padded token rows; equal rows are decoded once."""
        rows, texts = np.unique(tokens, axis=0, return_index=True, return_inverse=True)[1:]
        lists = [tokens[row, : counts[row]].tolist() for row in rows]
        decoded = decoded_texts(self._tokenizer, lists)
        return [decoded[index] for index in texts.reshape(-1)]

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`; equal prompts are read once, whatever the number of labels."""
        with self._call():
            texts, scores = self._codec.encode(prompts, room=0), np.zeros((len(prompts), len(labels)))
            if not prompts or not labels:
                return scores
            unique, row = distinct(texts)
            first = np.unique(row, return_index=True)[1]
            targets = [
                [self._codec.continuation(prompts[int(index)], label) for label in labels] for index in first
            ]
            longest = max(len(ids) for of_prompt in targets for ids in of_prompt)
            self._codec.check_window(max(len(ids) for ids in unique), longest - 1)
            shareable = np.array([len(ids) - 1 for ids in unique])
            of_unique = np.zeros((len(unique), len(labels)))
            for batch in self._reading_batches(unique, shareable, extra=longest - 1, slots=1):
                rows = self._halving(batch, lambda part: self._label_rows(part, unique, targets))
                of_unique[batch] = rows
            self._count_repeated(texts, unique)
            return of_unique[row]

    def _label_rows(
        self, part: Sequence[int], texts: Sequence[np.ndarray], targets: Sequence[Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        branches = Branches(self._model)
        following = self._read(
            branches, [texts[i] for i in part], np.array([len(texts[i]) - 1 for i in part])
        )
        scores = []
        for labels in zip(*[targets[i] for i in part], strict=True):
            score = gathered(following, [ids[:1] for ids in labels])
            longer = np.array([row for row, ids in enumerate(labels) if len(ids) > 1], dtype=np.int64)
            if len(longer):
                fork = branches.fork(torch.from_numpy(longer).to(self.device))
                rest = [labels[row] for row in longer]
                self._usage.read(sum(len(ids) - 1 for ids in rest))
                logits = fork.extend_ragged([ids[:-1] for ids in rest], keep=max(len(ids) for ids in rest))
                score[longer] += gathered(logits, [ids[1:] for ids in rest])
            scores.append(score)
        return list(np.stack(scores, axis=1))

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`; an end token is not part of a completion's text and not counted."""
        with self._call():
            texts = self._codec.encode(prompts, room=0)
            ids = [self._codec.continuation(p, c) for p, c in zip(prompts, completions, strict=True)]
            counts = np.array([len(tokens) for tokens in ids], dtype=np.int64)
            scores = np.zeros(len(texts))
            if not len(texts) or not counts.any():
                return scores, counts
            read = [np.concatenate([p, c[:-1]]) for p, c in zip(texts, ids, strict=True)]
            self._codec.check_window(max(len(tokens) for tokens in read), 0)
            shareable = np.array([len(tokens) - 1 for tokens in texts])
            for batch in self._reading_batches(read, shareable, extra=0, slots=int(counts.max())):
                scores[batch] = self._halving(
                    batch, lambda part: self._sequence_rows(part, read, ids, shareable)
                )
            return scores, counts

    def _sequence_rows(
        self,
        part: Sequence[int],
        read: Sequence[np.ndarray],
        ids: Sequence[np.ndarray],
        shareable: np.ndarray,
    ) -> list[float]:
        keep = max(1, *(len(ids[i]) for i in part))
        logits = self._read(Branches(self._model), [read[i] for i in part], shareable[list(part)], keep)
        return gathered(logits, [ids[i] for i in part]).tolist()

    def usage(self) -> Usage:
        """See `Engine.usage`; `extra["rows_read"]` counts decoding rows: samples that agree share one."""
        return replace(self._usage, extra=dict(self._usage.extra))

    def close(self) -> None:
        """Drop the weights."""
        if hasattr(self, "_model"):
            del self._model
            release_memory(self.device)

    def _read(
        self, branches: Branches, texts: Sequence[np.ndarray], shareable: np.ndarray, keep: int = 1
    ) -> torch.Tensor:
        """Read texts, common beginnings once; logits of the last `keep` slots: (texts, keep, vocabulary)."""
        levels = reading_levels(texts, shareable)
        asked = sum(len(ids) for ids in texts)
        self._usage.read(asked, asked - sum(len(segment) for level in levels for segment in level.segments))
        for level in levels[:-1]:
            branches.grow(level.parents, level.segments)
        return branches.grow(levels[-1].parents, levels[-1].segments, keep)

    def _count_repeated(self, texts: Sequence[np.ndarray], unique: Sequence[np.ndarray]) -> None:
        """Texts that are equal are asked for each and read once."""
        repeated = sum(len(ids) for ids in texts) - sum(len(ids) for ids in unique)
        self._usage.read(repeated, repeated)

    def _reading_batches(
        self, texts: Sequence[np.ndarray], shareable: np.ndarray, extra: int, slots: int
    ) -> Iterator[list[int]]:
        """Indices of texts read together: texts that share a beginning stay together, long runs come last."""
        order = arranged(texts, shareable)
        most = 2**14 if self.device.type == "cpu" else 2**17  # tokens a pass; beyond, a core's cache is lost
        start = 0
        while start < len(order):
            length = len(texts[order[start]])
            rows = min(self._rows(length + extra, slots), max(1, most // length))
            longest = max(len(texts[index]) for index in order[start : start + rows])
            rows = min(rows, self._rows(longest + extra, slots))
            yield order[start : start + rows]
            start += rows

    def _stop_rule(self, stop: tuple[str, ...]) -> StopRule:
        if stop not in self._stop_rules:
            eos = end_tokens(self._model.generation_config, self._tokenizer)
            self._stop_rules[stop] = StopRule(self._tokenizer, eos, self.vocab_size, stop)
        return self._stop_rules[stop]

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Time one call, without gradients."""
        if not hasattr(self, "_model"):
            raise EngineError(f"the engine of {self.path} is closed")
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._usage.seconds += time.perf_counter() - started

    def _halving(
        self, part: Sequence[Item], compute: Callable[[Sequence[Item]], list[Result]]
    ) -> list[Result]:
        """Compute a batch; where memory does not do, its two halves one after the other.

        Raises:
            EngineError: If even one row does not fit.
        """
        try:
            return compute(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise EngineError(
                    f"{self.path}: one text does not fit the memory of {self.device}: lower max_tokens, "
                    "shorten the prompts or take dtype bfloat16"
                ) from error
        # Outside the except clause: the error's traceback holds the tensors that must go first.
        release_memory(self.device)
        middle = len(part) // 2
        return self._halving(part[:middle], compute) + self._halving(part[middle:], compute)


def affordable_tokens(config: Any, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose keys and values fit the memory set aside for them."""
    budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_CACHE_BYTES
    return max(1, budget // token_bytes(config, dtype))


def arranged(texts: Sequence[np.ndarray], shareable: np.ndarray) -> list[int]:
    """An order of reading with little padding: runs that share a beginning, by their longest text."""
    if len(texts) == 1:
        return [0]
    shared = shared_lengths(texts, shareable)
    starts = run_starts(shared - shared.min())[0]
    lengths = np.array([len(ids) for ids in texts])
    longest = np.maximum.reduceat(lengths, starts)
    sizes = np.diff(np.append(starts, len(texts)))
    return np.argsort(np.repeat(longest, sizes), kind="stable").tolist()


def gathered(logits: torch.Tensor, targets: Sequence[np.ndarray]) -> np.ndarray:
    """Summed log-probability of the target tokens of each row, which end in the last slot.

    Args:
        logits: Shape (rows, slots, vocabulary).
        targets: Token ids of each row, at most `slots` of them.

    Returns:
        float64, shape (rows,); 0.0 for a row without targets.
    """
    slots = logits.shape[1]
    held = np.arange(slots)[::-1] < np.array([len(ids) for ids in targets])[:, None]
    tokens = np.zeros(held.shape, dtype=np.int64)
    tokens[held] = np.concatenate(targets)
    scores = logits.float()
    chosen = scores.gather(2, torch.from_numpy(tokens[:, :, None]).to(logits.device))[:, :, 0]
    logprobs = (chosen - scores.logsumexp(dim=-1)).double().cpu().numpy()
    return np.where(held, logprobs, 0.0).sum(axis=1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed for want of memory; its CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or bool(WANT_OF_MEMORY.search(str(error)))


def release_memory(device: torch.device) -> None:
    """Collect what was dropped and hand cached blocks back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
