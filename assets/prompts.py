"""prompts: what the policy is asked, in a training and an evaluation split that never mix."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.prompts import num_dealt_before, prompt_table

CARD = """Prompts of one task, rendered for one model.

Training prompts are drawn anew in every iteration (unless the study says otherwise): from a data set none
twice while it lasts, then it is shuffled and dealt again; `num_prompts_seen_before` counts those. Evaluation
prompts are the same in all, so that iterations are compared on the same prompts.

Reads: the task of the study.

Writes: prompt_id, split, position, question, reference, prompt, slices; one part a split.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Draw and render the prompts of one split."""
    split = run.node.address.part
    assert split in ("train", "eval")
    num_rows = getattr(run.study.splits, split)
    deal = run.node.fields.get("deal")
    table = prompt_table(run.task, split, num_rows, run.seed, run.style, deal)
    run.write_whole(table)
    repeated = num_dealt_before(run.task, split, num_rows, deal)
    if repeated:
        run.context.log.warning(f"{repeated} of {num_rows} training prompts were in earlier iterations")
    return {
        "num_prompts": table.height,
        "num_prompts_seen_before": repeated,
        "first_prompt": table["prompt"][0],
    }
