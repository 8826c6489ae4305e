"""checkpoint: f_{t+1}, distilled from the filtered set by supervised fine-tuning."""

from typing import Any

from assets.base_checkpoint import training_metadata
from resources.stage_run import StageRun

CARD = """The next policy f_{t+1}, trained on the filtered set with its weights.

Reads: filtered_set; start_policy: the policy of this iteration, or the base, as the study says.

Writes: a Hugging Face checkpoint (config, safetensors, tokenizer). Its training rows, with their weights,
are in the lineage: table training_rows.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Train in a process of its own."""
    rows = run.artifact("filtered_set")
    if rows.manifest.num_rows == 0:
        raise ValueError(
            "the filtered set is empty: the verifier let nothing through, so there is nothing to train on; "
            "loosen weighting (q, tau) or stop here"
        )
    task = run.study.task(run.node.address.task or "")
    spec = {
        "distillation": run.study.distillation.model_dump(mode="json"),
        "model_dir": str(run.checkpoint("start_policy")),
        "train_files": [str(rows.path / file.name) for file in rows.manifest.files],
        "task": task.name,
        "task_options": task.options,
        "seed": run.seed,
        "trust_remote_code": run.model.trust_remote_code,
    }
    return training_metadata(run.train("si_dagster.training.sft", spec))
