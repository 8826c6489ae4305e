import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from engines.completions_server import CompletionsServer
from engines.two_nodes import TwoNodes
from training.rows import ROWS, spec_file

from si_dagster.engines.base import Engine
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.registry import open_engine

SHAPE = SimpleNamespace(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=96,
)


WIDE_SHAPE = SimpleNamespace(**{**vars(SHAPE), "hidden_size": 64})
"""Heads of size 32, the smallest that vLLM has CPU kernels for."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_policy(SHAPE, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_policy(WIDE_SHAPE, tmp_path_factory.mktemp("wide_checkpoint"))


@pytest.fixture(scope="session")
def gathered_checkpoint(wide_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That policy after a step of two processes of which neither held all weights (ZeRO-3)."""
    folder = tmp_path_factory.mktemp("gathered") / "zero3"
    execution = {"device": "cpu", "num_processes": 2, "deepspeed": "zero3"}
    recipe = {"max_steps": 1, "learning_rate": 1e-3}
    spec = spec_file(folder, wide_checkpoint, ROWS[:2], execution=execution, **recipe)
    train = [sys.executable, "-m", "si_dagster.training.launch", "2", "si_dagster.training.sft", spec]
    done = subprocess.run(
        train,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "out"


def random_policy(shape: SimpleNamespace, folder: Path) -> Path:
    """A random Llama whose distribution is far from flat, so that a wrong logit shows."""
    import torch

    from si_dagster.training.pico import character_tokenizer, new_policy

    tokenizer = character_tokenizer()
    policy = new_policy(shape, tokenizer, seed=1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_engine(checkpoint: Path) -> Iterator[Engine]:
    engine = open_engine("transformers", checkpoint, device="cpu", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def process_engine(checkpoint: Path) -> Iterator[Engine]:
    engine = EngineProcess("transformers", checkpoint, {"device": "cpu", "num_threads": 1})
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def scripted_engine() -> Engine:
    return open_engine("scripted", None)


@pytest.fixture(scope="session")
def server(checkpoint: Path, transformers_engine: Engine) -> Iterator[CompletionsServer]:
    with CompletionsServer(checkpoint, transformers_engine) as serving:
        yield serving


@pytest.fixture(scope="session")
def openai_engine(checkpoint: Path, server: CompletionsServer) -> Iterator[Engine]:
    engine = open_engine("openai", checkpoint, base_url=server.base_url)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_engine(gathered_checkpoint: Path) -> Iterator[Engine]:
    # Steps too small for all prompts at once: vLLM would cut prompts in two, if it were let.
    small = {"max_num_seqs": 64, "max_num_batched_tokens": 128, "kv_cache_bytes": 2**26, "num_threads": 1}
    engine = EngineProcess("vllm", gathered_checkpoint, small)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        # Else Ray puts the machine's outward address in the place of 127.0.0.1, where nobody listens.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray lowers the priority of its workers to 15: on a busy machine they take minutes to start.
        patch.setenv("RAY_worker_niceness", "0")
        two = TwoNodes()
        yield two
        two.shutdown()


# To the end of a module only: an actor takes the place of another module's.
@pytest.fixture(scope="module")
def ray_engine(tmp_path_factory: pytest.TempPathFactory, cluster: TwoNodes) -> Iterator[Engine]:
    # The way to an actor and back; that one of transformers loads torch is seen by a whole study in test_ray.
    options = {"address": cluster.address, "num_actors": 1, "engine": "scripted"}
    engine = EngineProcess("ray", tmp_path_factory.mktemp("scripted"), options)
    yield engine
    engine.close()


@pytest.fixture(
    params=[
        "transformers",
        "process",
        "scripted",
        "openai",
        "ray",
        pytest.param("vllm", marks=pytest.mark.vllm),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(f"{request.param}_engine")
