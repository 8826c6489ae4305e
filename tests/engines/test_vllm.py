"""What the vLLM engine computes, against the transformers engine, and how its process ends."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psutil
import pytest

from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.registry import open_engine
from si_dagster.engines.replicas import EngineReplicas

pytestmark = pytest.mark.vllm

PROMPTS = [
    Prompt(f"p{i}", text)
    for i, text in enumerate(["?1_3_A", "?__43_12A", "?", "?1_3_B", "hello\nyou", "few-shot " * 7])
]
SMALL = {"max_num_seqs": 64, "kv_cache_bytes": 2**26, "num_threads": 1}
GREEDY = SamplingParams(temperature=0.0, max_tokens=40)


@pytest.fixture(scope="module")
def reference(gathered_checkpoint):
    engine = open_engine("transformers", gathered_checkpoint, device="cpu", num_threads=1)
    yield engine
    engine.close()


def test_greedy_equals_transformers_token_for_token(vllm_engine, reference):
    sampling = SamplingParams(n=2, temperature=0.0, max_tokens=40)
    rows = vllm_engine.generate(PROMPTS, sampling), reference.generate(PROMPTS, sampling)
    for ours, theirs in zip(*rows, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine.text, mine.num_tokens, mine.finish_reason) == (
                other.text,
                other.num_tokens,
                other.finish_reason,
            )
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_label_logprobs_equal_transformers(vllm_engine, reference):
    prompts = [f"{shots}V{q}={a}:" for shots in ("", "few-shot " * 6) for q in "123" for a in ("4", "12", "")]
    labels = ["Y", "N", "correct", "incorrect", " no\n"]
    ours, theirs = (engine.label_logprobs(prompts, labels) for engine in (vllm_engine, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_sequence_logprobs_equal_transformers(vllm_engine, reference):
    prompts = ["?1_3_A", "?1_3_A", "?1_3_A", "?__43_12A", "x", "few-shot " * 6]
    completions = ["1234", "", "1", "4", "a longer text\nof two lines", "1234" * 4]
    ours, theirs = (engine.sequence_logprobs(prompts, completions) for engine in (vllm_engine, reference))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    assert ours[1].tolist() == theirs[1].tolist()


def test_logprob_of_a_draw_is_the_policys_own(vllm_engine, reference):
    """Temperature 1 and no truncation, whatever was drawn with."""
    sampling = SamplingParams(n=8, temperature=0.5, top_p=0.9, max_tokens=12, seed=5)
    pairs = [
        (prompt.text, completion)
        for prompt, row in zip(PROMPTS, vllm_engine.generate(PROMPTS, sampling), strict=True)
        for completion in row
        # A special token that was drawn does not show in the text.
        if completion.finish_reason == "length" and len(completion.text) == completion.num_tokens
    ]
    assert len(pairs) > 10
    expected, _ = reference.sequence_logprobs([p for p, _ in pairs], [c.text for _, c in pairs])
    np.testing.assert_allclose([c.logprob for _, c in pairs], expected, atol=1e-3)


def test_a_shared_beginning_is_read_from_the_cache(vllm_engine):
    before = vllm_engine.usage()
    prompts = [f"{'another few-shot ' * 4}{q}:" for q in range(8)]  # 70 tokens: two whole blocks of 32
    vllm_engine.label_logprobs(prompts, ["Y", "N"])
    after = vllm_engine.usage()
    assert after.cached_tokens - before.cached_tokens >= 7 * 64
    assert after.num_parameters == before.num_parameters > 10_000


def test_requests_go_in_sorted_so_that_neighbours_begin_alike(vllm_engine):
    before = vllm_engine.usage()
    texts = [f"{q}{' beginning' * 7}{a}" for a in range(8) for q in range(4)]  # no neighbours begin alike
    prompts = [Prompt(text, text) for text in texts]  # 72 tokens: two whole blocks of 32
    vllm_engine.generate(prompts, SamplingParams(n=2, max_tokens=2))
    assert vllm_engine.usage().cached_tokens - before.cached_tokens >= 4 * 7 * 64


def test_samples_of_one_prompt_do_not_count_it_as_cached(vllm_engine):
    """Each finds the prompt that the first has read; that one had to be read."""
    before = vllm_engine.usage()
    vllm_engine.generate([Prompt("p", "never seen " * 7)], SamplingParams(n=8, max_tokens=4))
    after = vllm_engine.usage()
    assert after.prompt_tokens - before.prompt_tokens == 77
    assert after.cached_tokens == before.cached_tokens


def test_context_window(vllm_engine):
    rows = vllm_engine.generate([Prompt("long", "1" * 90)], SamplingParams(n=4, max_tokens=200, seed=1))
    assert {c.num_tokens for c in rows[0] if c.finish_reason == "length"} <= {6}
    with pytest.raises(EngineError, match="96 tokens"):
        vllm_engine.generate([Prompt("p", "1" * 96)], SamplingParams())
    with pytest.raises(EngineError, match="context window"):
        vllm_engine.sequence_logprobs(["1" * 50], ["1" * 48])


def test_what_cannot_be_served_says_what_to_change(checkpoint, wide_checkpoint):
    wanted = {
        r"heads have size 16.*transformers engine": (checkpoint, {}),
        "dtype 'int8' is none of": (wide_checkpoint, {"dtype": "int8"}),
        "device 'cuda': the installed vLLM runs on cpu": (wide_checkpoint, {"device": "cuda"}),
    }
    with ThreadPoolExecutor() as threads:
        refused = {words: threads.submit(EngineProcess, "vllm", *asked) for words, asked in wanted.items()}
    for words, engine in refused.items():
        with pytest.raises(EngineError, match=words):
            engine.result()


def test_two_engines_draw_as_one(vllm_engine, gathered_checkpoint):
    sampling = SamplingParams(n=6, max_tokens=20, seed=3)
    with closing(EngineReplicas("vllm", gathered_checkpoint, SMALL, data_parallel_size=2)) as two:
        for asked in (sampling, GREEDY):
            ours, theirs = (engine.generate(PROMPTS, asked) for engine in (two, vllm_engine))
            assert [[c.text for c in row] for row in ours] == [[c.text for c in row] for row in theirs]
        assert min(engine.usage().completion_tokens for engine in two._engines) > 0
        scores = [engine.label_logprobs([p.text for p in PROMPTS], "YN") for engine in (two, vllm_engine)]
        np.testing.assert_allclose(*scores, atol=1e-4)


def test_two_ranks_compute_what_one_computes(vllm_engine, gathered_checkpoint):
    with closing(EngineProcess("vllm", gathered_checkpoint, {**SMALL, "tensor_parallel_size": 2})) as two:
        ours, theirs = (engine.generate(PROMPTS, GREEDY) for engine in (two, vllm_engine))
        assert [[c.text for c in row] for row in ours] == [[c.text for c in row] for row in theirs]
        labels = ["Y", "N", " no\n"]
        scores = [engine.label_logprobs([p.text for p in PROMPTS], labels) for engine in (two, vllm_engine)]
        np.testing.assert_allclose(*scores, atol=1e-3)
        ranks = [p for p in psutil.Process(two.pid).children(recursive=True) if p.memory_info().rss > 2**28]
        assert len(ranks) == 2
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


# The last: it kills the engine that all share, for another takes half a minute to start.
def test_an_engine_killed_while_it_draws(vllm_engine):
    assert psutil.Process(vllm_engine.pid).memory_info().rss > 2**28
    threading.Timer(1.0, os.kill, (vllm_engine.pid, signal.SIGKILL)).start()
    prompts = [Prompt(str(i), "?1_3_A") for i in range(2000)]
    with pytest.raises(EngineError, match=r"SIGKILL \(out of memory\?"):
        vllm_engine.generate(prompts, SamplingParams(n=64, max_tokens=80))
    vllm_engine.close()
    assert not psutil.pid_exists(vllm_engine.pid)
