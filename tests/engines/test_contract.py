"""The contract of `Engine`, run over every engine."""

import numpy as np
import pytest

from resources.cost_meter import CostMeter
from si_dagster.engines.base import Engine, Prompt, SamplingParams

PUZZLES = ["1_3_34122143_3_1", "____3412________", "_2_43__22_434___", "12343412214343__", "_______________1"]
PROMPTS = [Prompt(f"p{i}", f"?{'0' * (i % 3)}{puzzle}A") for i, puzzle in enumerate(PUZZLES)]
SAMPLING = SamplingParams(n=4, temperature=1.0, max_tokens=20, seed=7)


def texts(rows):
    return [[completion.text for completion in row] for row in rows]


def test_order_and_number(engine: Engine):
    rows = engine.generate(PROMPTS, SAMPLING)
    assert [len(row) for row in rows] == [4] * len(PROMPTS)
    backwards = engine.generate(PROMPTS[::-1], SAMPLING)
    assert texts(backwards[::-1]) == texts(rows)


def test_a_draw_depends_on_its_key_alone(engine: Engine):
    rows = texts(engine.generate(PROMPTS, SAMPLING))
    assert texts(engine.generate(PROMPTS, SAMPLING)) == rows
    assert texts(engine.generate(PROMPTS[1:3], SAMPLING)) == rows[1:3]
    one_by_one = [texts(engine.generate([prompt], SAMPLING))[0] for prompt in PROMPTS]
    assert one_by_one == rows


def test_more_samples_and_more_tokens_change_no_earlier_draw(engine: Engine):
    rows = texts(engine.generate(PROMPTS, SAMPLING))
    more = SamplingParams(n=9, max_tokens=20, seed=7)
    assert [row[:4] for row in texts(engine.generate(PROMPTS, more))] == rows
    longer = SamplingParams(n=4, max_tokens=30, seed=7)
    for short_row, long_row in zip(rows, texts(engine.generate(PROMPTS, longer)), strict=True):
        assert all(long.startswith(short) for short, long in zip(short_row, long_row, strict=True))


def test_seed_and_key_change_the_draw(engine: Engine):
    rows = texts(engine.generate(PROMPTS, SAMPLING))
    assert texts(engine.generate(PROMPTS, SamplingParams(n=4, max_tokens=20, seed=8))) != rows
    renamed = [Prompt(f"other-{p.key}", p.text) for p in PROMPTS]
    assert texts(engine.generate(renamed, SAMPLING)) != rows


def test_equal_texts_under_two_keys_are_drawn_apart(engine: Engine):
    twins = [Prompt("a", PROMPTS[1].text), Prompt("b", PROMPTS[1].text)]
    sampling = SamplingParams(n=8, max_tokens=20, seed=1)
    first, second = texts(engine.generate(twins, sampling))
    assert first != second
    assert [second] == texts(engine.generate(twins[1:], sampling))


def test_greedy_ignores_the_seed(engine: Engine):
    greedy = [SamplingParams(n=2, temperature=0.0, max_tokens=20, seed=seed) for seed in (0, 1)]
    first, second = (texts(engine.generate(PROMPTS, sampling)) for sampling in greedy)
    assert first == second
    assert all(len(set(row)) == 1 for row in first)


def test_max_tokens_ends_with_length(engine: Engine):
    rows = engine.generate(PROMPTS, SamplingParams(n=3, temperature=0.7, max_tokens=1))
    cut = [c for row in rows for c in row if c.finish_reason == "length"]
    assert cut
    assert all(completion.num_tokens == 1 for row in rows for completion in row)


def test_stop_strings_are_cut_off(engine: Engine):
    free = texts(engine.generate(PROMPTS, SAMPLING))
    stop = next(text[2:4] for row in free for text in row if len(text) > 6)
    stopped = engine.generate(PROMPTS, SamplingParams(n=4, max_tokens=20, seed=7, stop=("\x00nowhere", stop)))
    hits = 0
    for free_row, row in zip(free, stopped, strict=True):
        for text, completion in zip(free_row, row, strict=True):
            assert completion.text == text.split(stop)[0]
            if stop in text:
                hits += 1
                assert completion.finish_reason == "stop"
                assert completion.num_tokens == text.index(stop) + len(stop)
    assert hits


def test_logprobs_are_negative_and_finite(engine: Engine):
    logprobs = [c.logprob for row in engine.generate(PROMPTS, SAMPLING) for c in row]
    assert np.isfinite(logprobs).all()
    assert max(logprobs) < 0


def test_nothing_asked_nothing_given(engine: Engine):
    assert engine.generate([], SAMPLING) == []
    assert engine.label_logprobs([], ["Y", "N"]).shape == (0, 2)
    scores, counts = engine.sequence_logprobs([], [])
    assert scores.shape == counts.shape == (0,)


def test_unicode_prompts(engine: Engine):
    prompts = [Prompt("schlüssel", "Größe 数独 🧩\nA"), Prompt("", "")]
    rows = engine.generate(prompts, SAMPLING)
    assert [len(row) for row in rows] == [4, 4]
    assert engine.label_logprobs([p.text for p in prompts], ["ü", "🧩"]).shape == (2, 2)


def test_labels_keep_order_and_do_not_depend_on_company(engine: Engine):
    prompts = [f"V{puzzle}={answer}:" for puzzle in PUZZLES for answer in ("1234341221434321", "12", "")]
    together = engine.label_logprobs(prompts, ["Y", "N"])
    assert together.shape == (len(prompts), 2)
    assert together.dtype == np.float64
    assert (together < 0).all()
    apart = np.concatenate([engine.label_logprobs([prompt], ["Y", "N"]) for prompt in prompts])
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(engine.label_logprobs(prompts[::-1], ["Y", "N"])[::-1], together, atol=1e-4)
    assert len(np.unique(together[:, 0].round(5))) > 1


def test_an_empty_completion_is_certain(engine: Engine):
    scores, counts = engine.sequence_logprobs([PROMPTS[0].text] * 2, ["", "1234341221434321"])
    assert scores[0] == 0.0
    assert scores[1] < 0.0
    assert counts.tolist() == [0, 16]


def test_usage_grows(engine: Engine):
    before = engine.usage()
    rows = engine.generate(PROMPTS, SAMPLING)
    engine.label_logprobs(["V1=1:"], ["Y", "N"])
    after = engine.usage()
    drawn = sum(c.num_tokens for row in rows for c in row)
    assert after.completion_tokens - before.completion_tokens == drawn
    read = after.prompt_tokens - before.prompt_tokens - sum(len(p.text) for p in PROMPTS)
    assert read in (5, 2 * (5 + 1)), "a prompt is read once, or echoed with each label"
    assert after.seconds > before.seconds


@pytest.mark.parametrize("asks", ["label_logprobs", "sequence_logprobs"])
def test_all_that_is_read_is_counted_and_what_was_shared_is_part_of_it(engine: Engine, tmp_path, asks):
    """Continuations of several tokens, behind prompts that share a beginning."""
    beginning = "a few shots of beginning "
    if asks == "label_logprobs":
        # Two trees of tokens that part behind the blank: 7 and 9 tokens to read, the last of each is not.
        prompts, others = [f"{beginning}{i}:" for i in range(6)], [" correct", " incorrect"]
        num_computed = 6 * (7 + 9)
    else:
        prompts, others = [f"{beginning}:"] * 6, [f"{i}1234341221434321"[:16] for i in range(6)]
        num_computed = 6 * 15
    before, meter = engine.usage(), CostMeter(engine, tmp_path / "cost.json")
    getattr(engine, asks)(prompts, others)
    after, cost = engine.usage(), meter.cost()
    read, cached = (getattr(after, n) - getattr(before, n) for n in ("prompt_tokens", "cached_tokens"))
    assert 0 <= cached <= read
    assert read >= sum(map(len, prompts)) + num_computed
    assert read - cached >= num_computed
    assert after.completion_tokens == before.completion_tokens
    assert cost["flops"] == 2 * after.num_parameters * (read - cached)
    assert cost["flops"] > 0 or not after.num_parameters


def test_is_an_engine(engine: Engine):
    assert isinstance(engine, Engine)


@pytest.mark.parametrize("top", [{"top_p": 1e-6}, {"top_k": 1}])
def test_narrow_truncation_is_greedy(engine: Engine, top):
    greedy = engine.generate(PROMPTS, SamplingParams(n=1, temperature=0.0, max_tokens=20))
    narrow = engine.generate(PROMPTS, SamplingParams(n=2, max_tokens=20, seed=3, **top))
    assert [row[0].text for row in greedy] == [row[1].text for row in narrow]
