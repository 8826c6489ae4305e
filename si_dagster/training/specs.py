"""What a training process is told: one JSON file, read and checked before anything heavy is imported.

Fields of recipes are those of the study; here are the paths and seeds that a study does not have.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from si_dagster.study import DistillationSpec, PretrainRecipe


class TrainingSpec(BaseModel):
    """Common to all trainers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    output_dir: Path
    """Folder for the checkpoint and result.json; nothing is written elsewhere."""
    task: str
    """Name of the task whose pre-training text is used."""
    task_options: dict[str, Any] = {}
    seed: int

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The spec in a JSON file."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))


class PretrainSpec(TrainingSpec):
    """Pre-training of a pico policy from scratch."""

    recipe: PretrainRecipe


class SftSpec(TrainingSpec):
    """Supervised fine-tuning of a policy on weighted rows."""

    model_dir: Path
    """Checkpoint to start from."""
    train_files: list[Path]
    """Parquet with columns prompt, completion, weight."""
    distillation: DistillationSpec
    trust_remote_code: bool = False
