"""filtered_set: the generations that verification lets through, with their weights."""

from dataclasses import asdict
from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.filtered_set import filtered_table
from si_dagster.stages.weighting import weighted_scores

CARD = """The training set of the next policy: generations of training prompts, weighted by proxy utility.

No ground truth is involved: a row is here because the verifier scored it.

Reads: prompts, generations, verifications (of the training split only).

Writes: training_row_id, generation_id, prompt_id, sample_index, prompt, completion, proxy_utility, weight,
num_duplicates; for preference methods a row is a pair: also rejected_generation_id, rejected_completion,
rejected_proxy_utility.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Weigh, cap and keep."""
    scores = weighted_scores(run.study, run.scorer, run.scored(), run.seed)
    table, summary = filtered_table(
        run.read("prompts", ["prompt_id", "prompt"]),
        run.read("generations", ["generation_id", "completion", "finish_reason"]),
        scores,
        run.study.weighting,
        run.seed,
        run.node.address,
        run.study.distillation.pairing,
    )
    run.write_whole(table)
    return {
        **asdict(summary),
        "num_kept": table.height,
        "num_kept_prompts": table["prompt_id"].n_unique(),
        "distinct_share": table.select("prompt", "completion").n_unique() / max(table.height, 1),
    }
