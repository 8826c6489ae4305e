"""Where things lie: an address is said, not hashed.

An `Address` names one artifact and is its folder below `<home>/data`; row ids begin with an address, so
an id found anywhere leads to its artifact by hand. Not here: reading or writing, and whether a stage
exists (`schemas` knows).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from si_dagster.store.errors import AddressError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""Letters, digits, `.`, `_`, `-`; no leading dot, so no name is hidden, `.` or `..`."""

_ITERATION = re.compile(r"iteration_(0|[1-9][0-9]*)")
_ROW = "::"

ANALYSIS = "analysis"
ANALYSES = (
    "threshold_sweep",
    "cross_verification",
    "scaling",
    "verifier_quality",
    "verifier_overlap",
    "diversity",
    "dynamics",
    "baselines",
    "ablations",
    "slices",
    "other_gaps",
    "cheap_verifier",
    "sharpening",
)
"""Stages that follow the loop and lie together, below `<study>/analysis/`."""


def default_home() -> Path:
    """The folder named by `SI_DAGSTER_HOME`, else `./.si`, absolute."""
    return Path(os.environ.get("SI_DAGSTER_HOME") or ".si").absolute()


def check_name(kind: str, value: object) -> str:
    """The name itself, if it can be a folder name and part of an id.

    Raises:
        AddressError: If it holds anything but letters, digits, `.`, `_`, `-`, or begins with a dot.

    Examples:
        >>> check_name("model", "qwen-2.5_7b")
        'qwen-2.5_7b'
    """
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise AddressError(
            f"{kind} name {value!r} cannot be part of an address: use 1 to 128 letters, digits, "
            "'.', '_', '-', not beginning with '.'"
        )
    return value


@dataclass(frozen=True, order=True)
class Address:
    """The place of one artifact.

    Examples:
        >>> address = Address("pico", 2, "generations", "s", "sudoku4")
        >>> address.artifact_id
        'pico/iteration_2/generations/s|sudoku4'
        >>> Address.parse("pico/base_checkpoint/s")
        Address(study='pico', iteration=None, stage='base_checkpoint', model='s', task=None, part=None)

    Attributes:
        study: Name of the study.
        iteration: Number of the iteration, from 0; `None` for what precedes or follows the loop.
        stage: Name of the stage, a key of `schemas.STAGES`.
        model: Name of the model in the study; `None` where the artifact is of no single model.
        task: Name of the task; `None` where the artifact is of no single task.
        part: A further name below the cell (a verification method, a split); needs a model or a task.

    Raises:
        AddressError: If a name could leave its folder or be mistaken for another part of the address.
    """

    study: str
    iteration: int | None
    stage: str
    model: str | None = None
    task: str | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        for kind in ("study", "stage", "model", "task", "part"):
            value = getattr(self, kind)
            if value is not None or kind in ("study", "stage"):
                check_name(kind, value)
        if self.stage.startswith("iteration_"):
            raise AddressError(f"stage name {self.stage!r} reads as an iteration: choose another name")
        if self.stage in ANALYSES and self.iteration is not None:
            raise AddressError(f"{self.stage} is of all iterations and cannot lie in one")
        if self.iteration is not None and (type(self.iteration) is not int or self.iteration < 0):
            raise AddressError(f"iteration {self.iteration!r} must be an int from 0, or None")
        if self.part is not None and self.cell is None:
            raise AddressError(f"part {self.part!r} needs a model or a task to lie below")

    @property
    def cell(self) -> str | None:
        """`<model>|<task>`, `<model>`, `|<task>`, or `None` where neither is named."""
        if self.task is not None:
            return f"{self.model or ''}|{self.task}"
        return self.model

    @property
    def key(self) -> tuple[str, ...]:
        """Study, iteration (where there is one) and stage: the key of the asset whose partition is the cell.

        Examples:
            >>> Address("pico", 0, "prompts", None, "facts").key
            ('pico', 'iteration_0', 'prompts')
        """
        if self.stage in ANALYSES:
            return (self.study, ANALYSIS, self.stage)
        iteration = () if self.iteration is None else (f"iteration_{self.iteration}",)
        return (self.study, *iteration, self.stage)

    @property
    def artifact_id(self) -> str:
        """The address as text: the path below `<home>/data`."""
        return "/".join([*self.key, *(name for name in (self.cell, self.part) if name is not None)])

    @classmethod
    def parse(cls, artifact_id: str) -> "Address":
        """Read an artifact id back.

        Raises:
            AddressError: If the text is not an artifact id.
        """
        names = artifact_id.split("/")
        iteration = _ITERATION.fullmatch(names[1]) if len(names) > 1 else None
        is_analysis = len(names) > 2 and names[1] == ANALYSIS
        rest = names[2:] if iteration or is_analysis else names[1:]
        if not 1 <= len(rest) <= 3:
            raise AddressError(f"{artifact_id!r} is not <study>[/iteration_<t>]/<stage>[/<cell>[/<part>]]")
        model, _, task = rest[1].partition("|") if len(rest) > 1 else ("", "", "")
        address = cls(
            names[0],
            int(iteration[1]) if iteration else None,
            rest[0],
            model or None,
            task or None,
            rest[2] if len(rest) > 2 else None,
        )
        if address.artifact_id != artifact_id:
            raise AddressError(f"{artifact_id!r} is not written as {address.artifact_id!r}")
        return address


def data_dir(home: Path) -> Path:
    """The folder all artifacts lie in."""
    return home / "data"


def folder(home: Path, address: Address) -> Path:
    """The folder of one artifact."""
    return data_dir(home).joinpath(*address.artifact_id.split("/"))


def superseded_dir(home: Path) -> Path:
    """The folder that replaced artifacts are moved to; nothing in it is ever deleted."""
    return data_dir(home) / ".superseded"


def generation_id(address: Address, prompt_id: str, sample_index: int) -> str:
    """Natural key of one draw: `<study>/iteration_<t>/<model>|<task>/<prompt_id>/<sample_index>`.

    Stage and part are not in it: one draw has one id, wherever its row is stored.

    Raises:
        AddressError: If the address names no iteration, model or task, or the prompt id is empty.

    Examples:
        >>> generation_id(Address("pico", 1, "generations", "s", "facts"), "eval-7", 3)
        'pico/iteration_1/s|facts/eval-7/3'
    """
    if address.iteration is None or address.model is None or address.task is None:
        raise AddressError(
            f"a generation needs iteration, model and task; {address.artifact_id!r} names fewer"
        )
    if not prompt_id or sample_index < 0:
        raise AddressError(f"prompt id {prompt_id!r} and sample index {sample_index} name no draw")
    return f"{address.study}/iteration_{address.iteration}/{address.cell}/{prompt_id}/{sample_index}"


@dataclass(frozen=True)
class GenerationKey:
    """The parts of a generation id; `address` is that of the generations artifact without part."""

    address: Address
    prompt_id: str
    sample_index: int


def parse_generation_id(text: str) -> GenerationKey:
    """Read a generation id back; prompt ids may hold slashes.

    Raises:
        AddressError: If the text is not a generation id.

    Examples:
        >>> parse_generation_id("pico/iteration_1/s|facts/eval/7/3").prompt_id
        'eval/7'
    """
    names = text.split("/")
    iteration = _ITERATION.fullmatch(names[1]) if len(names) >= 5 else None
    if iteration is None or "|" not in names[2] or not re.fullmatch(r"[0-9]+", names[-1]):
        raise AddressError(f"{text!r} is not <study>/iteration_<t>/<model>|<task>/<prompt_id>/<sample_index>")
    model, _, task = names[2].partition("|")
    address = Address(names[0], int(iteration[1]), "generations", model, task)
    return GenerationKey(address, "/".join(names[3:-1]), int(names[-1]))


def verification_id(generation: str, verification: str, verification_index: int) -> str:
    """Natural key of one act of checking: `<generation_id>/<verification>/<m>`.

    Examples:
        >>> verification_id("pico/iteration_1/s|facts/eval-7/3", "mc", 0)
        'pico/iteration_1/s|facts/eval-7/3/mc/0'
    """
    check_name("verification", verification)
    return f"{generation}/{verification}/{verification_index}"


def training_row_id(filtered_set: Address, generation: str) -> str:
    """Natural key of one training row: `<artifact id of the filtered set>::<generation_id>`.

    Examples:
        >>> training_row_id(Address("p", 1, "filtered_set", "s", "f"), "p/iteration_1/s|f/train-7/3")
        'p/iteration_1/filtered_set/s|f::p/iteration_1/s|f/train-7/3'
    """
    return f"{filtered_set.artifact_id}{_ROW}{generation}"


def parse_training_row_id(text: str) -> tuple[Address, str]:
    """The filtered set and the generation a training row id names.

    Raises:
        AddressError: If the text is not a training row id.
    """
    artifact_id, separator, generation = text.partition(_ROW)
    if not separator:
        raise AddressError(f"{text!r} is not <artifact id>::<generation id>")
    return Address.parse(artifact_id), generation
