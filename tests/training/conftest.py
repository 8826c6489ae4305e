from pathlib import Path

import pytest
from training.shapes import Shape

from si_dagster.training.pico import character_tokenizer, new_policy


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy that has learned nothing. Do not change it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = character_tokenizer()
    new_policy(Shape(), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy so large that its weights are most of what a checkpoint holds. Do not change it."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = character_tokenizer()
    new_policy(Shape(hidden_size=128, intermediate_size=256), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
