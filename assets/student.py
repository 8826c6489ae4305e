"""student: the verifier of a cheap verification, fitted to score differences of a dear one."""

from typing import Any

from assets.base_checkpoint import training_metadata
from resources.stage_run import StageRun
from si_dagster.study import DistillationSpec, StudentSpec

CARD = """A base policy taught to rank responses as a dear verification does, from a few of its scores.

Made once, in iteration 0; it verifies in all iterations. No ground truth is involved.

Reads: teaching_set; start_policy: the base checkpoint it begins as.

Writes: a Hugging Face checkpoint (config, safetensors, tokenizer), which every engine loads.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Train in a process of its own."""
    rows, recipe = run.artifact("teaching_set"), run.verification.student or StudentSpec()
    if not rows.manifest.metadata["num_comparisons"]:
        raise ValueError(
            f"nothing to compare: of {rows.manifest.metadata['num_teacher_verifications']} verifications by "
            f"{run.verification.teacher!r} no two are readable and of one prompt; raise budget, take more "
            "generations a prompt, or choose another teacher"
        )
    model = run.plan.model_of(run.node.address)
    labels = run.task.verdict_labels(model.style)
    task = run.study.task(run.node.address.task or "")
    spec = {
        "distillation": DistillationSpec(**recipe.model_dump()).model_dump(mode="json"),
        "recipe_name": "student",
        "model_dir": str(run.checkpoint("start_policy")),
        "train_files": [str(path) for path in rows.part_paths],
        # A label opens the turn of a chat model, so no space comes before it; see ChatEngine.
        "labels": [label.lstrip() for label in labels] if model.style == "chat" else list(labels),
        "task": task.name,
        "task_options": task.options,
        "seed": run.seed,
        "trust_remote_code": model.trust_remote_code,
    }
    return training_metadata(run.fine_tune("si_dagster.training.comparative", spec))
