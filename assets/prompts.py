"""prompts: what the policy is asked, in a training and an evaluation split that never mix."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.prompts import prompt_table

CARD = """Prompts of one task, rendered for one model.

Training prompts are drawn anew in every iteration (unless the study says otherwise); evaluation prompts are
the same in all, so that iterations are compared on the same prompts.

Reads: the task of the study.

Writes: prompt_id, split, position, question, reference, prompt, slices; one part a split.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Draw and render the prompts of one split."""
    split = run.node.address.part
    assert split in ("train", "eval")
    num_rows = getattr(run.study.splits, split)
    table = prompt_table(run.task, split, num_rows, run.seed, run.style)
    run.write_whole(table)
    return {"num_prompts": table.height, "first_prompt": table["prompt"][0]}
