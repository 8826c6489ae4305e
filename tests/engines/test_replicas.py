"""Several engines as one."""

from contextlib import closing

import psutil
import pytest

from resources.cost_meter import CostMeter
from resources.engine import EngineResource
from si_dagster.engines.base import EngineError, Prompt, SamplingParams, Usage
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.replicas import EngineReplicas, num_gpus
from si_dagster.engines.scripted import ScriptedEngine

PROMPTS = [Prompt(f"p{i}", f"?{'_' * 15}{i}A") for i in range(1, 5)]
SAMPLING = SamplingParams(n=3, max_tokens=20, seed=2)


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "scripted_policy.json").write_text('{"skill": 0.4}')
    return tmp_path


def test_two_engines_answer_as_one(policy):
    texts = [prompt.text for prompt in PROMPTS]
    one, two = EngineProcess("scripted", policy), EngineReplicas("scripted", policy, {}, 2)
    for count in (4, 3, 1, 0):
        assert two.generate(PROMPTS[:count], SAMPLING) == one.generate(PROMPTS[:count], SAMPLING)
        assert (
            two.label_logprobs(texts[:count], "YN").tolist()
            == one.label_logprobs(texts[:count], "YN").tolist()
        )
    scores = [engine.sequence_logprobs(texts, ["1", "2", "", "4"]) for engine in (one, two)]
    assert [array.tolist() for array in scores[0]] == [array.tolist() for array in scores[1]]
    assert two.usage().completion_tokens == one.usage().completion_tokens > 0
    one.close()
    two.close()


def test_one_that_dies_is_an_error_and_all_end(policy):
    engines = EngineReplicas("scripted", policy, {}, 2)
    pids = [engine.pid for engine in engines._engines]
    psutil.Process(pids[1]).kill()
    with pytest.raises(EngineError, match="SIGKILL"):
        engines.generate(PROMPTS, SAMPLING)
    assert engines.is_closed
    engines.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_one_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="no such checkpoint folder"):
        EngineReplicas("scripted", tmp_path / "nowhere", {}, 2)


@pytest.mark.parametrize(
    ("kind", "options", "threads"),
    [("vllm", {}, 3), ("transformers", {"num_threads": 5}, 5), ("openai", {}, None)],
)
def test_without_gpus_engines_share_the_cores(kind, options, threads, policy, monkeypatch):
    started = []
    monkeypatch.setattr("si_dagster.processes.usable_cores", lambda: 6)
    monkeypatch.setattr("si_dagster.engines.replicas.num_gpus", lambda visible: 0)

    def start(kind, path, options, *others):
        started.append(options)
        return ScriptedEngine(policy)

    monkeypatch.setattr("si_dagster.engines.replicas.EngineProcess", start)
    with closing(EngineReplicas(kind, policy, options, 2)):
        assert [given.get("num_threads") for given in started] == [threads, threads]


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A machine that lists two GPUs."""
    listing = tmp_path / "bin" / "nvidia-smi"
    listing.parent.mkdir()
    listing.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: GPU-5f)'\necho 'GPU 1: H200 (UUID: GPU-a0)'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", str(listing.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_counted_among_those_that_are_visible(two_gpus, monkeypatch):
    assert [num_gpus(v) for v in (None, "1", "0,1", "0,7", "GPU-a0,GPU-7", "", "-1")] == [2, 1, 2, 1, 1, 0, 0]
    monkeypatch.setenv("PATH", "")
    assert num_gpus(None) == 0


def test_too_few_gpus_are_refused_before_anything_starts(two_gpus, policy, monkeypatch):
    with pytest.raises(EngineError, match=r"4 GPUs are wanted and 2 are visible here: lower data_parallel"):
        EngineReplicas("scripted", policy, {"tensor_parallel_size": 2}, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(EngineError, match="2 GPUs are wanted and 1 is visible here"):
        EngineReplicas("scripted", policy, {}, 2)
    with pytest.raises(EngineError, match="no option 'device'"):  # started: the CPU has room for all
        EngineReplicas("scripted", policy, {"device": "cpu"}, 2)


def test_a_peak_that_one_engine_cannot_know_is_not_known(tmp_path):
    file = tmp_path / "cost.json"
    meter = CostMeter(ScriptedEngine(), file)
    assert meter.cost()["peak_gpu_memory_bytes"] == 0
    file.write_text('{"peak_gpu_memory_bytes": null}')
    meter = CostMeter(ScriptedEngine(), file)
    assert meter.cost()["peak_gpu_memory_bytes"] is None
    ranks = Usage(num_gpus=2, peak_gpu_memory_bytes=None)
    assert ranks.with_peaks(5, 7) == Usage(num_gpus=2, peak_memory_bytes=5, peak_gpu_memory_bytes=None)


def test_settings_go_to_the_resource_or_the_engine():
    given = ["dtype=float32", "chunk_prompts=8", "data_parallel_size=2"]
    resource = EngineResource(kind="vllm").with_settings(given)
    assert (resource.kind, resource.chunk_prompts, resource.data_parallel_size) == ("vllm", 8, 2)
    assert resource.options == {"dtype": "float32"}
    with pytest.raises(ValueError, match="name=value"):
        resource.with_settings(["float32"])
