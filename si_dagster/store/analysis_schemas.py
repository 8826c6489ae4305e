"""The declared columns of the analyses: one table each, over all iterations, models and tasks of a study.

How each number is made is in docs/analysis.md. Not here: the tables of the loop, which are in `schemas`.
"""

from dataclasses import replace

from si_dagster.store.columns import Column, TableStage, interval_columns

_CELL = (
    Column("iteration", "int", "Iteration t of the generator f_t."),
    Column("model", "string", "Name of the model that generates."),
    Column("task", "string", "Name of the task."),
)
_VERIFICATION = Column("verification", "string", "Name of the verification in the study, or of the ensemble.")


def _with_interval(name: str, description: str) -> tuple[Column, Column, Column]:
    """A number that first was stored without its interval."""
    value, low, high = interval_columns(name, description)
    return value, replace(low, added=True), replace(high, added=True)


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
        Column(
            "quantile",
            "float",
            "Where the cut lies among the scores: of the prompt, or of all prompts of the choosing half.",
        ),
        Column(
            "threshold",
            "float",
            "tau, for the rule `threshold` on a single score: its quantile on the choosing half.",
            True,
        ),
        *interval_columns("gap", "J(f[w]) - J(f) on all evaluation prompts; t interval, not adjusted."),
        *_with_interval("relative_gap", "Mean over prompts of gap_x / (1 - J_x); t interval."),
        *_with_interval(
            "pooled_gap", "Mean utility of all that is kept less that of all samples; t interval."
        ),
        *_with_interval("coverage", "Share of prompts of which something is kept; t interval."),
        *_with_interval("retained", "Share of samples kept; t interval."),
        Column("choosing_gap", "float", "Gap on the half of the prompts that cuts are chosen on.", True),
        *interval_columns("scoring_gap", "Gap on the other half; t interval, not adjusted."),
        Column("num_scoring_prompts", "int", "Prompts of that half that have a gap.", True, added=True),
        Column("is_chosen", "bool", "The best cut of its verification and rule on the choosing half."),
        Column(
            "p_value",
            "float",
            "Of `gap not above 0` there; one-sided t, null where gaps are all equal and above 0.",
            True,
        ),
        Column("p_holm", "float", "The same adjusted over all tests of the iteration, model and task.", True),
        Column("num_tests", "int", "Tests in that family; bounds are not tested."),
        Column("rows_entering", "int", "Training rows this cut keeps and the study's rule does not.", True),
        Column("rows_leaving", "int", "Training rows the study's rule keeps and this cut does not.", True),
        Column("rows_staying", "int", "Training rows that both keep.", True),
    ),
    ("iteration", "model", "task", "kind", "verification", "rule", "quantile"),
)

_GAP = interval_columns("gap", "J(f[w]) - J(f) under the study's rule.")
_RELATIVE_GAP = interval_columns("relative_gap", "Mean over prompts of gap_x / (1 - J_x).")
_EXPECTED = interval_columns("expected_utility", "J(f): mean over prompts of the mean utility.")
_AUROC = _with_interval("auroc_per_prompt", "Mean over prompts of the area under the ROC curve within.")
_NUM_PROMPTS = Column("num_prompts", "int", "Prompts the numbers rest on.")

_CROSS_VERIFICATION = TableStage(
    "cross_verification",
    "cross_verification",
    "One generator judged by one verifier, on evaluation prompts.",
    (
        *_CELL,
        _VERIFICATION,
        Column("method", "string", "Method in the catalogue of verification methods, or the ensemble."),
        Column("verifier", "string", "`self`, `base` or the model that verifies; `ensemble` of an ensemble."),
        *_EXPECTED,
        *_GAP,
        *_RELATIVE_GAP,
        *interval_columns(
            "over_self", "Gap less that of self-verification by the same method, paired by prompt."
        ),
        *_AUROC,
        _NUM_PROMPTS,
    ),
    ("iteration", "model", "task", "verification"),
)

MEASURES = ("relative_gap", "gap", "tpr", "fpr")

_SCALING = TableStage(
    "scaling",
    "scaling",
    "A line through the base policies of one family: a measure on log10 of pre-training FLOPs.",
    (
        Column("family", "string", "Family of the models."),
        Column("task", "string", "Name of the task."),
        _VERIFICATION,
        Column("measure", "string", "What is fitted.", choices=MEASURES),
        *interval_columns("slope", "Change of the measure per tenfold FLOPs; t interval of the residuals."),
        Column("intercept", "float", "Of the line, at log10 FLOPs = 0.", True),
        Column("kendall_tau", "float", "Kendall's tau-b: does it rise at all, line or not.", True),
        Column("kendall_p_value", "float", "Of tau = 0, two-sided.", True),
        Column("num_models", "int", "Points behind the line."),
        Column("min_log10_flops", "float", "Smallest model."),
        Column("max_log10_flops", "float", "Largest model."),
        Column("points", "string", "JSON list of [model, log10 FLOPs, value, low, high]."),
    ),
    ("family", "task", "verification", "measure"),
)

_VERIFIER_QUALITY = TableStage(
    "verifier_quality",
    "verifier_quality",
    "One verification on the prompts of one range of difficulty.",
    (
        *_CELL,
        _VERIFICATION,
        Column("difficulty", "string", "Range of J_x of the prompts; `all` for all of them."),
        Column("difficulty_rank", "int", "Order of the ranges, hardest first; `all` is 0."),
        Column("num_prompts", "int", "Prompts in the range."),
        *_with_interval("expected_utility", "Mean J_x."),
        *_with_interval("gap", "Mean gap_x, by the study's convention for prompts without survivors."),
        *interval_columns("coverage", "Share of prompts of which something is kept.", added=True),
        *_with_interval("tpr", "Share of right samples that keep a positive weight."),
        *_with_interval("fpr", "Share of wrong samples that keep a positive weight."),
        *_AUROC,
        *interval_columns(
            "calibration_error",
            "Mean distance of score and share right over ten ranges; of `all` prompts alone, of "
            "scores that are probabilities.",
        ),
        *_with_interval("mean_proxy_utility", "Mean score of the graded samples."),
    ),
    ("iteration", "model", "task", "verification", "difficulty"),
)

_VERIFIER_OVERLAP = TableStage(
    "verifier_overlap",
    "verifier_overlap",
    "Two verifications of the same generations, side by side.",
    (
        *_CELL,
        Column("verification", "string", "The first."),
        Column("other", "string", "The second."),
        Column("num_samples", "int", "Samples that both could be read on.", True, added=True),
        *interval_columns("pearson", "Correlation of their scores over these; null below three."),
        *interval_columns("spearman", "Correlation of their ranks among these; null below three."),
        *_with_interval("spearman_per_prompt", "The same within each prompt, then the mean."),
        *interval_columns("jaccard", "Samples both keep over samples either keeps, under the study's rule."),
        *_with_interval("jaccard_by_chance", "The same if they kept independently within each prompt."),
    ),
    ("iteration", "model", "task", "verification", "other"),
)

_DIVERSITY = TableStage(
    "diversity",
    "diversity",
    "One measure of how different the answers of a policy are.",
    (
        *_CELL,
        Column(
            "measure",
            "string",
            "`pass_at_k`, `distinct_answers`, `answer_entropy` (nats), `answered` (share), or `crossing_k`: "
            "the smallest k at which pass@k is below that of the base.",
        ),
        Column("k", "int", "k of pass@k; 0 for the other measures."),
        *interval_columns("value", "The measure, mean over prompts."),
        *interval_columns("over_base", "The measure less that of iteration 0, paired by prompt."),
        Column(
            "num_prompts",
            "int",
            "Prompts the value rests on: pass@k is of those with k graded answers.",
            True,
            added=True,
        ),
    ),
    ("iteration", "model", "task", "measure", "k"),
)

_DYNAMICS = TableStage(
    "dynamics",
    "dynamics",
    "The first gaps of one loop as an exponential, and what it predicts.",
    (
        Column("model", "string", "Name of the model."),
        Column("task", "string", "Name of the task."),
        Column("verification", "string", "The verification that weights training."),
        Column("num_fitted", "int", "Iterations the fit has seen, from 0."),
        *interval_columns("initial_gap", "A of gap_t = A r^t."),
        *interval_columns("decay", "r of gap_t = A r^t, in [0, 1]."),
        *interval_columns("conversion", "Share of a gap that arrives in J, over the fitted updates."),
        *interval_columns("plateau", "J the loop is predicted to end at."),
        *interval_columns(
            "stop_iteration", "First iteration whose predicted gap is not told from the study's bound."
        ),
        Column("last_iteration", "int", "Last iteration that was measured."),
        *interval_columns(
            "predicted_last", "J predicted for the last iteration; null where the fit has seen it."
        ),
        Column("observed_last", "float", "J measured in the last iteration."),
        *interval_columns("prediction_error", "Observed less predicted, on the same resamples."),
    ),
    ("model", "task", "verification"),
)

BASELINES = ("random_filter", "majority_vote", "oracle_filter", "same_cost")

_BASELINES = TableStage(
    "baselines",
    "baselines",
    "A verification beside what its place could be taken by.",
    (
        *_CELL,
        _VERIFICATION,
        Column(
            "baseline",
            "string",
            "`random_filter` keeps as many of each prompt by lot; `majority_vote` keeps the most common "
            "answer; `oracle_filter` keeps what is right; `same_cost` is the verification on as many "
            "generations as leave room for its own cost; none of tournaments.",
            choices=BASELINES,
        ),
        Column("is_oracle", "bool", "Whether it reads ground truth: a bound, not a method."),
        Column("num_generations", "int", "Generations a prompt that it uses."),
        Column(
            "relative_cost", "float", "FLOPs of verifying over FLOPs of generating; null if unknown.", True
        ),
        *interval_columns("gap", "J after the baseline less J before."),
        *interval_columns(
            "advantage", "Gap of the verification less that of the baseline, paired by prompt."
        ),
        *interval_columns(
            "same_cost_advantage",
            "Gap of the verification at the same cost less that of the baseline, which has all n; paired.",
            added=True,
        ),
    ),
    ("iteration", "model", "task", "verification", "baseline"),
)

_ABLATIONS = TableStage(
    "ablations",
    "ablations",
    "The gap had fewer generations, or verifications of each, been drawn.",
    (
        *_CELL,
        _VERIFICATION,
        Column("factor", "string", "What is fewer.", choices=("n", "M")),
        Column("level", "int", "How many."),
        *_GAP,
        *_RELATIVE_GAP,
        Column("num_subsamples", "int", "Disjoint subsamples the numbers are the mean of."),
    ),
    ("iteration", "model", "task", "verification", "factor", "level"),
)

_SLICES = TableStage(
    "slices",
    "slices",
    "The gap on the prompts that share one value of a column.",
    (
        *_CELL,
        _VERIFICATION,
        Column("column", "string", "Column of the prompts."),
        Column("value", "string", "Its value, or the range of a quarter of the prompts."),
        Column("value_rank", "int", "Order of the values."),
        *_EXPECTED,
        *_GAP,
        *_RELATIVE_GAP,
        _NUM_PROMPTS,
    ),
    ("iteration", "model", "task", "verification", "column", "value"),
)

OTHER_GAPS = (
    "generation_verification_gap",
    "pooled_gap",
    "best_of_n_gap",
    "pass_at_n_minus_selected",
    "pass_at_n_minus_expected",
    "majority_minus_expected",
    "auroc_over_chance",
    "match_accuracy_over_chance",
)

_OTHER_GAPS = TableStage(
    "other_gaps",
    "other_gaps",
    "One of the quantities that are called a gap, under its own name.",
    (
        *_CELL,
        _VERIFICATION,
        Column("meaning", "string", "Which gap; defined in docs/analysis.md.", choices=OTHER_GAPS),
        *interval_columns("value", "Its value."),
    ),
    ("iteration", "model", "task", "verification", "meaning"),
)

_CHEAP_VERIFIER = TableStage(
    "cheap_verifier",
    "cheap_verifier",
    "One student beside its teacher, on evaluation prompts.",
    (
        *_CELL,
        Column("verification", "string", "Name of the cheap verification in the study."),
        Column("teacher", "string", "Name of the verification it was taught by."),
        Column("budget", "int", "Responses whose score by the teacher it may have seen; 0: untaught."),
        Column("num_teacher_verifications", "int", "Verifications by the teacher that were spent on it."),
        Column("num_comparisons", "int", "Pairs of responses of one prompt among them."),
        *interval_columns(
            "pair_agreement",
            "Share of the pairs of a prompt that the teacher tells apart which the student orders alike, "
            "ties of the student half; mean over prompts. Chance is 1/2.",
        ),
        *interval_columns("spearman", "Spearman correlation within the prompt; mean over prompts."),
        *interval_columns(
            "auroc", "Chance that a right sample outscores a wrong one by the student, within the prompt."
        ),
        *interval_columns("over_teacher", "That less the same by the teacher, paired by prompt."),
        Column("teacher_flops", "float", "FLOPs of the teacher's verifications it was taught with.", True),
        Column("training_flops", "float", "6 N a token of its training.", True),
        Column("training_seconds", "float", "Of its training.", True),
        Column(
            "relative_cost",
            "float",
            "FLOPs of the student a response over those of the teacher; null if unknown.",
            True,
        ),
        _NUM_PROMPTS,
    ),
    ("iteration", "model", "task", "verification"),
)

_SHARPENING = TableStage(
    "sharpening",
    "sharpening",
    "One policy under its own log-likelihood as reward; none where the study has no `log_likelihood`.",
    (
        *_CELL,
        _VERIFICATION,
        *_EXPECTED,
        *interval_columns("likeliest", "The same of the likeliest of the N answers of each prompt."),
        *interval_columns(
            "greedy",
            "The same of the base in the study named by `analysis.greedy`, which decoded at temperature 0; "
            "of iteration 0 alone.",
        ),
        *interval_columns(
            "inverse_likelihood", "1 / pi(y*|x), y* being the likeliest answer drawn; mean over prompts."
        ),
        Column("inverse_likelihood_median", "float", "Median over prompts of the same.", True),
        _NUM_PROMPTS,
        Column("n", "int", "Generations a prompt that y* is the likeliest of."),
    ),
    ("iteration", "model", "task", "verification"),
)

ANALYSIS_TABLES = (
    _THRESHOLD_SWEEP,
    _CROSS_VERIFICATION,
    _SCALING,
    _VERIFIER_QUALITY,
    _VERIFIER_OVERLAP,
    _DIVERSITY,
    _DYNAMICS,
    _BASELINES,
    _ABLATIONS,
    _SLICES,
    _OTHER_GAPS,
    _CHEAP_VERIFIER,
    _SHARPENING,
)
"""In the order of the report."""
