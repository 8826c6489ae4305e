"""utilities: the true utility of every generation. Ground truth: read by metrics and report alone."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.utilities import utility_table

CARD = """The true utility u(x, y) of every generation, by the grader of the task.

Ground truth. Only gap_metrics and the report read it; no filtered set and no checkpoint descends from it.

Reads: prompts (references), generations.

Writes: generation_id, prompt_id, split, sample_index, utility, strict_utility, status, extracted, rule,
detail; one part a split.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Grade all generations of one split."""
    table = utility_table(run.task, run.read("prompts"), run.read("generations"))
    run.write_whole(table)
    counts = table["status"].value_counts()
    return {
        "mean_utility": table["utility"].mean(),
        "mean_strict_utility": table["strict_utility"].mean(),
        **{f"num_{status}": count for status, count in counts.iter_rows()},
    }
