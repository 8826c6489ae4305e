"""The plan of a study: every artifact it will hold, what each reads, and what each is made of.

One place says which artifact descends from which. The Dagster graph, the fingerprints, the staleness
report and the lineage all come from it, so they cannot disagree. The plan runs nothing, reads no data and
knows no Dagster.

Two kinds of edge exist. An *input* is read by a stage and is part of its fingerprint. A *gate* is only
waited for: generations of iteration t + 1 wait for the gap of iteration t, and read nothing of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from si_dagster.analysis.catalogue import ANALYSES, Analysis
from si_dagster.core.fingerprint import derive_seed, digest, fingerprint, flatten
from si_dagster.core.verdict import READER_VERSION
from si_dagster.store.layout import Address
from si_dagster.study import BASE, CHEAP, SELF, EnsembleSpec, ModelSpec, Scorer, Study, VerificationSpec
from si_dagster.tasks.base import DealsRows, MakesPrompts, PromptStyle, ReadsFiles, Split, Task, TaskRow
from si_dagster.tasks.catalogue import load_task
from si_dagster.verification.base import VerificationMethod
from si_dagster.verification.canaries import INJECTIONS, OPENERS
from si_dagster.verification.catalogue import load_method

CODE_VERSIONS = {
    "base_checkpoint": "1",
    "prompts": "1",
    "generations": "1",
    "utilities": "1",
    "verifications": "1",
    "teaching_set": "1",
    "student": "1",
    "probes": "1",
    "filtered_set": "1",
    "checkpoint": "1",
    "gap_metrics": "1",
    "report": "1",
    **dict.fromkeys(ANALYSES, "2"),
    **dict.fromkeys(
        (
            "cross_verification",
            "scaling",
            "ablations",
            "diversity",
            "sharpening",
        ),
        "3",
    ),
    **dict.fromkeys(("baselines", "verifier_quality", "other_gaps"), "4"),
    "verifier_overlap": "5",
    "threshold_sweep": "6",
}
"""Raised when the code of a stage changes its numbers: part of every fingerprint of that stage."""

ITERATION_STAGES = (
    "prompts",
    "generations",
    "utilities",
    "verifications",
    "teaching_set",
    "student",
    "probes",
    "filtered_set",
    "checkpoint",
    "gap_metrics",
)
TEACHING_STAGES = ("teaching_set", "student")
"""Stages of a cheap verification; of iteration 0 alone, whose student verifies in all iterations."""

NAMED_STAGES = ("verifications", *TEACHING_STAGES)
"""Stages that have an asset for each verification of the study."""

UPDATE_STAGES = ("filtered_set", "checkpoint")
"""Stages that the last, measured only, iteration does not have."""

GATED_STAGES = ("generations", "probes")
"""The first stages of an iteration that ask its policy anything: they wait for the gap of the one before."""

SUMMARIES = (*ANALYSES, "report")
"""Stages that follow the loop and sum it up, made from whatever is there."""

TRUTH_STAGES = ("utilities", "probes", "gap_metrics", *SUMMARIES)
"""Stages that see ground truth. No input edge leads from them to a filtered set or a checkpoint, unless the
study says `oracle: true` and takes its weights from an oracle's verifications."""


@dataclass(frozen=True)
class Node:
    """One artifact of the plan.

    Attributes:
        address: Where it lies.
        fields: What it takes from the study and the code, flat, dotted names.
        inputs: Role -> address of what it reads.
    """

    address: Address
    fields: Mapping[str, Any]
    inputs: Mapping[str, Address] = field(default_factory=dict)


class Plan:
    """All nodes of a study.

    Args:
        study: The study.
        model_digests: Model name -> digest of its weights, for models given by `path`. Without it the path
            stands in, which is enough to draw the graph but not to compare bytes.
        data_digests: Task name -> digest of the local files it reads; without it their paths stand in.
    """

    def __init__(
        self,
        study: Study,
        model_digests: Mapping[str, str] | None = None,
        data_digests: Mapping[str, str] | None = None,
    ) -> None:
        self.study = study
        self._data_digests = dict(data_digests or {})
        self._model_digests = dict(model_digests or {})
        self._fingerprints: dict[Address, str] = {}

    @cached_property
    def nodes(self) -> dict[Address, Node]:
        """Address -> node, in an order in which inputs come before what reads them."""
        return {node.address: node for node in self._all_nodes()}

    def parts(self, stage: str, iteration: int | None, model: str | None, task: str | None) -> list[Node]:
        """The artifacts that one stage of one cell holds (one a split, one a split and verification)."""
        wanted = (stage, iteration, model, task)
        return [n for n in self.nodes.values() if _cell(n.address) == wanted]

    def fingerprint(self, address: Address) -> str:
        """Fingerprint of an artifact: its fields and the fingerprints of its inputs."""
        if address not in self._fingerprints:
            self._fingerprints[address] = fingerprint(self.recipe(address))
        return self._fingerprints[address]

    def recipe(self, address: Address) -> dict[str, Any]:
        """What the fingerprint covers, flat: fields, and `inputs.<role>` for every input."""
        node = self.nodes[address]
        inputs = {f"inputs.{role}": self.fingerprint(source) for role, source in node.inputs.items()}
        return {**node.fields, **inputs}

    @cached_property
    def assets(self) -> dict[tuple[str, ...], list[Node]]:
        """Asset path -> its artifacts over all cells and splits, upstream first; see `asset_path`."""
        found: dict[tuple[str, ...], list[Node]] = {}
        for node in self.nodes.values():
            found.setdefault(asset_path(node.address), []).append(node)
        return found

    def code_version(self, path: tuple[str, ...]) -> str:
        """Hash of the fields of one asset over all cells: changes where the study changes that very asset."""
        return fingerprint({n.address.artifact_id: dict(n.fields) for n in self.assets[path]})

    def stages(self) -> Iterator[tuple[str, int | None]]:
        """(stage, iteration) pairs, upstream first."""
        yield from dict.fromkeys((address.stage, address.iteration) for address in self.nodes)

    def gate(self, stage: str, iteration: int | None) -> int | None:
        """The iteration whose gap this stage waits for, if any."""
        waiting: set[str] = set(GATED_STAGES)
        if any(isinstance(self.task(task.name), MakesPrompts) for task in self.study.tasks):
            waiting.add("prompts")
        return iteration - 1 if stage in waiting and iteration else None

    def descendants(self, stage: str) -> set[Address]:
        """Everything that reads a stage, directly or through others; gates are not reading."""
        return self.readers(address for address in self.nodes if address.stage == stage)

    def readers(self, sources: Iterable[Address]) -> set[Address]:
        """Everything that reads any of some artifacts, directly or through others."""
        roots, found = set(sources), set[Address]()
        for node in self.nodes.values():
            if any(source in roots or source in found for source in node.inputs.values()):
                found.add(node.address)
        return found

    def address(
        self, stage: str, iteration: int | None, cell: tuple[str, str], part: str | None = None
    ) -> Address:
        """Address of an artifact of this study."""
        return Address(self.study.name, iteration, stage, cell[0], cell[1], part)

    def gaps(self, iteration: int, cell: tuple[str, str], split: Split) -> list[Address]:
        """The gap_metrics of one split, one for each verification and ensemble that scores all of it."""
        parts = [verification_part(split, spec.name) for spec in self._scorers(split)]
        return [self.address("gap_metrics", iteration, cell, part) for part in parts]

    def deciding_gap(self, iteration: int, cell: tuple[str, str]) -> Address:
        """The gap on evaluation prompts, by the verification that weights training, that opens the gate."""
        part = verification_part("eval", self.study.weighting_verification().name)
        return self.address("gap_metrics", iteration, cell, part)

    def splits(self, iteration: int) -> tuple[Split, ...]:
        """Splits an iteration works on: the last one is measured only."""
        return ("train", "eval") if iteration < self.study.iterations else ("eval",)

    def policy(self, iteration: int, cell: tuple[str, str]) -> Address:
        """The checkpoint f_t that generates in iteration t."""
        if iteration == 0:
            return self.address("base_checkpoint", None, cell)
        return self._checkpoint_address(iteration - 1, cell)

    def _checkpoint_address(self, iteration: int, cell: tuple[str, str]) -> Address:
        """Of one cell, or of no single task where all tasks of a model train one policy."""
        address = self.address("checkpoint", iteration, cell)
        return replace(address, task=None) if self.study.distillation.joint else address

    def verifier(self, spec: VerificationSpec, iteration: int, cell: tuple[str, str]) -> Address:
        """The checkpoint that verifies."""
        if spec.is_taught:
            return self.taught("student", spec, cell)
        if spec.verifier == SELF and spec.method != CHEAP:
            return self.policy(iteration, cell)
        model = cell[0] if spec.verifier in (SELF, BASE) else spec.verifier
        return self.address("base_checkpoint", None, (model, cell[1]))

    def taught(self, stage: str, spec: VerificationSpec, cell: tuple[str, str]) -> Address:
        """An artifact of a cheap verification's student: made in iteration 0, from training prompts."""
        return self.address(stage, 0, cell, verification_part("train", spec.name))

    def model_of(self, policy: Address) -> ModelSpec:
        """The model that a checkpoint, or what it is taught with, is of; it says how that policy is asked."""
        model = policy.model or ""
        if policy.stage in TEACHING_STAGES:
            verifier = self.study.verification_named((policy.part or "").partition(".")[2]).verifier
            model = model if verifier in (SELF, BASE) else verifier
        return self.study.model(model)

    def lessons(self, teacher: VerificationSpec) -> list[dict[str, int]]:
        """Which training generations the students of a verification learn from, each kind of choice once.

        Students of one teacher draw by one seed: a small budget is spent on part of what a large one is.
        """
        return [
            dict(lesson)
            for lesson in dict.fromkeys(
                tuple(self.lesson(student).items()) for student in self.study.students_of(teacher.name)
            )
        ]

    def lesson(self, student: VerificationSpec) -> dict[str, int]:
        """Budget, responses a prompt and seed of the choice of what a student learns from."""
        return {
            "budget": student.budget or 0,
            "responses_per_prompt": student.responses_per_prompt or 0,
            "seed": derive_seed(self.study.seed, "teaching_set", student.teacher or ""),
        }

    def _all_nodes(self) -> Iterator[Node]:
        cells = self.study.cells()
        yield from (self._base_checkpoint(cell) for cell in cells)
        for iteration in range(self.study.iterations + 1):
            for cell in cells:
                for split in self.splits(iteration):
                    yield self._prompts(iteration, cell, split)
                    yield self._generations(iteration, cell, split)
                    yield self._utilities(iteration, cell, split)
                    yield from self._verifications(iteration, cell, split)
                yield from self._probes(iteration, cell)
            for cell in cells:
                if iteration < self.study.iterations:
                    yield self._filtered_set(iteration, cell)
            if iteration < self.study.iterations:
                yield from self._checkpoints(iteration)
            for cell in cells:
                for split in self.splits(iteration):
                    for spec in self._scorers(split):
                        yield self._gap_metrics(iteration, cell, split, spec)
        yield from (self._analysis(analysis) for analysis in ANALYSES.values())
        yield self._report()

    def _node(
        self, address: Address, fields: Mapping[str, Any], inputs: Mapping[str, Address] | None = None
    ) -> Node:
        fields = {"code_version": CODE_VERSIONS[address.stage], **flatten(fields)}
        return Node(address, fields, dict(inputs or {}))

    def _base_checkpoint(self, cell: tuple[str, str]) -> Node:
        model = self.study.model(cell[0])
        if model.pretrain is None:
            fields = {"model": _weights(model, self._model_digests)}
        else:
            fields = {
                "seed": self.study.seed,
                "model": {"pretrain": model.pretrain.recipe_fields()},
                "task": self._task_fields(cell[1]),
            }
        return self._node(self.address("base_checkpoint", None, cell), fields)

    def _prompts(self, iteration: int, cell: tuple[str, str], split: Split) -> Node:
        study, style, task = self.study, self.study.model(cell[0]).style, self.task(cell[1])
        fresh = split == "train" and study.splits.fresh_train
        fields = {
            "task": self._task_fields(cell[1]),
            "prompt_style": style,
            "template": _template_digest(task, style),
            f"splits.{split}": getattr(study.splits, split),
        }
        inputs = {}
        if fresh and isinstance(task, DealsRows):
            fields |= {"seed": study.seed, "deal": iteration}
        else:
            fields["seed"] = derive_seed(study.seed, "prompts", iteration) if fresh else study.seed
        if style == "chat":
            inputs["tokenizer"] = self.address("base_checkpoint", None, cell)
        if split == "train" and isinstance(task, MakesPrompts):
            inputs["policy"] = self.policy(iteration if fresh else 0, cell)
            fields["voting"] = study.generation.model_dump(mode="json", exclude={"n", "seed"})
            fields["bait"] = digest(task.bait_prompt(style))[:16]
        return self._node(self.address("prompts", iteration, cell, split), fields, inputs)

    def _generations(self, iteration: int, cell: tuple[str, str], split: Split) -> Node:
        generation = self.study.generation.model_dump(mode="json")
        seed = derive_seed(self.study.sampling_seed, "generations", iteration, split)
        inputs = {
            "prompts": self.address("prompts", iteration, cell, split),
            "policy": self.policy(iteration, cell),
        }
        scripted = {"engine": "scripted"} if self.study.scripted else {}
        fields = {"generation": {**generation, "seed": seed}, **scripted}
        return self._node(self.address("generations", iteration, cell, split), fields, inputs)

    def _utilities(self, iteration: int, cell: tuple[str, str], split: Split) -> Node:
        fields = {
            "task": self._task_fields(cell[1]),
            "grader_version": self.task(cell[1]).grader_version,
        }
        inputs = {role: self.address(role, iteration, cell, split) for role in ("prompts", "generations")}
        return self._node(self.address("utilities", iteration, cell, split), fields, inputs)

    def _verifications(self, iteration: int, cell: tuple[str, str], split: Split) -> Iterator[Node]:
        """Those of students last: they learn from the others."""
        dear = [spec for spec in self.study.verification if not spec.is_taught]
        students = [spec for spec in self.study.verification if spec.is_taught]
        for spec in dear:
            if split == "eval" or iteration == 0 or not spec.only_teaches:
                yield self._verification(spec, iteration, cell, split)
        for spec in students:
            if iteration == 0 and split == "train":
                yield self._teaching_set(spec, cell)
                yield self._student(spec, cell)
            yield self._verification(spec, iteration, cell, split)

    def _verification(
        self, spec: VerificationSpec, iteration: int, cell: tuple[str, str], split: Split
    ) -> Node:
        method = load_method(spec.method)
        _refuse_what_changes_nothing(spec, method)
        verifier = self.verifier(spec, iteration, cell)
        fields = {
            "verification": spec.scoring_fields(),
            "method_version": method.version,
            "template": _verification_digest(self.task(cell[1]), method, self.model_of(verifier).style),
            **_reader_fields(method, self.model_of(verifier).style),
            "seed": derive_seed(self.study.seed, "verifications", iteration, split, spec.name),
        }
        if spec.only_teaches and split == "train":
            fields["teaches"] = self.lessons(spec)
        inputs = {role: self.address(role, iteration, cell, split) for role in ("prompts", "generations")}
        if method.sees_truth:
            inputs["utilities"] = self.address("utilities", iteration, cell, split)
        else:
            inputs["verifier"] = verifier
        return self._node(
            self.address("verifications", iteration, cell, verification_part(split, spec.name)),
            fields,
            inputs,
        )

    def _teaching_set(self, spec: VerificationSpec, cell: tuple[str, str]) -> Node:
        teacher, method = self.study.verification_named(spec.teacher or ""), load_method(spec.method)
        _refuse_truth_as_teacher(spec, teacher, self.study.oracle)
        begins_as = self._begins_as(spec, cell)
        style = self.model_of(begins_as).style
        fields = {
            **self.lesson(spec),
            "method_version": method.version,
            "template": _verification_digest(self.task(cell[1]), method, style),
            **_reader_fields(method, style),
        }
        inputs = {role: self.address(role, 0, cell, "train") for role in ("prompts", "generations")}
        part = verification_part("train", teacher.name)
        inputs["verifications"] = self.address("verifications", 0, cell, part)
        if style == "chat":
            inputs["tokenizer"] = begins_as
        return self._node(self.taught("teaching_set", spec, cell), fields, inputs)

    def _student(self, spec: VerificationSpec, cell: tuple[str, str]) -> Node:
        recipe = {} if spec.student is None else spec.student.recipe_fields()
        fields = {"student": recipe, "seed": derive_seed(self.study.seed, "student")}
        inputs = {
            "start_policy": self._begins_as(spec, cell),
            "teaching_set": self.taught("teaching_set", spec, cell),
        }
        return self._node(self.taught("student", spec, cell), fields, inputs)

    def _begins_as(self, spec: VerificationSpec, cell: tuple[str, str]) -> Address:
        """The base checkpoint that a student is trained from."""
        return self.verifier(spec.model_copy(update={"budget": 0}), 0, cell)

    def _scorers(self, split: Split) -> list[Scorer]:
        """Verifications and ensembles that have a score of every generation of a split."""
        return [
            spec
            for spec in self.study.scorers()
            if split == "eval" or isinstance(spec, EnsembleSpec) or not spec.only_teaches
        ]

    def _probes(self, iteration: int, cell: tuple[str, str]) -> Iterator[Node]:
        """Gold answers and canaries for every verification that calls a policy, on evaluation prompts."""
        for spec in filter(self._is_probed, self.study.verification):
            method, task = load_method(spec.method), self.task(cell[1])
            verifier = self.verifier(spec, iteration, cell)
            fields = {
                "verification": spec.scoring_fields(),
                "method_version": method.version,
                "template": _verification_digest(task, method, self.model_of(verifier).style),
                **_reader_fields(method, self.model_of(verifier).style),
                "num_prompts": self.study.probes.num_prompts,
                "canaries": digest(f"{OPENERS}{INJECTIONS}")[:16],
                "grader_version": task.grader_version,
                "seed": derive_seed(self.study.seed, "probes", iteration, spec.name),
            }
            if self.study.scripted:
                fields["engine"] = "scripted"
            inputs = {"prompts": self.address("prompts", iteration, cell, "eval"), "verifier": verifier}
            yield self._node(self._probes_address(iteration, cell, spec.name), fields, inputs)

    def _is_probed(self, spec: Scorer) -> bool:
        """Whether gold answers and canaries are put to it: it must be one verifier, and be asked at all."""
        asked = isinstance(spec, VerificationSpec) and load_method(spec.method).calls_verifier
        return asked and self.study.probes.num_prompts > 0

    def _may_rank_without_gold(self, spec: Scorer, task: str) -> bool:
        """Whether canaries may lack the gold answer to rank them by; tasks that make their rows have all."""
        only_ranks = isinstance(spec, VerificationSpec) and load_method(spec.method).accepts_from is None
        return only_ranks and isinstance(self.task(task), ReadsFiles)

    def _probes_address(self, iteration: int, cell: tuple[str, str], name: str) -> Address:
        return self.address("probes", iteration, cell, verification_part("eval", name))

    def _filtered_set(self, iteration: int, cell: tuple[str, str]) -> Node:
        spec = self.study.weighting_verification()
        sources = [self.study.verification_named(name) for name in spec.sources]
        if any(load_method(source.method).sees_truth for source in sources) and not self.study.oracle:
            raise ValueError(
                f"weighting.verification: {spec.name!r} reads ground truth, and what it lets through trains "
                "the next policy: say `oracle: true` in the study if that bound is meant, or choose another"
            )
        inputs = {role: self.address(role, iteration, cell, "train") for role in ("prompts", "generations")}
        inputs |= self._scored(spec, iteration, cell, "train")
        thinning = self.study.weighting.model_dump(mode="json", include={"max_per_prompt", "duplicates"})
        fields = {
            **self._scoring_fields(spec),
            "weighting": {**self._rule_fields(spec), **thinning},
            "seed": derive_seed(self.study.seed, "filtered_set", iteration),
        }
        if self.study.distillation.pairing:
            fields["pairing"] = self.study.distillation.pairing
        return self._node(self.address("filtered_set", iteration, cell), fields, inputs)

    def _checkpoints(self, iteration: int) -> Iterator[Node]:
        """One a cell, or one a model, which starts from the base of the first task: that of all."""
        for model, task in self.study.cells():
            if not self.study.distillation.joint or task == self.study.tasks[0].name:
                yield self._checkpoint(iteration, (model, task))

    def _checkpoint(self, iteration: int, cell: tuple[str, str]) -> Node:
        distillation = self.study.distillation
        fields: dict[str, Any] = {
            "distillation": distillation.recipe_fields(),
            "seed": derive_seed(self.study.seed, "checkpoint", iteration),
        }
        if distillation.replay_fraction:
            fields["task"] = self._task_fields(cell[1])
        if distillation.gradient_accumulation_steps > 1:
            # Until this was there, each accumulated batch counted the same, however many tokens it had.
            fields["loss_is_over"] = f"all {'pairs' if distillation.pairing else 'tokens'} of a step"
        if distillation.method == "rpo":
            # Until this was there, it was one mean over tokens, in which long completions count more.
            fields["likelihood_is_over"] = "the tokens of each pair, then the pairs"
        start = 0 if distillation.start_from == "base" else iteration
        inputs = {
            "start_policy": self.policy(start, cell),
            **self._filtered_sets("filtered_set", iteration, cell),
        }
        earlier = iteration if distillation.replay_iterations < 0 else distillation.replay_iterations
        for replayed in range(max(0, iteration - earlier), iteration):
            inputs |= self._filtered_sets(f"replay.{replayed}", replayed, cell)
        return self._node(self._checkpoint_address(iteration, cell), fields, inputs)

    def _filtered_sets(self, role: str, iteration: int, cell: tuple[str, str]) -> dict[str, Address]:
        """Role -> the filtered set of the cell, or those of all tasks where they train one policy."""
        if not self.study.distillation.joint:
            return {role: self.address("filtered_set", iteration, cell)}
        tasks = [task.name for task in self.study.tasks]
        return {f"{role}.{task}": self.address("filtered_set", iteration, (cell[0], task)) for task in tasks}

    def _scored(
        self, spec: Scorer, iteration: int, cell: tuple[str, str], split: Split, role: str = "verifications"
    ) -> dict[str, Address]:
        """Role -> the verifications that a score is made from."""
        return {
            found: self.address("verifications", iteration, cell, verification_part(split, name))
            for found, name in verification_roles(spec, role).items()
        }

    def _rule_fields(self, spec: Scorer) -> dict[str, Any]:
        if isinstance(spec, EnsembleSpec) and spec.thresholds_members:
            return {"rule": self.study.rule_label(spec)}
        return self.study.weighting.rule_fields()

    def _scoring_fields(self, spec: Scorer) -> dict[str, Any]:
        """How scores that cannot be read are dealt with, and how members make one score."""
        if isinstance(spec, VerificationSpec):
            return {"verification.on_unparsed": spec.unparsed_policy}
        policies = {name: self.study.verification_named(name).unparsed_policy for name in spec.sources}
        return {"verification": {"on_unparsed": policies}, "ensemble": spec.combine}

    def _gap_metrics(self, iteration: int, cell: tuple[str, str], split: Split, spec: Scorer) -> Node:
        analysis = self.study.analysis.model_dump(mode="json", exclude={"pass_at_k", "greedy"})
        fields = {
            **self._scoring_fields(spec),
            "weighting": {**self._rule_fields(spec), **self._no_survivors_fields()},
            "analysis": {**analysis, "pass_at_k": list(self.study.pass_at_k())},
            "seed": self.study.seed,
        }
        part = verification_part(split, spec.name)
        inputs = {
            "utilities": self.address("utilities", iteration, cell, split),
            **self._scored(spec, iteration, cell, split),
        }
        if split == "eval" and self._is_probed(spec):
            inputs["probes"] = self._probes_address(iteration, cell, spec.name)
            if self._may_rank_without_gold(spec, cell[1]):
                # Until this was there, a prompt without a gold answer counted as a refusal of its canaries.
                fields["canaries_without_gold"] = "unknown"
        if split == "eval" and iteration > 0:
            inputs["previous_utilities"] = self.address("utilities", iteration - 1, cell, split)
            inputs["base_utilities"] = self.address("utilities", 0, cell, split)
            if spec == self.study.weighting_verification():
                # The update before was made by these: its error is told in this row alone.
                inputs |= self._scored(spec, iteration - 1, cell, split, "previous_verifications")
        return self._node(self.address("gap_metrics", iteration, cell, part), fields, inputs)

    def _no_survivors_fields(self) -> dict[str, str]:
        convention = self.study.weighting.no_survivors
        # Until this was there, intervals held the pooled utility fixed.
        return {"no_survivors": convention} | ({"pooled": "resampled"} if convention == "pooled" else {})

    def _analysis(self, analysis: Analysis) -> Node:
        """Of all iterations, models and tasks; it is made from those that are there."""
        weighting = {**self.study.weighting.rule_fields(), **self._no_survivors_fields()}
        fields = {
            "weighting": {**weighting, "verification": self.study.weighting_verification().name},
            "analysis": self.study.analysis.model_dump(mode="json", exclude={"pass_at_k", "greedy"}),
            "verification": {spec.name: spec.unparsed_policy for spec in self.study.verification},
            "seed": self.study.seed,
        }
        used = self.study.weighting_verification()
        if isinstance(used, EnsembleSpec):  # its cuts decide on its gap; others leave them out
            fields |= {"weights": {**self._rule_fields(used), **self._scoring_fields(used)}}
        if self.study.ensembles:
            fields["ensembles"] = [ensemble.model_dump(mode="json") for ensemble in self.study.ensembles]
        if analysis.name == "sharpening" and self.study.analysis.greedy is not None:
            fields["greedy"] = self.study.analysis.greedy
        inputs = {source.artifact_id: source for source in self.analysed(analysis)}
        return self._node(Address(self.study.name, None, analysis.name), fields, inputs)

    def analysed(self, analysis: Analysis) -> Iterator[Address]:
        """What an analysis reads, had without planning all else."""
        for cell in self.study.cells():
            if "base_checkpoint" in analysis.reads:
                yield self.address("base_checkpoint", None, cell)
            for stage in (stage for stage in analysis.reads if stage in TEACHING_STAGES):
                for spec in filter(lambda spec: spec.is_taught, self.study.verification):
                    yield self.taught(stage, spec, cell)
            for iteration in range(self.study.iterations + 1):
                for split in self.splits(iteration):
                    if split in analysis.splits:
                        yield from self._analysed_rows(analysis, iteration, cell, split)

    def beside(self, analysis: Analysis) -> Iterator[Address]:
        """What an analysis reads of another study, if it is there: no part of this one's graph."""
        if analysis.name == "sharpening" and (greedy := self.study.analysis.greedy) is not None:
            for cell in self.study.cells():
                yield replace(self.address("utilities", 0, cell, "eval"), study=greedy)

    def _analysed_rows(
        self, analysis: Analysis, iteration: int, cell: tuple[str, str], split: Split
    ) -> Iterator[Address]:
        verified = [spec for spec in self._scorers(split) if isinstance(spec, VerificationSpec)]
        parts = [verification_part(split, spec.name) for spec in verified]
        elsewhere = ("base_checkpoint", *TEACHING_STAGES)
        for stage in (stage for stage in analysis.reads if stage not in elsewhere):
            for part in parts if stage in ("verifications", "gap_metrics") else [split]:
                yield self.address(stage, iteration, cell, part)

    def _report(self) -> Node:
        inputs = {
            address.artifact_id: address
            for iteration in range(self.study.iterations + 1)
            for cell in self.study.cells()
            for split in self.splits(iteration)
            for address in self.gaps(iteration, cell, split)
        }
        inputs |= {name: Address(self.study.name, None, name) for name in ANALYSES}
        return self._node(Address(self.study.name, None, "report", None, None), {}, inputs)

    def _task_fields(self, name: str) -> dict[str, Any]:
        """Name and options; the places of local files give way to the digest of their bytes."""
        fields = self.study.task(name).model_dump(mode="json")
        task = self.task(name)
        if name not in self._data_digests or not isinstance(task, ReadsFiles):
            return fields
        options = {key: value for key, value in fields["options"].items() if key not in task.path_options}
        return {**fields, "options": {**options, "data_digest": self._data_digests[name]}}

    def task(self, name: str) -> Task:
        """The task of that name, set up with its options; no data is read."""
        if name not in self._tasks:
            self._tasks[name] = load_task(name, self.study.task(name).options)
        return self._tasks[name]

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        return {}


def verification_part(split: Split, name: str) -> str:
    """The part that holds the verifications of one split by one verification of the study."""
    return f"{split}.{name}"


def verification_roles(spec: Scorer, role: str = "verifications") -> dict[str, str]:
    """Role -> name of each verification that a score is made from; an ensemble has a role a member.

    Examples:
        >>> verification_roles(VerificationSpec(name="mc"))
        {'verifications': 'mc'}
        >>> verification_roles(EnsembleSpec(name="both", combine="and", members=("mc", "cot")))
        {'verifications.mc': 'mc', 'verifications.cot': 'cot'}
    """
    if isinstance(spec, VerificationSpec):
        return {role: spec.name}
    return {f"{role}.{name}": name for name in spec.sources}


def asset_path(address: Address) -> tuple[str, ...]:
    """What an artifact belongs to in the graph: its stage, and where it is of a verification, of which.

    Examples:
        >>> asset_path(Address("s", 0, "verifications", "m", "t", "eval.random"))
        ('s', 'iteration_0', 'verifications', 'random')
        >>> asset_path(Address("s", 0, "generations", "m", "t", "eval"))
        ('s', 'iteration_0', 'generations')
    """
    if address.stage not in NAMED_STAGES:
        return address.key
    return (*address.key, (address.part or "").partition(".")[2])


def _cell(address: Address) -> tuple[str, int | None, str | None, str | None]:
    return (address.stage, address.iteration, address.model, address.task)


def _weights(model: ModelSpec, digests: Mapping[str, str]) -> dict[str, Any]:
    if model.name in digests:
        return {"digest": digests[model.name]}
    return {"path": model.path, "revision": model.revision}


PROBE = TaskRow(prompt_id="probe", split="train", question="1_3__2__3__1_4__", reference="1", columns={})
"""A made-up row. Rendering it shows templates and few-shot examples, which so enter the fingerprint."""


def _template_digest(task: Task, style: PromptStyle) -> str:
    return digest(task.generation_prompt(PROBE, style))[:16]


UNTRUSTED = "f(task):1"
"""A made-up answer: how it is shown tells what is done to untrusted text before a verifier sees it."""


def _verification_digest(task: Task, method: VerificationMethod, style: PromptStyle) -> str:
    if not method.asks:
        return ""
    prompts = dict.fromkeys(method.question(task, PROBE, answer, style) for answer in ("1", UNTRUSTED))
    return digest("\n".join([*prompts, *task.verdict_labels(style)]))[:16]


def _reader_fields(method: VerificationMethod, style: PromptStyle) -> dict[str, str]:
    """How untrusted text is shown and replies are read, where that ever changed what came of it.

    Pico policies are shown cleaned answers and reply in the few characters they were taught. 367,000 of their
    stored replies read the same by every version, so what they verified is not made stale.
    """
    return {"reader": READER_VERSION} if method.asks and style != "pico" else {}


def _refuse_what_changes_nothing(spec: VerificationSpec, method: VerificationMethod) -> None:
    """A field that a method does not look at is a misunderstanding, not a preference."""
    idle = [*spec.sampling, *(["on_unparsed: resample"] if spec.resamples else [])]
    if idle and not method.samples:
        raise ValueError(
            f"verification {spec.name!r}: method {spec.method} draws no replies, so {', '.join(idle)} "
            "would change nothing: leave it out"
        )
    if method.sees_truth and spec.verifier != SELF:
        raise ValueError(f"verification {spec.name!r}: method {spec.method} asks no verifier: leave it out")
    if spec.only_teaches and method.compares:
        raise ValueError(
            f"verification {spec.name!r}: the score of {spec.method} is of all responses of a prompt, "
            "so it cannot verify a few of them: set only_teaches to false"
        )


def _refuse_truth_as_teacher(spec: VerificationSpec, teacher: VerificationSpec, oracle: bool) -> None:
    """What a student learns from it weights training, sooner or later."""
    if load_method(teacher.method).sees_truth and not oracle:
        raise ValueError(
            f"verification {spec.name!r}: its teacher {teacher.name!r} reads ground truth: say `oracle: "
            "true` in the study if that bound is meant, or choose another teacher"
        )
