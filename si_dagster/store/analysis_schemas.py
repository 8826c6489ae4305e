"""The declared columns of the analyses: one table each, over all iterations, models and tasks of a study.

How each number is made is in docs/analysis.md. Not here: the tables of the loop, which are in `schemas`.
"""

from si_dagster.store.columns import Column, TableStage, interval_columns

_CELL = (
    Column("iteration", "int", "Iteration t of the generator f_t."),
    Column("model", "string", "Name of the model that generates."),
    Column("task", "string", "Name of the task."),
)
_VERIFICATION = Column("verification", "string", "Name of the verification in the study, or of the ensemble.")

KINDS = ("verification", "ensemble", "bound")

_THRESHOLD_SWEEP = TableStage(
    "threshold_sweep",
    "threshold_sweep",
    "What one cut of one verification or ensemble would have kept, and its gap on evaluation prompts.",
    (
        *_CELL,
        _VERIFICATION,
        Column(
            "kind",
            "string",
            "A verification of the study, an ensemble of all of them, or a bound (oracle, random).",
            choices=KINDS,
        ),
        Column(
            "rule",
            "string",
            "`quantile`: of each prompt's scores; `threshold`: one tau for all prompts.",
            choices=("quantile", "threshold"),
        ),
        Column("quantile", "float", "Where the cut lies among the scores: of the prompt, or of all prompts."),
        Column("threshold", "float", "tau, for the rule `threshold` on a single score.", True),
        *interval_columns("gap", "J(f[w]) - J(f) on all evaluation prompts; t interval, not adjusted."),
        Column("relative_gap", "float", "Mean over prompts of gap_x / (1 - J_x).", True),
        Column("pooled_gap", "float", "Mean utility of all that is kept less that of all samples.", True),
        Column("coverage", "float", "Share of prompts of which something is kept.", True),
        Column("retained", "float", "Share of samples kept.", True),
        Column("choosing_gap", "float", "Gap on the half of the prompts that cuts are chosen on.", True),
        *interval_columns("scoring_gap", "Gap on the other half; t interval, not adjusted."),
        Column("is_chosen", "bool", "The best cut of its verification and rule on the choosing half."),
        Column("p_value", "float", "Of `gap not above 0` on the scoring half; one-sided t.", True),
        Column("p_holm", "float", "The same adjusted over all tests of the iteration, model and task.", True),
        Column("num_tests", "int", "Tests in that family; bounds are not tested."),
        Column("rows_entering", "int", "Training rows this cut keeps and the study's rule does not.", True),
        Column("rows_leaving", "int", "Training rows the study's rule keeps and this cut does not.", True),
        Column("rows_staying", "int", "Training rows that both keep.", True),
    ),
    ("iteration", "model", "task", "kind", "verification", "rule", "quantile"),
)

ANALYSIS_TABLES = (_THRESHOLD_SWEEP,)
"""In the order of the report."""
