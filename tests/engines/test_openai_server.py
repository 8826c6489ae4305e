"""What the OpenAI engine reads from a server, and how it bears with one that refuses, waits or is gone."""

import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from engines.completions_server import CompletionsServer

from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.registry import open_engine
from si_dagster.stages.generations import generation_chunks, missing_prompts
from si_dagster.store.layout import Address

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["?1_3_A", "?__43_12A", "?", "?1_3_B"])]
SAMPLING = SamplingParams(n=2, max_tokens=8)


@pytest.fixture
def told(server):
    """The server, as new before and after."""
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def engine(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, patience=5)
    yield engine
    engine.close()


def test_numbers_are_the_policys(engine, transformers_engine):
    greedy = SamplingParams(n=2, temperature=0.0, max_tokens=30)
    for ours, theirs in zip(
        engine.generate(PROMPTS, greedy), transformers_engine.generate(PROMPTS, greedy), strict=True
    ):
        assert [(c.text, c.num_tokens) for c in ours] == [(c.text, c.num_tokens) for c in theirs]
        assert [c.logprob for c in ours] == pytest.approx([c.logprob for c in theirs], abs=1e-4)
    prompts, labels = [p.text for p in PROMPTS], ["Y", "N", " incorrect"]
    np.testing.assert_allclose(
        engine.label_logprobs(prompts, labels), transformers_engine.label_logprobs(prompts, labels), atol=1e-3
    )
    completions = ["12", "", "3", "a longer text"]
    for ours, theirs in zip(
        engine.sequence_logprobs(prompts, completions),
        transformers_engine.sequence_logprobs(prompts, completions),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_echoed_prompts_go_in_sorted(told, engine):
    engine.label_logprobs([f"{q}{'=' * 9}{a}:" for a in "312" for q in "213"], ["Y", "N"])
    sent = told.asked[-1][2]["prompt"]
    assert len(sent) == 18
    assert sent == sorted(sent)


def test_cache_hits_the_server_tells_of_are_counted(told, engine):
    told.usage = {"prompt_tokens": 6, "prompt_tokens_details": {"cached_tokens": 4}}
    engine.generate(PROMPTS[:1], SAMPLING)  # 6 tokens
    engine.label_logprobs(["?1_3_A"] * 2, ["12", "7"])  # 8 + 7 tokens in one request, and the same again
    usage = engine.usage()
    assert usage.prompt_tokens == 6 + 2 * (8 + 7)
    assert usage.cached_tokens == 4 + 4 + (8 + 7)


@pytest.mark.parametrize(
    "headers", [{"retry-after-ms": "400"}, {"Retry-After": "0.4"}, {"x-ratelimit-reset-tokens": "400ms"}]
)
def test_a_pause_the_server_asks_for_is_kept_by_all_threads(told, engine, headers):
    spent = {"x-ratelimit-remaining-tokens": "0"} if "x-ratelimit-reset-tokens" in headers else {}
    told.refusals = [(429, {"error": {"message": "slow down"}}, {**headers, **spent})]
    assert len(engine.generate(PROMPTS[:1], SAMPLING)[0]) == 2
    first, second = (time for time, *_ in told.asked)
    assert second - first >= 0.4
    told.refusals = [(429, {}, headers | spent)]
    engine.generate(PROMPTS, SAMPLING)
    assert len(told.asked) == 2 + 1 + len(PROMPTS)


def test_an_answer_that_spends_the_last_request_delays_the_next(told, engine):
    told.headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0.3s"}
    engine.generate(PROMPTS[:1], SAMPLING)
    engine.generate(PROMPTS[:1], SAMPLING)
    first, second = (time for time, *_ in told.asked)
    assert second - first >= 0.3


def test_what_may_pass_is_tried_again_and_what_may_not_is_told(told, engine):
    told.refusals = [
        (503, {"error": "loading"}, {"retry-after-ms": "1"}),
        (500, "oops", {"retry-after-ms": "1"}),
    ]
    assert engine.generate(PROMPTS[:1], SAMPLING)
    assert len(told.asked) == 3
    for status, content, said in (
        (404, {"error": {"message": "no such model"}}, "404: no such model; check base_url"),
        (400, {"message": "bad seed"}, "400: bad seed"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "quota of this key is used up"),
    ):
        told.reset()
        told.refusals = [(status, content, {})]
        with pytest.raises(EngineError, match=said):
            engine.generate(PROMPTS[:1], SAMPLING)
        assert len(told.asked) == 1


def test_a_server_that_lets_one_through_at_a_time_is_kept_busy(told, checkpoint):
    """For three times the patience, which counts no pause that the server asked for."""
    engine = open_engine("openai", checkpoint, base_url=told.base_url, max_concurrency=16, patience=0.5)
    told.every = 0.1
    started = time.monotonic()
    assert len(engine.generate(PROMPTS * 4, SAMPLING)) == 16
    assert time.monotonic() - started >= 1.5
    # 16 at once, of which one is answered; each of the others is put off once more at most, but for a slip.
    assert len(told.asked) <= 16 + 2 * 15 + 5


def test_pauses_longer_than_the_patience(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, patience=0.2)
    told.every = 0.5
    assert len(engine.generate(PROMPTS[:3], SAMPLING)) == 3
    told.every = 0.0
    told.refusals = [(429, {}, {"Retry-After": "0.5"}), (500, "oops", {"retry-after-ms": "0"})]
    assert engine.generate(PROMPTS[:1], SAMPLING)


def test_a_server_that_puts_everyone_off_is_left(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, max_concurrency=4, patience=0.4)
    told.refusal = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"429: slow down; lower max_concurrency \(4\)") as refused:
        engine.generate(PROMPTS, SAMPLING)
    assert "start the server" not in str(refused.value)
    assert time.monotonic() - started >= 0.3 + 0.4
    told.refusal = (503, "loading", {})
    with pytest.raises(EngineError, match=r"no other answer within .* status 503: loading") as failed:
        engine.generate(PROMPTS[:1], SAMPLING)
    assert not any(advice in str(failed.value) for advice in ("start the server", "max_concurrency"))


def test_a_request_that_always_fails_is_given_up_while_others_are_answered(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, max_concurrency=2, patience=0.2)
    engine.generate(PROMPTS[:1], SAMPLING)
    told.refusal, told.refused_prompt = (500, "oops", {}), told.asked[0][2]["prompt"]
    told.delay = 0.05
    with pytest.raises(EngineError, match="status 500: oops"):
        engine.generate(PROMPTS[:1] + PROMPTS[1:] * 100, SAMPLING)
    assert len(told.asked) < 200


@pytest.mark.parametrize("past", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_no_pause_and_a_date_that_is_past_leave_the_backoff(told, checkpoint, past):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, patience=1)
    told.refusal = (429, {}, {"Retry-After": past})
    with pytest.raises(EngineError, match="429"):
        engine.generate(PROMPTS[:1], SAMPLING)
    assert len(told.asked) < 12  # waits of up to .5, 1, 2 s; without them there are dozens


def test_after_a_failure_nothing_more_is_sent(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, max_concurrency=1)
    told.refusals = [(400, {"message": "no"}, {})]
    with pytest.raises(EngineError, match="no"):
        engine.generate(PROMPTS * 20, SAMPLING)
    assert len(told.asked) < 5


def test_the_key_comes_from_the_environment_and_is_told_to_nobody(told, checkpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-one")
    engine = open_engine("openai", checkpoint, base_url=told.base_url, api_key_env="MY_KEY")
    engine.generate(PROMPTS[:1], SAMPLING)
    assert told.asked[-1][1]["Authorization"] == "Bearer secret-one"
    told.refusals = [(401, {"error": {"message": "who are you"}}, {})]
    with pytest.raises(EngineError, match="MY_KEY") as refused:
        engine.generate(PROMPTS[:1], SAMPLING)
    assert "secret-one" not in str(refused.value)


def test_without_a_key_none_is_sent(told, engine, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    engine.generate(PROMPTS[:1], SAMPLING)
    assert "Authorization" not in told.asked[-1][1]


def test_concurrency_is_bounded_and_used(told, checkpoint):
    engine = open_engine("openai", checkpoint, base_url=told.base_url, max_concurrency=3)
    told.delay = 0.05
    engine.generate(PROMPTS * 4, SAMPLING)
    assert told.busiest == 3


def test_a_server_that_is_gone(checkpoint):
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1.*start the server again"):
        open_engine("openai", checkpoint, base_url="http://127.0.0.1:9/v1", patience=0.2)
    with pytest.raises(EngineError, match="give the server's"):
        open_engine("openai", checkpoint, base_url="127.0.0.1:9")


def test_a_server_that_went_in_the_middle_and_came_back(checkpoint, transformers_engine):
    """The stage keeps its whole chunks, says what to do, and asks only for the others."""
    prompts = pl.DataFrame(
        {"prompt_id": [f"p{i}" for i in range(10)], "prompt": [f"?{i}_A" for i in range(10)]}
    )
    address = Address("study", 0, "generations", "policy", "task", "eval")

    def chunks(left: pl.DataFrame) -> Iterator[pl.DataFrame]:
        return generation_chunks(left, engine, SAMPLING, address, chunk_prompts=2)

    with CompletionsServer(checkpoint, transformers_engine) as first:
        engine = open_engine("openai", checkpoint, base_url=first.base_url, patience=0.3)
        unbroken = pl.concat(chunks(prompts))
        broken = chunks(prompts)
        kept = pl.concat([next(broken), next(broken)])
    with pytest.raises(EngineError, match="start the server again"):
        next(broken)
    with CompletionsServer(checkpoint, transformers_engine, first.port) as second:
        left = missing_prompts(prompts, kept["prompt_id"].unique().to_list())
        resumed = pl.concat(chunks(left))
        assert len(second.asked) == 6
    together = pl.concat([kept, resumed]).sort("generation_id")
    assert together["completion"].to_list() == unbroken.sort("generation_id")["completion"].to_list()


def test_a_server_that_cannot_echo_says_what_to_do(told, engine):
    told.echoes = False
    assert engine.generate(PROMPTS[:1], SAMPLING)
    with pytest.raises(EngineError, match="does not echo prompts"):
        engine.label_logprobs(["?"], ["Y", "N"])


def test_another_policy_is_refused_unless_vouched_for(told, checkpoint, wide_checkpoint):
    with pytest.raises(EngineError, match=f"serves policy, and none .*run `vllm serve {wide_checkpoint}`"):
        open_engine("openai", wide_checkpoint, base_url=told.base_url)
    told.root = "some/hub-name"
    with pytest.raises(EngineError, match="vouched"):
        open_engine("openai", checkpoint, base_url=told.base_url)
    vouched = open_engine("openai", checkpoint, base_url=told.base_url, vouched=True)
    assert vouched.generate(PROMPTS[:1], SAMPLING)
