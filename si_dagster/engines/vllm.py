"""The engine over vLLM, offline: continuous batching, paged keys and values, tensor parallelism.

`n` completions are one request, prefixes are cached, requests go in sorted by their tokens. Tokens are made
and read by `TokenCodec` as in the transformers engine, so that greedy completions and label log-probabilities
are the same up to rounding. vLLM itself is imported when an engine is opened: the rest of the package works
without it. What it does not do: share draws with the transformers engine (vLLM has a random stream of its own
for each request), data parallelism inside one engine (`data_parallel_size` of the resource starts several
engines) or chat templates.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from si_dagster.engines.base import Completion, EngineError, Prompt, SamplingParams, Usage
from si_dagster.engines.prefixes import shared_lengths
from si_dagster.engines.streams import request_seed
from si_dagster.engines.tokens import TokenCodec, cut_at_stop, decoded_texts, distinct, end_tokens
from si_dagster.engines.vllm_setup import Setup, explained, opened, prepared_platform


class VllmEngine:
    """One policy served by vLLM.

    Args:
        path: Checkpoint folder, or the name of a model on the Hugging Face hub.
        device: `auto` (what the installed vLLM is built for), `cpu` or `cuda`.
        dtype: `auto` (float32 on CPU, bfloat16 on CUDA) or the name of a torch type.
        tensor_parallel_size: GPUs that share the layers of the policy.
        max_num_seqs: Completions drawn at once; `None`: by the number of parameters.
        max_num_batched_tokens: Tokens of one forward pass; `None`: vLLM's default.
        max_model_len: Most tokens of prompt and completion; `None`: the context window of the checkpoint,
            or on CPU what the cache holds.
        gpu_memory_utilization: Share of a GPU's memory for weights, activations, keys and values.
        kv_cache_bytes: Memory for keys and values; `None`: 1 GiB on CPU, by `gpu_memory_utilization` on CUDA.
        enforce_eager: Neither compilation nor CUDA graphs; `None`: on CPU only.
        num_threads: CPU threads; `None` leaves vLLM's default, which binds one to each core.
        trust_remote_code: Whether to run model code that lies in the checkpoint.

    Raises:
        EngineError: If vLLM is missing or cannot serve this checkpoint here; says what to change.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        kv_cache_bytes: int | None = None,
        enforce_eager: bool | None = None,
        num_threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.path = str(path)
        place = prepared_platform(device, num_threads)
        setup = Setup.of(self.path, place, dtype, kv_cache_bytes, max_model_len, trust_remote_code)
        setup.check_fit(tensor_parallel_size)
        eager = setup.is_cpu if enforce_eager is None else enforce_eager
        options = {
            **setup.options(max_num_seqs, max_num_batched_tokens),
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "enforce_eager": eager,
            "trust_remote_code": trust_remote_code,
        }
        self._llm: Any = opened(self.path, options)
        self._tokenizer = self._llm.get_tokenizer()
        self._codec = TokenCodec(self._tokenizer, setup.window, self.path)
        self._ends = end_tokens(setup.generation_config, self._tokenizer)
        gpus = 0 if setup.is_cpu else tensor_parallel_size
        self._usage = Usage(
            num_parameters=setup.num_parameters,
            num_gpus=gpus,
            peak_gpu_memory_bytes=None if gpus > 1 else 0,  # ranks have processes of their own
        )

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`; completions also end where the context window does (`length`).

        A greedy completion is asked for once and repeated: vLLM refuses more, and they are equal.
        """
        with self._call():
            texts = self._codec.encode([prompt.text for prompt in prompts], room=1)
            requests = [
                (ids, self._sampling(sampling, prompt.key, len(ids)))
                for prompt, ids in zip(prompts, texts, strict=True)
            ]
            rows = [self._completions(output, sampling) for output in self._answers(requests)]
            self._usage.completion_tokens += sum(c.num_tokens for row in rows for c in row)
            return rows

    def _sampling(self, sampling: SamplingParams, key: str, length: int) -> dict[str, Any]:
        greedy = sampling.temperature == 0.0
        return {
            "n": 1 if greedy else sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": min(sampling.max_tokens, self._codec.context_window - length),
            "stop": list(sampling.stop) or None,
            "stop_token_ids": self._ends,
            "seed": None if greedy else request_seed(sampling.seed, key),
            "logprobs": 0,
            "flat_logprobs": True,
            "detokenize": bool(sampling.stop),  # else texts are decoded all at once, behind
        }

    def _completions(self, output: Any, sampling: SamplingParams) -> list[Completion]:
        drawn = sorted(output.outputs, key=lambda one: one.index)
        texts = decoded_texts(self._tokenizer, [list(one.token_ids) for one in drawn])
        completions = []
        for text, one in zip(texts, drawn, strict=True):
            if one.finish_reason not in ("stop", "length"):
                raise EngineError(f"{self.path}: vLLM ended a completion with {one.finish_reason!r}")
            cut = cut_at_stop(text, sampling.stop)
            logprob = float(one.cumulative_logprob)
            completions.append(Completion(cut, len(one.token_ids), logprob, one.finish_reason))
        return completions * (sampling.n // len(completions))

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`; labels of one token cost one request a prompt.

        Longer ones cost a request for each of their beginnings, which read the prompt from the cache.
        """
        with self._call():
            texts, scores = self._codec.encode(prompts, room=0), np.zeros((len(prompts), len(labels)))
            if not prompts or not labels:
                return scores
            unique, row = distinct(texts)
            first = np.unique(row, return_index=True)[1]
            targets = [
                [self._codec.continuation(prompts[int(index)], label).tolist() for label in labels]
                for index in first
            ]
            longest = max(len(ids) for of_prompt in targets for ids in of_prompt)
            self._codec.check_window(max(len(ids) for ids in unique), longest)
            of_unique = self._label_rows(unique, targets)
            repeated = sum(len(ids) for ids in texts) - sum(len(ids) for ids in unique)
            self._usage.read(repeated, repeated)
            return of_unique[row]

    def _label_rows(
        self, texts: Sequence[np.ndarray], targets: Sequence[Sequence[Sequence[int]]]
    ) -> np.ndarray:
        followers = [following_tokens(of_prompt) for of_prompt in targets]
        places = [(row, beginning) for row, found in enumerate(followers) for beginning in found]
        requests = [
            (np.append(texts[row], beginning).astype(np.int64), next_token_params(followers[row][beginning]))
            for row, beginning in places
        ]
        logprobs: dict[tuple[int, ...], float] = {
            (row, *beginning, token): found.logprob
            for (row, beginning), output in zip(places, self._answers(requests), strict=True)
            for token, found in output.outputs[0].logprobs[0].items()
        }
        return np.array(
            [
                [sum(logprobs[(row, *ids[: i + 1])] for i in range(len(ids))) for ids in of_prompt]
                for row, of_prompt in enumerate(targets)
            ],
            dtype=np.float64,
        )

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`; an end token is not part of a completion's text and not counted.

        The last token is asked for as a label is, the others as log-probabilities of the prompt, for which
        vLLM reads the whole text anew.
        """
        with self._call():
            texts = self._codec.encode(prompts, room=0)
            ids = [self._codec.continuation(p, c) for p, c in zip(prompts, completions, strict=True)]
            counts, scores = np.array([len(tokens) for tokens in ids], dtype=np.int64), np.zeros(len(texts))
            asked = np.flatnonzero(counts)
            if len(asked):
                self._codec.check_window(max(len(texts[i]) + len(ids[i]) for i in asked), 0)
                requests = [
                    (
                        np.concatenate([texts[i], ids[i][:-1]]),
                        next_token_params([int(ids[i][-1])], of_prompt=len(ids[i]) > 1),
                    )
                    for i in asked
                ]
                outputs = self._answers(requests)
                scores[asked] = [summed(output, ids[i]) for i, output in zip(asked, outputs, strict=True)]
            return scores, counts

    def usage(self) -> Usage:
        """See `Engine.usage`; cached tokens are those vLLM reports.

        Of the `n` completions of a prompt it reports the one that ends last, which finds the prompt read. So
        no more is counted as cached than the prompt shares with its neighbour, and that the others read the
        prompt's last block again is not counted.
        """
        return replace(self._usage)

    def close(self) -> None:
        """End the workers of vLLM; memory of this process goes with it."""
        if self._llm is not None:
            llm, self._llm = self._llm, None
            llm.llm_engine.engine_core.shutdown()

    def _answers(self, requests: Sequence[tuple[np.ndarray, Mapping[str, Any]]]) -> list[Any]:
        """VLLM's outputs in the order of the requests, which go in sorted by their tokens."""
        from vllm import SamplingParams as Params  # pyright: ignore
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore

        order = sorted(range(len(requests)), key=lambda index: requests[index][0].tolist())
        texts = [{"prompt_token_ids": requests[index][0].tolist()} for index in order]
        whole: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY}
        params = [Params(**requests[index][1], **whole) for index in order]
        outputs: list[Any] = [None] * len(requests)
        shared = with_neighbours([requests[index][0] for index in order])
        for index, output, common in zip(
            order, self._llm.generate(texts, params, use_tqdm=False), shared, strict=True
        ):
            outputs[index] = output
            cached = output.num_cached_tokens or 0
            drawn_once = requests[index][1].get("n", 1) == 1
            self._usage.read(len(requests[index][0]), cached if drawn_once else min(cached, common))
        return outputs

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Time one call; an error inside vLLM leaves its requests in disorder, so the engine is closed."""
        if self._llm is None:
            raise EngineError(f"the vllm engine of {self.path} is closed")
        started = time.perf_counter()
        try:
            yield
        except EngineError:
            raise
        except Exception as error:
            self.close()
            raise explained(error, f"{self.path}: vLLM failed while answering") from error
        finally:
            self._usage.seconds += time.perf_counter() - started


def prepare() -> None:
    """Import vLLM, with the environment that an engine without device or num_threads would set."""
    prepared_platform("auto", None)
    from vllm import LLM, SamplingParams  # noqa: F401  # pyright: ignore


def with_neighbours(sequences: Sequence[np.ndarray]) -> list[int]:
    """Tokens that each sequence has in common with the one before it; 0 for the first.

    Examples:
        >>> with_neighbours([np.array([5, 6, 7]), np.array([5, 6, 8])])
        [0, 2]
    """
    limits = np.array([len(ids) for ids in sequences], dtype=np.int64)
    return [0, *shared_lengths(sequences, limits).tolist()] if len(limits) > 1 else [0] * len(limits)


def following_tokens(labels: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """What to ask behind a prompt: for each beginning of the labels, the tokens that may follow it.

    Examples:
        " correct" is token 7, " incorrect" tokens 5 and 7:

        >>> following_tokens([[7], [5, 7]])
        {(): [7, 5], (5,): [7]}
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for ids in labels:
        for i, token in enumerate(ids):
            after = found.setdefault(tuple(ids[:i]), [])
            if token not in after:
                after.append(token)
    return found


def next_token_params(tokens: list[int], of_prompt: bool = False) -> dict[str, Any]:
    """Ask for the log-probabilities of some next tokens, and of the prompt's own tokens where wanted."""
    asked = {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": tokens, "detokenize": False}
    return {**asked, "prompt_logprobs": 0, "flat_logprobs": True} if of_prompt else asked


def summed(output: Any, ids: np.ndarray) -> float:
    """Summed log-probability of the tokens `ids`: the last is the next token, the others end the prompt."""
    last = output.outputs[0].logprobs[0][int(ids[-1])].logprob
    before = len(ids) - 1
    if not before:
        return last
    of_prompt = output.prompt_logprobs
    if of_prompt.token_ids[-before:] != ids[:-1].tolist():
        raise EngineError("vLLM gave log-probabilities of other tokens than the prompt's")
    return last + sum(of_prompt.logprobs[-before:])
