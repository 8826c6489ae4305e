"""One artifact being made: what a stage may read, and how it says how far it is.

A stage opens its inputs by role, and only those the plan declares for it: data that is no edge of the graph
cannot be reached from here, ground truth least of all.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from resources.cost_meter import CostMeter
from resources.engine import EngineResource
from resources.trainer import TrainerResource
from si_dagster.engines.base import Engine
from si_dagster.plan import Node, Plan, verification_roles
from si_dagster.stages.base_checkpoint import checkpoint_folder
from si_dagster.stages.chat import ChatEngine, ChatTemplate, load_chat_template
from si_dagster.store.artifacts import Artifact, Store, Writer
from si_dagster.store.atomic import read_json, write_json
from si_dagster.study import ModelSpec, Scorer, Study, VerificationSpec
from si_dagster.tasks.base import PromptStyle, Task
from si_dagster.training.attempts import FILE as SPENT

SECONDS_BETWEEN_LINES = 2.0


class StageRun:
    """The working place of one stage for one artifact.

    Attributes:
        context: Dagster's, for logs.
        node: The artifact as planned.
        writer: Where rows go.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        plan: Plan,
        node: Node,
        store: Store,
        writer: Writer,
        engine: EngineResource,
        trainer: TrainerResource,
    ) -> None:
        self.context, self.plan, self.node, self.writer = context, plan, node, writer
        self._store, self._engine, self._trainer = store, engine, trainer
        self._meter: CostMeter | None = None
        self._began = time.monotonic()
        # A killed training kept its seconds for longer than the run that had started it.
        kept = (self._wall_file, self._training_folder / SPENT)
        self._earlier_seconds = max(read_json(file).get("seconds", 0.0) for file in kept)

    @property
    def study(self) -> Study:
        """The study."""
        return self.plan.study

    @property
    def seed(self) -> int:
        """The seed of this artifact, derived in the plan."""
        return int(next(v for name, v in self.node.fields.items() if name in ("seed", "generation.seed")))

    @property
    def model(self) -> ModelSpec:
        """The model of this cell."""
        return self.study.model(self.node.address.model or "")

    @property
    def style(self) -> PromptStyle:
        """How the model of this cell is spoken to."""
        return self.model.style

    def style_of(self, role: str) -> PromptStyle:
        """How the policy of an input is spoken to: another model may verify in another style."""
        return self.plan.model_of(self.node.inputs[role]).style

    @property
    def task(self) -> Task:
        """The task of this cell."""
        return self.plan.task(self.node.address.task or "")

    @property
    def verification(self) -> VerificationSpec:
        """The verification of the study whose part this is."""
        return self.study.verification_named((self.node.address.part or "").partition(".")[2])

    @property
    def scorer(self) -> Scorer:
        """The verification or ensemble of the study that this artifact is about."""
        if self.node.address.stage == "filtered_set":
            return self.study.weighting_verification()
        return self.study.scorer_named((self.node.address.part or "").partition(".")[2])

    def scored(self, role: str = "verifications") -> dict[str, pl.DataFrame]:
        """Name -> the verifications that the score is made from."""
        return {name: self.read(found) for found, name in verification_roles(self.scorer, role).items()}

    def artifact(self, role: str) -> Artifact:
        """The input of that role, complete and checked against its manifest.

        Raises:
            KeyError: If the plan declares no such input of this stage.
            StoreError: If it is missing or damaged; says what to do.
        """
        return self._store.require(self.node.inputs[role])

    def twin(self) -> Artifact | None:
        """The same artifact of another study, if there is one: see `Store.twin`."""
        return self._store.twin(self.node.address, self.plan.fingerprint(self.node.address))

    def read(self, role: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of an input."""
        return self.artifact(role).read(columns)

    def checkpoint(self, role: str) -> Path:
        """The folder of a checkpoint that is an input."""
        return checkpoint_folder(self.artifact(role).path)

    def engine(self, role: str) -> Engine:
        """The engine holding the checkpoint of that role."""
        trusted = self.plan.model_of(self.node.inputs[role]).trust_remote_code
        kind = self._engine.kind_for(self.study.scripted)
        self.context.log.info(f"starting the {kind} engine on {self.node.inputs[role].artifact_id}")
        return self._engine.load(kind, self.checkpoint(role), trusted)

    def chat_template(self, role: str) -> ChatTemplate:
        """The chat template of the policy of that role."""
        trusted = self.plan.model_of(self.node.inputs[role]).trust_remote_code
        return load_chat_template(self.checkpoint(role), trusted)

    def spoken(self, engine: Engine, role: str) -> Engine:
        """The engine of that role, spoken to as its policy is: a chat model through its chat template."""
        return ChatEngine(engine, self.chat_template(role)) if self.style_of(role) == "chat" else engine

    @contextmanager
    def engine_cost(self, role: str) -> Iterator[tuple[Engine, dict[str, Any]]]:
        """An engine, and a dict that holds what the artifact cost once the block ends; see `CostMeter`."""
        engine, cost = self.engine(role), {}
        self._meter = CostMeter(engine, self._cost_file)
        yield engine, cost
        cost |= self._meter.cost()

    @property
    def earlier_cost(self) -> dict[str, Any]:
        """What runs before this one spent on the artifact, where nothing is left for an engine to do."""
        return read_json(self._cost_file)

    @property
    def _cost_file(self) -> Path:
        return self.writer.staging_dir / "cost.json"

    @property
    def _wall_file(self) -> Path:
        return self.writer.staging_dir / "wall.json"

    @property
    def _training_folder(self) -> Path:
        return self.writer.staging_dir / "trainer"

    @property
    def wall_seconds(self) -> float:
        """What the artifact took so far, with the runs before this one up to where they kept it."""
        return self._earlier_seconds + time.monotonic() - self._began

    def save_cost(self) -> None:
        """Keep what the artifact cost so far, for the run that finishes it."""
        if self._meter is not None:
            self._meter.save()
        write_json(self._wall_file, {"seconds": self.wall_seconds})

    @property
    def chunk_prompts(self) -> int:
        """Prompts a chunk."""
        return self._engine.chunk_prompts

    @property
    def output_folder(self) -> Path:
        """An empty folder to make files in, adopted when they are whole; what a kill left goes."""
        output = self.writer.staging_dir / "files"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        return output

    def write_part(self, table: pl.DataFrame) -> None:
        """Write rows of an engine, and before them what the artifact cost so far."""
        self.save_cost()
        self.writer.write_part(table)

    def write_whole(self, table: pl.DataFrame) -> None:
        """Write a table that is made in one go, unless a killed run has written it already."""
        if self.writer.existing().is_empty():
            self.write_part(table)

    def train(self, module: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Train into a staging folder and adopt it, after the engine has given its memory back.

        What a killed training spent outlives it, and is counted by the next run.
        """
        return self._trained(self._trainer.train, module, spec)

    def fine_tune(self, module: str, spec: dict[str, Any]) -> dict[str, Any]:
        """As `train`; the trainer's own checkpoints stay too, and the next run goes on from them."""
        return self._trained(self._trainer.fine_tune, module, spec)

    def _trained(
        self, train: Callable[..., dict[str, Any]], module: str, spec: dict[str, Any]
    ) -> dict[str, Any]:
        self._engine.release()
        output, spec_file = self.output_folder, self.writer.staging_dir / "spec.json"
        folders = {"output_dir": str(output), "work_dir": str(self._training_folder)}
        result = train(self.context, module, {**spec, **folders}, spec_file)
        self.writer.adopt_folder(output)
        return result

    @contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator["Progress"]:
        """Tell the run how far it is, every few seconds and at the end."""
        part = f" {self.node.address.part}" if self.node.address.part else ""
        tracker = Progress(self.context, f"{self.node.address.stage}{part}", total, unit, done)
        yield tracker
        tracker.end()


class Progress:
    """Counts done units and logs `label: done/total unit (share), rate, time left`."""

    def __init__(self, context: Any, label: str, total: int, unit: str, done: int) -> None:
        self._context, self._label, self._total, self._unit = context, label, total, unit
        self._done, self._first, self._start = done, done, time.monotonic()
        self._told, self._told_done = self._start, -1

    def advance(self, count: int) -> None:
        """`count` more units are done."""
        self._done += count
        if time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self.tell()

    def end(self) -> None:
        """Log the last state, unless the line before was it."""
        if self._told_done != self._done:
            self.tell()

    def tell(self) -> None:
        """Log how far it is."""
        self._told, self._told_done = time.monotonic(), self._done
        rate = (self._done - self._first) / max(self._told - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        self._context.log.info(
            f"{self._label}: {self._done}/{self._total} {self._unit} "
            f"({self._done / max(self._total, 1):.0%}), {rate:,.0f}/s, {left:.0f} s left"
        )
