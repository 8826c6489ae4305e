from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from si_dagster.training.pico import CHARACTERS, EOS_TOKEN, character_tokenizer, new_policy


@dataclass(frozen=True)
class Shape:
    hidden_size: int = 32
    intermediate_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    max_position_embeddings: int = 64


def test_every_character_is_one_token_and_comes_back():
    tokenizer = character_tokenizer()
    text = "".join(CHARACTERS)
    ids = tokenizer(text).input_ids
    assert len(ids) == 96  # 95 printable + newline; nothing added at either end
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 99  # and padding, end, unknown


def test_ascii_text_cannot_spell_a_special_token():
    tokenizer = character_tokenizer()
    ids = tokenizer("<eos></s><|endoftext|>").input_ids
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer("é").input_ids == [tokenizer.unk_token_id]
    assert tokenizer(EOS_TOKEN).input_ids == [tokenizer.eos_token_id]


def test_checkpoint_loads_as_any_hugging_face_model(tmp_path):
    tokenizer = character_tokenizer()
    policy = new_policy(Shape(), tokenizer, seed=3)
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True, dtype=torch.float32)
    text = "V1_=12:\n 'x'  y"
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert reloaded(text).input_ids == tokenizer(text).input_ids
    assert reloaded.decode(reloaded(text).input_ids) == text
    ids = torch.tensor([tokenizer(text).input_ids])
    assert torch.equal(again(ids).logits, policy(ids).logits)
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id


def test_seed_alone_decides_the_weights():
    tokenizer = character_tokenizer()
    before = torch.get_rng_state()
    first, same, other = (new_policy(Shape(), tokenizer, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
