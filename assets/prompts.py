"""prompts: what the policy is asked, in a training and an evaluation split that never mix."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.generations import sampling_params
from si_dagster.stages.made_prompts import made_rows
from si_dagster.stages.prompts import Render, num_dealt_before, prompt_table, rendered_table

CARD = """Prompts of one task, rendered for one model.

Training prompts are drawn anew in every iteration (unless the study says otherwise): from a data set none
twice while it lasts, then it is shuffled and dealt again; `num_prompts_seen_before` counts those. Evaluation
prompts are the same in all, so that iterations are compared on the same prompts.

Reads: the task of the study; for chat models the base checkpoint, whose chat template renders them; for a
task whose training prompts the policy makes up, the policy of the iteration.

Writes: prompt_id, split, position, question, reference, prompt, slices; one part a split.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Draw and render the prompts of one split."""
    split = run.node.address.part
    assert split in ("train", "eval")
    num_rows = getattr(run.study.splits, split)
    template = run.chat_template("tokenizer") if run.style == "chat" else None
    render = template.render if template else str
    if "policy" in run.node.inputs:
        return _made_up(run, num_rows, render)
    deal = run.node.fields.get("deal")
    table = prompt_table(run.task, split, num_rows, run.seed, run.style, deal, render)
    run.write_whole(table)
    repeated = num_dealt_before(run.task, split, num_rows, deal)
    if repeated:
        run.context.log.warning(f"{repeated} of {num_rows} training prompts were in earlier iterations")
    return {
        "num_prompts": table.height,
        "num_prompts_seen_before": repeated,
        "first_prompt": table["prompt"][0],
    }


def _made_up(run: StageRun, num_rows: int, render: Render) -> dict[str, Any]:
    """Let the policy make up the training prompts."""
    voting = sampling_params(run.study.generation, (), run.seed)
    with run.engine_cost("policy") as (engine, cost), run.progress(num_rows, "prompts") as progress:

        def advance(count: int) -> None:
            run.save_cost()
            progress.advance(count)

        spoken = run.spoken(engine, "policy")
        rows, making = made_rows(run.task, spoken, run.style, num_rows, voting, run.seed, advance)
    table = rendered_table(run.task, "train", rows, run.style, render)
    run.write_whole(table)
    return {"num_prompts": table.height, "first_prompt": table["prompt"][0], **vars(making), **cost}
