from dataclasses import dataclass
from pathlib import Path

import pytest

from si_dagster.training.pico import character_tokenizer, new_policy


@dataclass(frozen=True)
class Shape:
    hidden_size: int = 16
    intermediate_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    max_position_embeddings: int = 64


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy that has learned nothing. Do not change it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = character_tokenizer()
    new_policy(Shape(), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
