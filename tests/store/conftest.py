import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save

from si_dagster.store import layout
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.store.lineage import Catalogue
from si_dagster.store.manifest import InputRef, Manifest
from si_dagster.store.schemas import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]
RIGHT = (True, False, True, False)
"""Which of a prompt's four generations are right; 1 and 3 have the same text."""


class Maker:
    """Writes small artifacts of a study with one cell by hand, two iterations of them."""

    num_samples = 4

    def __init__(self, home: Path, num_prompts: int = 3):
        self.home = home
        self.store = Store(home)
        self.num_prompts = num_prompts

    def address(
        self, stage: str, iteration: int | None, part: str | None = None, study: str = "pico"
    ) -> Address:
        return Address(study, iteration, stage, "s", "facts", part)

    def prompts(self) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "prompt_id": f"train-{i}",
                "split": "train",
                "position": i,
                "question": f"what is {i}?",
                "reference": str(i),
                "prompt": f"Q: what is {i}?\nA:",
                "slices": json.dumps({"difficulty": i}),
            }
            for i in range(self.num_prompts)
        )

    def draws(self, iteration: int, study: str = "pico") -> Iterator[tuple[str, str, int]]:
        address = self.address("generations", iteration, study=study)
        for i in range(self.num_prompts):
            for j in range(self.num_samples):
                yield layout.generation_id(address, f"train-{i}", j), f"train-{i}", j

    def generations(self, iteration: int, study: str = "pico") -> pl.DataFrame:
        return pl.DataFrame(
            {
                "generation_id": generation,
                "prompt_id": prompt,
                "split": "train",
                "sample_index": j,
                "completion": prompt.removeprefix("train-") if RIGHT[j] else f"wrong {iteration}",
                "finish_reason": "stop",
                "num_tokens": 2,
                "logprob": -0.5 - j,
            }
            for generation, prompt, j in self.draws(iteration, study)
        )

    def utilities(self, iteration: int) -> pl.DataFrame:
        table = self.generations(iteration).select("generation_id", "prompt_id", "split", "sample_index")
        utility = [float(RIGHT[j]) for j in table["sample_index"]]
        return table.with_columns(
            utility=pl.Series(utility),
            strict_utility=pl.Series(utility),
            status=pl.lit("scored"),
            extracted=pl.lit(None, pl.String),
            rule=pl.lit("literal"),
            detail=pl.lit(None, pl.String),
        )

    def verifications(self, iteration: int, verifier: str) -> pl.DataFrame:
        table = self.generations(iteration).select("generation_id", "prompt_id", "split", "sample_index")
        score = [0.9 if RIGHT[j] else 0.2 for j in table["sample_index"]]
        return table.with_columns(
            verification_id=pl.format("{}/mc/0", "generation_id"),
            verification=pl.lit("mc"),
            method=pl.lit("multiple_choice"),
            verifier=pl.lit(verifier),
            verification_index=pl.lit(0),
            proxy_utility=pl.Series(score),
            verdict=pl.lit(None, pl.String),
            reply=pl.lit(None, pl.String),
            status=pl.lit("scored"),
        )

    def filtered_set(self, iteration: int) -> pl.DataFrame:
        """Sample 0 of every prompt, which stands for sample 2 too."""
        address = self.address("filtered_set", iteration)
        return pl.DataFrame(
            {
                "training_row_id": layout.training_row_id(address, generation),
                "generation_id": generation,
                "prompt_id": prompt,
                "sample_index": 0,
                "prompt": f"Q: what is {prompt}?\nA:",
                "completion": prompt.removeprefix("train-"),
                "proxy_utility": 0.9,
                "weight": 2.0,
                "num_duplicates": 2,
            }
            for generation, prompt, j in self.draws(iteration)
            if j == 0
        )

    def gap_metrics(self, iteration: int) -> pl.DataFrame:
        known = {
            "study": "pico",
            "iteration": iteration,
            "model": "s",
            "task": "facts",
            "split": "train",
            "verification": "mc",
            "method": "multiple_choice",
            "verifier": "self",
            "rule": "quantile(q=0.75)",
            "seed": 0,
            "expected_utility": 0.5,
            "gap": 0.5 / (iteration + 1),
            "pass_at_k": "{}",
            "num_prompts": self.num_prompts,
            "num_samples": self.num_prompts * self.num_samples,
            "num_missing": 0,
            "num_unparsed": 0,
        }
        dtypes = TABLES["gap_metrics"].dtypes
        return pl.DataFrame({name: [known.get(name)] for name in dtypes}, schema=dtypes)

    def table(
        self,
        address: Address,
        frame: pl.DataFrame,
        inputs: list[InputRef],
        run: str = "run",
        **recipe: object,
    ) -> Manifest:
        recipe = {"seed": 0, **recipe}
        with self.store.open_writer(
            address, recipe, json.dumps(recipe), study_snapshot={"name": address.study}, inputs=inputs
        ) as writer:
            writer.write_part(frame)
            return writer.commit(metadata={"seconds": 1.5}, dagster_run_id=run, code_version="1")

    def checkpoint(
        self, address: Address, inputs: list[InputRef], weights: bytes, run: str = "run"
    ) -> Manifest:
        recipe = {"lr": 0.001}
        with self.store.open_writer(
            address, recipe, "fp", study_snapshot={"name": address.study}, inputs=inputs
        ) as writer:
            (writer.staging_dir / "config.json").write_text("{}")
            (writer.staging_dir / "model.safetensors").write_bytes(
                save({"w": np.frombuffer(weights, np.uint8)})
            )
            writer.adopt_folder(writer.staging_dir)
            return writer.commit(dagster_run_id=run, code_version="1")

    def iteration(self, t: int, policy: Manifest, run: str) -> Manifest:
        """All stages of one iteration; gives back the next policy."""
        prompts = self.table(self.address("prompts", t, "train"), self.prompts(), [], run)
        drawn = self.table(
            self.address("generations", t, "train"),
            self.generations(t),
            [prompts.as_input("prompts"), policy.as_input("policy")],
            run,
        )
        read = [prompts.as_input("prompts"), drawn.as_input("generations")]
        graded = self.table(self.address("utilities", t, "train"), self.utilities(t), read, run)
        checked = self.table(
            self.address("verifications", t, "train.mc"),
            self.verifications(t, policy.artifact_id),
            [*read, policy.as_input("verifier")],
            run,
        )
        kept = self.table(
            self.address("filtered_set", t),
            self.filtered_set(t),
            [*read, checked.as_input("verifications")],
            run,
        )
        measured = [drawn.as_input("generations"), graded.as_input("utilities")]
        self.table(self.address("gap_metrics", t, "train"), self.gap_metrics(t), measured, run)
        trained = [kept.as_input("filtered_set"), policy.as_input("start_policy")]
        return self.checkpoint(self.address("checkpoint", t), trained, bytes([t]) * 64, run)

    def two_iterations(self) -> Manifest:
        policy = self.checkpoint(self.address("base_checkpoint", None), [], b"base" * 16, "run-base")
        for t in range(2):
            policy = self.iteration(t, policy, f"run-{t}")
        Catalogue(self.home).sync()
        return policy


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "home")


class Zygote:
    """A process that has imported the store and forks workers from itself, in milliseconds each."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crash_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )

    def _ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, workload: str, *arguments: object) -> int:
        """Process id of a new worker."""
        return int(self._ask("start", workload, *map(str, arguments)))

    def wait(self, pid: int) -> int:
        """Wait status of a worker, as from `os.waitpid`: 9 where it was killed, 0 where it finished."""
        return int(self._ask("wait", pid))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()
