"""What TransformersEngine computes, against plain forward passes and `model.generate`."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.registry import open_engine
from si_dagster.engines.transformers import TransformersEngine

PROMPTS = [
    Prompt(f"p{i}", text) for i, text in enumerate(["?1_3_A", "?__43_12A", "?", "?1_3_B", "hello\nyou"])
]


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


def next_logprobs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def continuation_logprob(model, tokenizer, prompt, text):
    before, ids = tokenizer(prompt).input_ids, tokenizer(text).input_ids
    table = next_logprobs(model, before + ids)
    return sum(float(table[len(before) - 1 + i, token]) for i, token in enumerate(ids))


def test_greedy_equals_generate(transformers_engine, model, tokenizer):
    rows = transformers_engine.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=40))
    for prompt, row in zip(PROMPTS, rows, strict=True):
        batch = tokenizer(prompt.text, return_tensors="pt")
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=40)[0, batch.input_ids.shape[1] :]
        assert row[0].num_tokens == len(tokens)
        assert row[0].text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_logprob_equals_a_full_forward_pass(transformers_engine, model, tokenizer):
    sampling = SamplingParams(n=6, temperature=0.7, top_p=0.9, max_tokens=12, seed=5)
    ended = 0
    for prompt, row in zip(PROMPTS, transformers_engine.generate(PROMPTS, sampling), strict=True):
        for completion in row:
            text = completion.text
            if "\ufffd" in text or completion.num_tokens != len(text) + (completion.finish_reason == "stop"):
                continue  # a special token was drawn, which the text does not show
            if completion.finish_reason == "stop":
                text, ended = text + tokenizer.eos_token, ended + 1
            expected = continuation_logprob(model, tokenizer, prompt.text, text)
            assert completion.logprob == pytest.approx(expected, abs=1e-4)


def test_label_logprobs_equal_full_forward_passes(transformers_engine, model, tokenizer):
    puzzles = ["1_3_", "__43_12_21", "4"]
    answers = ["1234", "12", "", "1234" * 4, "12345"]
    prompts = [f"Few-shot text. V{puzzle}={answer}:" for puzzle in puzzles for answer in answers]
    labels = ["Y", "N", "correct", "incorrect", " no\n"]
    scores = transformers_engine.label_logprobs(prompts, labels)
    for prompt, row in zip(prompts, scores, strict=True):
        for label, score in zip(labels, row, strict=True):
            assert score == pytest.approx(continuation_logprob(model, tokenizer, prompt, label), abs=1e-4)


def test_sequence_logprobs_equal_full_forward_passes(transformers_engine, model, tokenizer):
    prompts = ["?1_3_A", "?1_3_A", "?1_3_A", "?__43_12A", "x", "?1_3_A"]
    completions = ["1234", "1243", "1", "4", "a longer text\nof two lines", "1234"]
    scores, counts = transformers_engine.sequence_logprobs(prompts, completions)
    assert counts.tolist() == [len(completion) for completion in completions]
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        assert score == pytest.approx(continuation_logprob(model, tokenizer, prompt, completion), abs=1e-4)


def first_tokens(engine, tokenizer, size, count, **sampling):
    """How often each token was drawn first, over many keys."""
    prompts = [Prompt(f"key{i}", "?1_3_A") for i in range(count // 50)]
    rows = engine.generate(prompts, SamplingParams(n=50, max_tokens=1, seed=11, **sampling))
    drawn = [c.text or tokenizer.pad_token for row in rows for c in row]
    return np.bincount([tokenizer.convert_tokens_to_ids(text) for text in drawn], minlength=size)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_follow_the_softmax(transformers_engine, model, tokenizer, temperature):
    logits = next_logprobs(model, tokenizer("?1_3_A").input_ids)[-1]
    expected = torch.softmax(logits / temperature, -1).numpy().copy()
    special = tokenizer.all_special_ids  # all decode to the empty text
    seen = first_tokens(transformers_engine, tokenizer, len(expected), 20000, temperature=temperature)
    seen[tokenizer.pad_token_id] = seen[special].sum()
    expected[tokenizer.pad_token_id] = expected[special].sum()
    others = [i for i in range(len(expected)) if i not in special or i == tokenizer.pad_token_id]
    order = sorted(others, key=lambda i: expected[i])
    rare = order[: max(2, int((expected[order].cumsum() < 5 / 20000).sum()) + 1)]
    groups = [rare, *([i] for i in order[len(rare) :])]
    seen, expected = (np.array([table[group].sum() for group in groups]) for table in (seen, expected))
    assert len(seen) > 3
    assert chisquare(seen, 20000 * expected / expected.sum()).pvalue > 1e-3


def test_top_p_and_top_k_are_respected(transformers_engine, model, tokenizer):
    probabilities = next_logprobs(model, tokenizer("?1_3_A").input_ids)[-1].exp()
    order = probabilities.argsort(descending=True)
    nucleus = order[: int((probabilities[order].cumsum(0) < 0.8).sum()) + 1].tolist()
    seen = first_tokens(transformers_engine, tokenizer, len(order), 5000, top_p=0.8)
    assert set(np.flatnonzero(seen)) <= set(nucleus)
    assert len(nucleus) > 2
    assert (seen[[token for token in nucleus if token not in tokenizer.all_special_ids]] > 0).all()
    seen = first_tokens(transformers_engine, tokenizer, len(order), 5000, top_k=2)
    assert set(np.flatnonzero(seen)) == set(order[:2].tolist())


@pytest.mark.parametrize("options", [{"max_batch_rows": 3}, {"max_batch_tokens": 70}])
def test_batch_sizes_change_nothing(transformers_engine, checkpoint, options):
    small = open_engine("transformers", checkpoint, device="cpu", num_threads=1, **options)
    sampling = SamplingParams(n=5, max_tokens=15, seed=2)
    assert [[c.text for c in row] for row in small.generate(PROMPTS, sampling)] == [
        [c.text for c in row] for row in transformers_engine.generate(PROMPTS, sampling)
    ]
    prompts = [f"{p.text}{i}" for p in PROMPTS for i in range(3)]
    labels = ["Y", "no"]
    np.testing.assert_allclose(
        small.label_logprobs(prompts, labels), transformers_engine.label_logprobs(prompts, labels), atol=1e-4
    )
    small.close()


def test_shared_beginnings_are_computed_once(checkpoint):
    engine = open_engine("transformers", checkpoint, device="cpu", num_threads=1)
    prompts = [f"{'few-shot ' * 4}V{q}{'=' * 9}{a}:" for q in range(8) for a in range(8)]
    engine.label_logprobs(prompts, ["Y", "N"])
    usage = engine.usage()
    # 64 prompts of 48 tokens; read are: the common 37 once, 8 x 10 of the questions, 64 x 2 of the answers.
    assert usage.prompt_tokens == 64 * 48 + 64
    assert usage.prompt_tokens - usage.cached_tokens <= 37 + 8 * 11 + 64 * 2
    engine.close()


def test_prompts_are_drawn_from_in_an_order_that_shares_their_beginnings(checkpoint):
    engine = open_engine("transformers", checkpoint, device="cpu", num_threads=1)
    texts = [f"{q}{' few-shot' * 4}{a}" for a in range(8) for q in range(8)]  # no neighbours begin alike
    engine.generate([Prompt(text, text) for text in texts], SamplingParams(n=1, max_tokens=1))
    usage = engine.usage()
    # 64 prompts of 38 tokens; read are: 8 beginnings of 37, and the last token of each.
    assert usage.prompt_tokens == 64 * 38
    assert usage.prompt_tokens - usage.cached_tokens == 8 * 37 + 64
    engine.close()


def test_samples_that_agree_are_one_row(checkpoint):
    engine = open_engine("transformers", checkpoint, device="cpu", num_threads=1)
    engine.generate(PROMPTS[:1], SamplingParams(n=64, temperature=0.0, max_tokens=20))
    assert engine.usage().extra["rows_read"] <= 19
    engine.close()


def test_a_completion_ends_with_the_context_window(transformers_engine):
    prompts = [Prompt("long", "1" * 90), Prompt("short", "1" * 20)]
    rows = transformers_engine.generate(prompts, SamplingParams(n=8, max_tokens=200, seed=1))
    assert {c.num_tokens for c in rows[0] if c.finish_reason == "length"} == {6}
    assert max(c.num_tokens for c in rows[1]) > 6


def test_too_long_a_prompt(transformers_engine):
    with pytest.raises(EngineError, match="96 tokens"):
        transformers_engine.generate([Prompt("p", "1" * 96)], SamplingParams())
    with pytest.raises(EngineError, match="context window"):
        transformers_engine.label_logprobs(["1" * 97], ["Y", "N"])
    with pytest.raises(EngineError, match="context window"):
        transformers_engine.sequence_logprobs(["1" * 50], ["1" * 48])


def test_missing_pieces(checkpoint, tmp_path):
    with pytest.raises(EngineError, match="no such checkpoint folder"):
        TransformersEngine(tmp_path / "nowhere")
    with pytest.raises(EngineError, match=r"no config\.json"):
        TransformersEngine(tmp_path)
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(EngineError, match="safetensors"):
        TransformersEngine(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(EngineError, match="cannot load"):
        TransformersEngine(tmp_path)


def test_wrong_device_and_type(checkpoint):
    with pytest.raises(EngineError, match="device 'tpu9'"):
        TransformersEngine(checkpoint, device="tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(
            EngineError, match=r"device 'cuda' cannot be used here.*set device to auto or cpu"
        ):
            TransformersEngine(checkpoint, device="cuda")
    with pytest.raises(EngineError, match="dtype 'int8'"):
        TransformersEngine(checkpoint, dtype="int8")


def test_closing_twice(checkpoint):
    engine = open_engine("transformers", checkpoint, device="cpu")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(PROMPTS, SamplingParams())


def test_bfloat16(checkpoint):
    engine = open_engine("transformers", checkpoint, device="cpu", dtype="bfloat16", num_threads=1)
    rows = engine.generate(PROMPTS, SamplingParams(n=2, max_tokens=5))
    assert all(np.isfinite(c.logprob) for row in rows for c in row)
    engine.close()
