"""Studies in processes of their own: what fails is told by study and stops nothing else."""

from pathlib import Path

import pytest
from conftest import MINI

from si_dagster.studies_at_once import run_at_once
from si_dagster.study import load_study


def test_a_study_that_cannot_begin_is_told_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SI_DAGSTER_HOME", str(tmp_path / "home"))
    studies = [
        load_study(MINI, [f"name={name}", f"models=[{{name: m, path: {tmp_path / name}}}]"])
        for name in ("first", "second")
    ]
    first, second = run_at_once(studies, workers=2)
    assert first == f"first: {tmp_path / 'first'}: no such folder"
    assert second == f"second: {tmp_path / 'second'}: no such folder"
    told = capfd.readouterr().err
    assert "failed (2 of 2)" in told
    assert not (tmp_path / "home" / "studies").exists()
