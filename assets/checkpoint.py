"""checkpoint: f_{t+1}, distilled from the filtered set by supervised fine-tuning or on pairs."""

from typing import Any

from assets.base_checkpoint import training_metadata
from resources.stage_run import StageRun
from si_dagster.store.artifacts import Artifact

CARD = """The next policy f_{t+1}, trained on the filtered set with its weights.

Reads: filtered_set; start_policy: the policy of this iteration, or the base, as the study says; replay:
filtered sets of earlier iterations, where the study asks for them. Of a joint study, those of all tasks.

Writes: a Hugging Face checkpoint (config, safetensors, tokenizer). Its training rows, with their weights,
are in the lineage: table training_rows.
"""

EMPTY_ROWS = (
    "the filtered set is empty: the verifier let nothing through, so there is nothing to train on; loosen "
    "weighting (q, tau) or stop here"
)
EMPTY_PAIRS = (
    "the filtered set has no pair: no prompt has both an accepted and a lower-scored rejected generation; "
    "change weighting (q, tau), take more generations a prompt, or stop here"
)


def materialize(run: StageRun) -> dict[str, Any]:
    """Train in a process of its own."""
    rows = [run.artifact(role) for role in _roles(run, "filtered_set")]
    if not any(artifact.manifest.num_rows for artifact in rows):
        raise ValueError(EMPTY_PAIRS if run.study.distillation.pairing else EMPTY_ROWS)
    # Of a joint policy no task's text is replayed; the first stands for it.
    task = run.study.task(run.node.address.task or run.study.tasks[0].name)
    spec = {
        "distillation": run.study.distillation.model_dump(mode="json"),
        "model_dir": str(run.checkpoint("start_policy")),
        "train_files": _parts(rows[0]),
        "further_files": [_parts(artifact) for artifact in rows[1:]],
        "replay_files": [_parts(run.artifact(role)) for role in _roles(run, "replay")],
        "task": task.name,
        "task_options": task.options,
        "seed": run.seed,
        "trust_remote_code": run.model.trust_remote_code,
    }
    module = "preference" if run.study.distillation.pairing else "sft"
    return training_metadata(run.fine_tune(f"si_dagster.training.{module}", spec))


def _roles(run: StageRun, kind: str) -> list[str]:
    """Roles of that kind, in the order of the plan: by iteration, then by task."""
    return [role for role in run.node.inputs if role.partition(".")[0] == kind]


def _parts(rows: Artifact) -> list[str]:
    return [str(path) for path in rows.part_paths]
