"""The scripted engine: its distribution is the one written down."""

import json

import numpy as np
import pytest

from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.scripted import ScriptedEngine, all_solutions, answers, fits

PUZZLES = ["1_3_34122143_3_1", "____3412________", "_2_43__22_434___", "1234341221434_2_"]
RIGHT = "1234341221434321"


def test_a_script_is_drawn_by_its_weights():
    engine = ScriptedEngine(script={"2+2=": {"4": 3.0, "5": 1.0}})
    [row] = engine.generate([Prompt("k", "2+2=")], SamplingParams(n=4000, max_tokens=8))
    share = np.mean([c.text == "4" for c in row])
    assert share == pytest.approx(0.75, abs=0.03)  # three standard deviations are .02
    assert {c.text: round(c.logprob, 6) for c in row} == {"4": -0.287682, "5": -1.386294}


def test_a_weight_of_zero_is_never_drawn():
    engine = ScriptedEngine(script={"q": {"a": 0.0, "b": 1.0, "c": 0.0}})
    for temperature in (1.0, 0.5):
        [row] = engine.generate([Prompt("k", "q")], SamplingParams(n=200, temperature=temperature))
        assert {c.text for c in row} == {"b"}


@pytest.mark.parametrize("skill", [0.0, 0.3, 1.0])
def test_skill_is_the_share_of_right_answers(skill):
    engine = ScriptedEngine(skill=skill)
    prompts = [Prompt(f"p{i}", f"?{PUZZLES[i % 4]}A") for i in range(400)]
    rows = engine.generate(prompts, SamplingParams(n=10, max_tokens=20))
    right = [
        c.text in all_solutions() and fits(prompt.text[1:17], c.text)
        for prompt, row in zip(prompts, rows, strict=True)
        for c in row
    ]
    assert np.mean(right) == pytest.approx(skill, abs=0.03)


def test_verifier_accuracy_is_the_share_of_right_verdicts():
    engine = ScriptedEngine(verifier_accuracy=0.8)
    questions, truth = [], []
    for puzzle in PUZZLES:
        good, bad = answers(puzzle)
        for wrong in bad:
            for index in range(20):
                questions += [f"{index} V{puzzle}={good}:", f"{index} V{puzzle}={wrong}:"]
                truth += [True, False]
    scores = engine.label_logprobs(questions, ["Y", "N"])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0)
    verdicts = scores[:, 0] > scores[:, 1]
    assert np.mean(verdicts == np.array(truth)) == pytest.approx(0.8, abs=0.03)


def test_a_cut_off_answer_is_a_wrong_one():
    engine = ScriptedEngine(verifier_accuracy=1.0)
    scores = engine.label_logprobs([f"V1234341221434_2_={a}:" for a in (RIGHT, RIGHT[:9], "")], ["Y", "N"])
    assert (scores[:, 0] > scores[:, 1]).tolist() == [True, False, False]


def test_training_is_writing_a_file(tmp_path):
    (tmp_path / "scripted_policy.json").write_text(json.dumps({"skill": 1.0, "script": {"hi": {"ho": 1}}}))
    engine = ScriptedEngine(tmp_path)
    prompts = [Prompt("a", f"?{PUZZLES[3]}A"), Prompt("b", "hi")]
    rows = engine.generate(prompts, SamplingParams(max_tokens=20))
    assert [row[0].text for row in rows] == [RIGHT, "ho"]
    assert ScriptedEngine(tmp_path, skill=0.25).skill.skill == 0.25


@pytest.mark.parametrize("text", ["{", '{"skil": 0.5}', "[1]", '{"skill": 1.5}'])
def test_a_bad_file_is_named(tmp_path, text):
    (tmp_path / "scripted_policy.json").write_text(text)
    with pytest.raises(EngineError, match=r"scripted_policy\.json|skill is 1\.5"):
        ScriptedEngine(tmp_path)


def test_closed():
    engine = ScriptedEngine()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.label_logprobs(["a"], ["Y", "N"])
