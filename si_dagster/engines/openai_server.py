"""The engine over an OpenAI-compatible server: `vllm serve`, or another that has the completions API.

Prompts are sent as token ids of the checkpoint's own tokenizer, one request a prompt with its `n`, so that
completions of `vllm serve` are those of the vllm engine. Labels and sequences are read from the
log-probabilities of an echoed prompt; a server that has none cannot verify by them, and the error says so. It
does not start, update or stop a server, and refuses one that serves another policy than the stage's.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from si_dagster.engines.base import Completion, EngineError, Prompt, SamplingParams, Usage
from si_dagster.engines.http_api import HttpApi
from si_dagster.engines.streams import request_seed
from si_dagster.engines.tokens import TokenCodec, distinct, end_tokens

BATCH_PROMPTS = 32
"""Echoed prompts a request."""

VLLM_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent to vLLM, which else takes these from the checkpoint's generation config; others may not know them."""


class OpenAIEngine:
    """One policy served by somebody else.

    Args:
        path: Checkpoint folder: its tokenizer is used, and the server must hold its weights.
        base_url: Of the server, with version.
        model: Name under which the policy is served; default: the one whose `root` is this checkpoint.
        api_key_env: Environment variable that holds the key.
        max_concurrency: Requests under way at once.
        patience: Seconds for which a request that fails is tried again; one that is put off by a rate limit,
            for so long after the server last answered anyone.
        timeout: Seconds for one answer.
        vouched: You vouch that the server holds the policy of every stage, where it cannot be checked.
        trust_remote_code: Whether to run code of the checkpoint's tokenizer.

    Raises:
        EngineError: If no server answers, or it serves another policy; says what to start.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        base_url: str = "http://127.0.0.1:8000/v1",
        model: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrency: int = 32,
        patience: float = 120.0,
        timeout: float = 600.0,
        vouched: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoTokenizer

        from si_dagster.engines import checkpoints

        self.path = str(path)
        checkpoints.check_folder(self.path)
        self._api: HttpApi | None = HttpApi(base_url, api_key_env, max_concurrency, patience, timeout)
        served = served_model(self._api, Path(self.path), model, vouched)
        self._model, self._is_vllm = served["id"], served.get("owned_by") == "vllm"
        config, generation_config = checkpoints.read_configs(self.path, trust_remote_code)
        window = served.get("max_model_len") or getattr(config, "max_position_embeddings", None) or 2**31
        tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=trust_remote_code)
        self._codec = TokenCodec(tokenizer, int(window), self.path)
        self._ends = end_tokens(generation_config, tokenizer)
        self._usage = Usage(num_parameters=checkpoints.num_parameters(self.path))

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`; whether a draw depends on its key alone is the server's to keep (`seed`).

        A greedy completion is asked for once and repeated, since servers refuse more.
        """
        with self._call() as api:
            texts = self._codec.encode([prompt.text for prompt in prompts], room=1)
            bodies = [
                self._drawing(sampling, prompt.key, ids) for prompt, ids in zip(prompts, texts, strict=True)
            ]
            answers = api.each(lambda body: api.post("/completions", body), bodies)
            for ids, answer in zip(texts, answers, strict=True):
                self._usage.read(len(ids), cached_tokens(answer))
            rows = [self._drawn(answer, body["n"]) for answer, body in zip(answers, bodies, strict=True)]
            rows = [row * (sampling.n // len(row)) for row in rows]
            self._usage.completion_tokens += sum(c.num_tokens for row in rows for c in row)
            return rows

    def _drawing(self, sampling: SamplingParams, key: str, ids: np.ndarray) -> dict[str, Any]:
        greedy = sampling.temperature == 0.0
        body = {
            "model": self._model,
            "prompt": ids.tolist(),
            "n": 1 if greedy else sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_tokens, self._codec.context_window - len(ids)),
            "seed": request_seed(sampling.seed, key),
            "logprobs": 1,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
        }
        if self._is_vllm:
            body |= {**VLLM_NEUTRAL, "stop_token_ids": self._ends}
        return body | ({"top_k": sampling.top_k} if sampling.top_k > 0 else {})

    def _drawn(self, answer: Mapping[str, Any], count: int) -> list[Completion]:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        if len(choices) != count:
            raise EngineError(f"{self._where}: {len(choices)} completions for n = {count}")
        return [self._completion(choice) for choice in choices]

    def _completion(self, choice: Mapping[str, Any]) -> Completion:
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        if logprobs is None:
            raise EngineError(f"{self._where}: gives no log-probabilities of sampled tokens (logprobs)")
        if choice["finish_reason"] not in ("stop", "length"):
            raise EngineError(f"{self._where}: ended a completion with {choice['finish_reason']!r}")
        return Completion(choice["text"], len(logprobs), float(sum(logprobs)), choice["finish_reason"])

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`; every label is an echoed prompt of its own."""
        with self._call() as api:
            texts = self._codec.encode(prompts, room=0)
            targets = [[self._codec.continuation(p, label) for label in labels] for p in prompts]
            pairs = [
                (ids, label) for ids, of_prompt in zip(texts, targets, strict=True) for label in of_prompt
            ]
            return self._scores(api, pairs).reshape(len(prompts), len(labels))

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`; an end token is not part of a completion's text and not counted."""
        with self._call() as api:
            texts = self._codec.encode(prompts, room=0)
            ids = [self._codec.continuation(p, c) for p, c in zip(prompts, completions, strict=True)]
            counts = np.array([len(tokens) for tokens in ids], dtype=np.int64)
            return self._scores(api, list(zip(texts, ids, strict=True))), counts

    def _scores(self, api: HttpApi, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Summed log-probability of the second tokens behind the first; equal pairs are asked once."""
        scores = np.zeros(len(pairs))
        asked = [index for index, (_, ids) in enumerate(pairs) if len(ids)]
        if not asked:
            return scores
        texts = [np.concatenate(pairs[index]) for index in asked]
        unique, row = distinct(texts)
        self._codec.check_window(max(len(ids) for ids in unique), room=1)  # servers draw one token
        order = sorted(range(len(unique)), key=lambda index: unique[index].tolist())
        batches = [order[start : start + BATCH_PROMPTS] for start in range(0, len(order), BATCH_PROMPTS)]
        echoed: dict[int, list[float | None]] = {}
        for batch, (found, cached) in zip(
            batches,
            api.each(lambda batch: self._echoed(api, [unique[i] for i in batch]), batches),
            strict=True,
        ):
            echoed.update(zip(batch, found, strict=True))
            self._usage.read(sum(len(unique[i]) for i in batch), cached)
        repeated = sum(map(len, texts)) - sum(map(len, unique))
        self._usage.read(repeated, repeated)
        for index, place in zip(asked, row.tolist(), strict=True):
            scores[index] = sum(value or 0.0 for value in echoed[place][-len(pairs[index][1]) :])
        return scores

    def _echoed(self, api: HttpApi, texts: Sequence[np.ndarray]) -> tuple[list[list[float | None]], int]:
        """Log-probability of each token of each text given those before it, and cached tokens."""
        body = {"model": self._model, "prompt": [ids.tolist() for ids in texts], "echo": True}
        answer = api.post("/completions", {**body, "max_tokens": 0, "temperature": 0.0, "logprobs": 1})
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        found = [(choice.get("logprobs") or {}).get("token_logprobs") or [] for choice in choices]
        if [len(of_text) for of_text in found] != [len(ids) for ids in texts]:
            raise EngineError(
                f"{self._where}: does not echo prompts with log-probabilities (echo, logprobs), from which "
                "multiple choice and likelihoods are read: take a method that asks in words (cot_binary, "
                "cot_score), or serve the policy with vllm"
            )
        return found, cached_tokens(answer)

    @property
    def _where(self) -> str:
        return f"{self._model} at {self._api.base_url}" if self._api else self._model

    def usage(self) -> Usage:
        """See `Engine.usage`; seconds count waiting, GPUs of the server are not known.

        Cache hits are those the server tells of (`vllm serve --enable-prompt-tokens-details`).
        """
        return replace(self._usage)

    def close(self) -> None:
        """Send nothing more; the server stays."""
        self._api = None

    @contextmanager
    def _call(self) -> Iterator[HttpApi]:
        if self._api is None:
            raise EngineError(f"the openai engine of {self.path} is closed")
        started = time.perf_counter()
        try:
            yield self._api
        finally:
            self._usage.seconds += time.perf_counter() - started


def cached_tokens(answer: Mapping[str, Any]) -> int:
    """Prompt tokens that the server had read before, where it says so.

    Examples:
        >>> cached_tokens({"usage": {"prompt_tokens_details": {"cached_tokens": 16}}})
        16
        >>> cached_tokens({"usage": {"prompt_tokens_details": None}}), cached_tokens({})
        (0, 0)
    """
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def served_model(api: HttpApi, folder: Path, model: str, vouched: bool) -> dict[str, Any]:
    """The entry of `/models` that is the policy of that folder.

    Raises:
        EngineError: If there is none, with the command that would serve it.
    """
    entries = api.get("/models")["data"]
    named = [entry for entry in entries if model in ("", entry["id"])]
    matching = [entry for entry in named if holds(entry, folder)]
    if not matching and vouched and (model or len(named) == 1) and named:
        matching = named
    if matching:
        return matching[0]
    names = ", ".join(entry["id"] for entry in entries) or "nothing"
    raise EngineError(
        f"{api.base_url} serves {names}, and none is known to be the policy of {folder}: run "
        f"`vllm serve {folder}`, or set vouched=true (with model=NAME) if you know that it is"
    )


def holds(entry: Mapping[str, Any], folder: Path) -> bool:
    """Whether a served model was loaded from that folder, or from one with the same weights."""
    roots = [Path(name) for name in (entry.get("root"), entry["id"]) if name]
    return any(root.is_dir() and weights_digest(root) == weights_digest(folder) for root in roots)


def weights_digest(folder: Path) -> list[tuple[str, int, str]]:
    """Name, size and SHA-256 of the safetensors files."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            found.append((file.name, file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()))
    return found
