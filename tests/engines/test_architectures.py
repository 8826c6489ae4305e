"""Architectures and tokenizers other than those of pico policies: grouped heads, soft caps, merges."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.transformers import TransformersEngine

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "qwen2": (Qwen2Config, SIZES),
    "qwen3": (Qwen3Config, {**SIZES, "head_dim": 16}),
    "mistral with a window": (MistralConfig, {**SIZES, "sliding_window": 128}),
    "gemma2": (Gemma2Config, {**SIZES, "head_dim": 8, "sliding_window": 128}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}
CORPUS = [
    "the lowest of the low answers: correct or incorrect? yes, no, greater " * 4,
    "Answer: 12 + 30 = 42\n",
]
PROMPTS = ["the lowest", "Answer: 12", "greater or", "Answer: 30 + 12 =", "y"]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 and Qwen have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # Only bytes of the corpus, all ASCII: random policies would draw texts that are no UTF-8.
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=["<end>"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="module", params=CONFIGS)
def served(request, tmp_path_factory) -> Iterator[tuple]:
    config_class, fields = CONFIGS[request.param]
    tokenizer = merging_tokenizer()
    end = tokenizer.eos_token_id
    config = config_class(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=end, pad_token_id=end, **fields
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(3.0)
    folder = tmp_path_factory.mktemp("policy")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    engine = TransformersEngine(folder, device="cpu", num_threads=1)
    # The tokenizer as loaded: for some model types transformers takes a class of its own and cuts otherwise.
    yield engine, model, AutoTokenizer.from_pretrained(folder)
    engine.close()


def logprob(model, before, ids):
    with torch.no_grad():
        table = model(torch.tensor([before + ids])).logits[0].double().log_softmax(-1)
    return sum(float(table[len(before) - 1 + i, token]) for i, token in enumerate(ids))


def test_greedy_equals_generate(served):
    engine, model, tokenizer = served
    rows = engine.generate([Prompt(p, p) for p in PROMPTS], SamplingParams(temperature=0.0, max_tokens=24))
    for prompt, row in zip(PROMPTS, rows, strict=True):
        batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=24)[0, batch.input_ids.shape[1] :]
        assert row[0].text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert row[0].num_tokens == len(tokens)
        assert row[0].logprob == pytest.approx(
            logprob(model, batch.input_ids[0].tolist(), tokens.tolist()), abs=1e-3
        )


def test_samples_do_not_depend_on_their_company(served):
    engine = served[0]
    sampling = SamplingParams(n=7, temperature=0.8, top_p=0.95, max_tokens=16, seed=3)
    together = engine.generate([Prompt(p, p) for p in PROMPTS], sampling)
    for prompt, row in zip(PROMPTS, together, strict=True):
        [alone] = engine.generate([Prompt(prompt, prompt)], sampling)
        assert [c.text for c in row] == [c.text for c in alone]
        np.testing.assert_allclose([c.logprob for c in row], [c.logprob for c in alone], atol=1e-3)


def test_labels_of_several_tokens(served):
    engine, model, tokenizer = served
    prompts = [f"{CORPUS[1]}{p} = {a}\nAnswer:" for p in PROMPTS for a in ("1", "42", "correct")]
    labels = [" correct", " incorrect", " no"]
    scores = engine.label_logprobs(prompts, labels)
    for prompt, row in zip(prompts, scores, strict=True):
        before = tokenizer(prompt).input_ids
        for label, score in zip(labels, row, strict=True):
            ids = tokenizer(prompt + label).input_ids
            assert ids[: len(before)] == before
            assert score == pytest.approx(logprob(model, before, ids[len(before) :]), abs=1e-3)


def test_a_stop_string_across_tokens(served):
    engine = served[0]
    prompts = [Prompt(p, p) for p in PROMPTS]
    sampling = SamplingParams(n=8, max_tokens=24, seed=1)
    free = [c.text for row in engine.generate(prompts, sampling) for c in row]
    readable = [text for text in free if len(text) > 12 and "\ufffd" not in text[:12]]
    stops = tuple(dict.fromkeys(text[start : start + 3] for text in readable[:6] for start in (3, 7)))
    stopping = SamplingParams(n=8, max_tokens=24, seed=1, stop=stops)
    stopped = [c for row in engine.generate(prompts, stopping) for c in row]
    for text, completion in zip(free, stopped, strict=True):
        places = [text.index(stop) for stop in stops if stop in text]
        assert completion.text == text[: min(places, default=len(text))]
        assert completion.finish_reason == "stop" or not places
    assert sum(c.text != text for c, text in zip(stopped, free, strict=True)) >= len(readable[:6]) > 0
