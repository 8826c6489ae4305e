"""base_checkpoint: f_0, pre-trained by the study's recipe, or a given model pinned by its bytes."""

import shutil
from typing import Any

from resources.stage_run import StageRun
from si_dagster.analysis.plots import loss_chart, to_markdown
from si_dagster.stages.base_checkpoint import resolve_model, write_reference
from si_dagster.store.artifacts import Artifact

CARD = """The base policy f_0 that every lineage of this study ends in.

Either a pico policy trained from scratch here (its pre-training FLOPs, 6 N D, are known exactly), or a
reference to a Hugging Face folder with the digest of its bytes.

Reads: the model of the study; for `pretrain`, pre-training text of the task.

Writes: a Hugging Face checkpoint (config, safetensors, tokenizer), or reference.json. A policy that another
study of this home has trained by the very same recipe is copied, and `copied_from` says from where: its
metadata tell of the training there, whose cost is counted there alone.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Train or pin the base policy."""
    model = run.model
    if model.pretrain is None:
        folder = resolve_model(model.path or "", model.revision)
        output = run.output_folder
        reference = write_reference(output, folder, model.path or "", model.revision)
        run.writer.adopt_folder(output)
        return reference
    twin = run.twin()
    if twin is not None:
        return _copied(run, twin)
    task = run.study.task(run.node.address.task or "")
    spec = {
        "recipe": model.pretrain.model_dump(mode="json"),
        "task": task.name,
        "task_options": task.options,
        "seed": run.seed,
    }
    return training_metadata(run.train("si_dagster.training.pretrain", spec))


def _copied(run: StageRun, twin: Artifact) -> dict[str, Any]:
    """Take over what another study trained by this recipe, with what it cost there."""
    run.context.log.info(f"{run.node.address.artifact_id}: copied from {twin.manifest.artifact_id}")
    output, source = run.output_folder, twin.path
    for entry in twin.manifest.files:
        shutil.copyfile(source / entry.name, output / entry.name)
    run.writer.adopt_folder(output)
    return {**twin.manifest.metadata, "copied_from": twin.manifest.artifact_id}


def training_metadata(result: dict[str, Any]) -> dict[str, Any]:
    """What a person looks for in a training result: numbers, and the loss as a picture."""
    metadata = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
    curve = result.get("loss_curve") or []
    if len(curve) > 1:
        metadata["plot"] = to_markdown(loss_chart(*zip(*curve, strict=True)), "training loss")
    return metadata
