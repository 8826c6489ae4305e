"""Several engines as one."""

import psutil
import pytest

from resources.engine import EngineResource
from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.replicas import EngineReplicas

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


def test_settings_go_to_the_resource_or_the_engine():
    given = ["dtype=float32", "chunk_prompts=8", "data_parallel_size=2"]
    resource = EngineResource(kind="vllm").with_settings(given)
    assert (resource.kind, resource.chunk_prompts, resource.data_parallel_size) == ("vllm", 8, 2)
    assert resource.options == {"dtype": "float32"}
    with pytest.raises(ValueError, match="name=value"):
        resource.with_settings(["float32"])
