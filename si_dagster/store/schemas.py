"""The declared columns of every stage: for checking what is written, for the UI and for docs/data.md.

Not here: what rows mean together (that a utility belongs to a generation is `lineage`'s), and the tables of
the analyses, which are in `analysis_schemas`.

`python -m si_dagster.store.schemas [PATH]` writes docs/data.md.
"""

import sys
from pathlib import Path

from si_dagster.store.analysis_schemas import ANALYSIS_TABLES
from si_dagster.store.columns import Column, FileStage, TableStage, interval_columns
from si_dagster.store.errors import StoreError

SPLITS = ("train", "eval")
STATUSES = ("scored", "unparsed", "truncated", "engine_error", "grader_error")


_PROMPT_ID = Column("prompt_id", "string", "Natural key of the prompt; holds its split.")
_SPLIT = Column("split", "string", "Which split the prompt belongs to.", choices=SPLITS)
_SAMPLE = Column("sample_index", "int", "Number of the draw among those of its prompt, from 0.")
_GENERATION = Column(
    "generation_id", "string", "`<study>/iteration_<t>/<model>|<task>/<prompt_id>/<sample_index>`."
)

_PROMPTS = TableStage(
    "prompts",
    "prompts",
    "One prompt, rendered for the generator, with its reference.",
    (
        _PROMPT_ID,
        _SPLIT,
        Column("position", "int", "Place of the prompt in its split, from 0."),
        Column("question", "string", "The bare question, as the task states it."),
        Column("reference", "string", "Gold answer; never rendered into a generation prompt."),
        Column("prompt", "string", "The very text the generator answers."),
        Column("slices", "string", "JSON object of further columns for slices (difficulty, subject)."),
    ),
    ("prompt_id",),
)

_GENERATIONS = TableStage(
    "generations",
    "generations",
    "One draw of a policy for one prompt.",
    (
        _GENERATION,
        _PROMPT_ID,
        _SPLIT,
        _SAMPLE,
        Column("completion", "string", "Decoded text, without stop string and special tokens."),
        Column(
            "finish_reason",
            "string",
            "`stop` (end token or stop string) or `length` (cut at max_tokens).",
            choices=("stop", "length"),
        ),
        Column("num_tokens", "int", "Sampled tokens, the end-of-sequence token included."),
        Column(
            "logprob",
            "float",
            "Summed log-probability of the sampled tokens under the policy itself (temperature 1), in nats; "
            "null where the engine gives none.",
            True,
        ),
    ),
    ("generation_id",),
)

_UTILITIES = TableStage(
    "utilities",
    "utilities",
    "The true utility of one generation, by the grader of its task.",
    (
        _GENERATION,
        _PROMPT_ID,
        _SPLIT,
        _SAMPLE,
        Column(
            "utility", "float", "u in [0, 1] under flexible extraction; null where the grader failed.", True
        ),
        Column("strict_utility", "float", "The same in the format the prompt asked for.", True),
        Column("status", "string", "Why the utility is there or missing.", choices=STATUSES),
        Column(
            "extracted", "string", "The normalised answer that was graded; null where none was found.", True
        ),
        Column("rule", "string", "Extraction rule and grading tier that decided, e.g. `boxed/numeric`."),
        Column("detail", "string", "What went wrong, for `grader_error`.", True),
    ),
    ("generation_id",),
)

_OF_GENERATIONS = ("verification_id", "generation_id", "prompt_id", "split", "sample_index")

_VERIFICATIONS = TableStage(
    "verifications",
    "verifications",
    "One act of checking: a verifier's verdict on one generation.",
    (
        Column("verification_id", "string", "`<generation_id>/<verification>/<verification_index>`."),
        _GENERATION,
        _PROMPT_ID,
        _SPLIT,
        _SAMPLE,
        Column("verification", "string", "Name of the verification in the study."),
        Column("method", "string", "Method in the catalogue of verification methods."),
        Column("verifier", "string", "Artifact id of the policy that verified."),
        Column("verification_index", "int", "m of the M verifications of this generation, from 0."),
        Column("proxy_utility", "float", "Score û of the generation; null unless `scored`.", True),
        Column("verdict", "string", "The verdict as parsed, before it became a score.", True),
        Column(
            "reply", "string", "The verifier's raw text; null for methods that read log-probabilities.", True
        ),
        Column("status", "string", "Why the score is there or missing.", choices=STATUSES),
    ),
    ("verification_id",),
)

_TEACHING_SET = TableStage(
    "teaching_set",
    "teaching_sets",
    "One response whose score by a dear verification a student learns from.",
    (
        _GENERATION,
        _PROMPT_ID,
        _SAMPLE,
        Column("question", "string", "The very text that the student reads."),
        Column("teacher", "string", "Name of the verification in the study that it learns from."),
        Column("num_verifications", "int", "Verifications by the teacher; their ids begin with both names."),
        Column("proxy_utility", "float", "Mean score of those that could be read."),
    ),
    ("generation_id",),
)

_PROBES = TableStage(
    "probes",
    "probes",
    "One act of checking an answer whose worth is known: a gold answer, a wrong one, or a canary.",
    (
        Column("probe_id", "string", "`<prompt_id>/<probe>`; unique within an artifact."),
        _PROMPT_ID,
        Column("kind", "string", "What it is.", choices=("gold", "wrong", "canary")),
        Column("probe", "string", "Which of its kind, e.g. `step_by_step`."),
        Column("completion", "string", "The answer, before it is made harmless for the verifier's prompt."),
        Column("utility", "float", "By the grader of the task: 1 for gold, 0 for all others."),
        *(column for column in _VERIFICATIONS.columns if column.name not in _OF_GENERATIONS),
    ),
    ("probe_id", "verification_index"),
)

_FILTERED_SET = TableStage(
    "filtered_set",
    "filtered_sets",
    "One training row: a generation that was kept, with its weight.",
    (
        Column("training_row_id", "string", "`<artifact id of the filtered set>::<generation_id>`."),
        _GENERATION,
        _PROMPT_ID,
        _SAMPLE,
        Column("prompt", "string", "The text that was answered."),
        Column("completion", "string", "The text to learn."),
        Column(
            "proxy_utility", "float", "Mean score of the verifications; null where none was scored.", True
        ),
        Column("weight", "float", "w(û) of the row, duplicates summed, or 1 for a pair; positive."),
        Column(
            "num_duplicates",
            "int",
            "Identical completions of the prompt this row stands for, itself included.",
        ),
        Column(
            "rejected_generation_id",
            "string",
            "The generation set against this one, for preference methods; null where rows are no pairs.",
            True,
            added=True,
        ),
        Column("rejected_completion", "string", "Its text.", True, added=True),
        Column("rejected_proxy_utility", "float", "Its mean score.", True, added=True),
    ),
    ("training_row_id",),
)

_GAP_METRICS = TableStage(
    "gap_metrics",
    "metrics",
    "The generation-verification gap of one policy on one task by one verification and weighting rule.",
    (
        Column("study", "string", "Name of the study."),
        Column("iteration", "int", "Iteration t of the generator f_t."),
        Column("model", "string", "Name of the model."),
        Column("task", "string", "Name of the task."),
        Column("split", "string", "Split of the prompts measured on.", choices=SPLITS),
        Column("verification", "string", "Name of the verification in the study."),
        Column("method", "string", "Method in the catalogue of verification methods."),
        Column("verifier", "string", "Artifact id of the policy that verified."),
        Column("rule", "string", "Weight function with its parameters, e.g. `quantile(q=0.75)`."),
        Column("seed", "int", "Root seed of the study."),
        *interval_columns("expected_utility", "J(f): mean over prompts of the mean utility."),
        Column(
            "reweighted_utility", "float", "J(f[w]): mean over prompts of the weighted mean utility.", True
        ),
        *interval_columns("gap", "J(f[w]) - J(f)."),
        *interval_columns("relative_gap", "Mean over prompts of gap_x / (1 - J_x)."),
        Column("relative_gap_ratio_of_means", "float", "Gap / (1 - J): the ratio of the two means.", True),
        Column("relative_gap_trimmed", "float", "Trimmed mean of the per-prompt ratios.", True),
        Column("pooled_gap", "float", "Weighted mean utility over all samples minus the plain one.", True),
        Column("coverage", "float", "Share of prompts with a positive weight.", True),
        Column("retained", "float", "Share of samples with a positive weight.", True),
        Column("effective_sample_size", "float", "(Σw)² / Σw² of each prompt, summed over prompts.", True),
        Column("pass_at_1", "float", "Unbiased pass@1.", True),
        Column("pass_at_8", "float", "Unbiased pass@8; null for fewer samples a prompt.", True),
        Column("pass_at_32", "float", "Unbiased pass@32; null for fewer samples a prompt.", True),
        Column("pass_at_k", "string", "JSON object k -> pass@k, for the k the study asks for."),
        Column("maj_at_8", "float", "Accuracy of the majority of 8; null for fewer samples a prompt.", True),
        Column("strict_expected_utility", "float", "J(f) under strict extraction.", True),
        Column("distinct_answers", "float", "Distinct extracted answers a prompt, mean.", True),
        Column(
            "answer_entropy", "float", "Entropy of the extracted answers of a prompt, mean, in nats.", True
        ),
        Column("tpr", "float", "Share of right samples that keep a positive weight.", True),
        Column("fpr", "float", "Share of wrong samples that keep a positive weight.", True),
        Column("auroc", "float", "Area under the ROC curve of û against u.", True),
        Column("auroc_per_prompt", "float", "Mean over prompts of the area within the prompt.", True),
        *interval_columns("gold_acceptance", "Share of gold answers the verifier accepts.", added=True),
        *interval_columns("canary_acceptance", "Share of canaries the verifier accepts.", added=True),
        *interval_columns("update_error", "ε̂ = J(f_{t-1}[w]) - J(f_t), signed."),
        *interval_columns("improvement", "J(f_t) - J(f_{t-1})."),
        *interval_columns("improvement_over_base", "J(f_t) - J(f_0)."),
        Column("num_prompts", "int", "Prompts measured."),
        Column("num_samples", "int", "Generations measured."),
        Column("num_missing", "int", "Generations without a utility, left out."),
        Column("num_unparsed", "int", "Generations whose verification could not be read."),
    ),
    ("study", "iteration", "model", "task", "split", "verification", "rule", "seed"),
)

_CHECKPOINT_FILES = (".safetensors", ".json", ".txt", ".model", ".jinja")

TABLES: dict[str, TableStage] = {
    table.name: table
    for table in (
        *(_PROMPTS, _GENERATIONS, _UTILITIES, _VERIFICATIONS, _TEACHING_SET, _PROBES),
        *(_FILTERED_SET, _GAP_METRICS),
        *ANALYSIS_TABLES,
    )
}
"""Stages that are tables, in the order of the loop, then the analyses."""

FILES: dict[str, FileStage] = {
    stage.name: stage
    for stage in (
        FileStage("base_checkpoint", "f_0: config, safetensors, tokenizer, result.json.", _CHECKPOINT_FILES),
        FileStage(
            "student",
            "Verifier of a cheap verification: config, safetensors, tokenizer, result.json.",
            _CHECKPOINT_FILES,
        ),
        FileStage("checkpoint", "f_{t+1}: config, safetensors, tokenizer, result.json.", _CHECKPOINT_FILES),
        FileStage(
            "report",
            "Tables and plots of a study. The page that runs and UI make today lies outside `data/`, at "
            "`<home>/reports/<study>.html`, and has no manifest: it is made anew from gap_metrics.",
            (".md", ".html", ".json", ".csv", ".parquet", ".svg", ".png", ".txt"),
        ),
    )
}
"""Stages that are folders of files."""

POLICIES = ("base_checkpoint", "student", "checkpoint")
"""Stages whose artifact is a policy."""


def stage(name: str) -> TableStage | FileStage:
    """The declaration of a stage.

    Raises:
        StoreError: If there is none of that name.
    """
    found = TABLES.get(name) or FILES.get(name)
    if found is None:
        raise StoreError(f"no stage {name!r} is declared; declared are {', '.join([*TABLES, *FILES])}")
    return found


CATALOGUE_TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "artifacts": (
        "Every version of every artifact, those that were superseded too.",
        {
            "artifact_id": "`<study>/iteration_<t>/<stage>/<model>\\|<task>[/<part>]`.",
            "version": "One a commit; the natural key together with `artifact_id`.",
            "study, iteration, stage, model, task, part": "The address, taken apart.",
            "fingerprint": "Of the recipe, those of all inputs included.",
            "data_version": "Of the bytes.",
            "code_version": "Of the stage.",
            "dagster_run_id": "Of the run that made it.",
            "created_at, superseded_at": "UTC; `superseded_at` is null for what is in force.",
            "num_rows, num_bytes": "Of all its files.",
            "path": "Of its folder, from the home.",
            "recipe, study_snapshot, metadata": "JSON: the recipe, the study, the measures.",
        },
    ),
    "edges": (
        "Which version of which artifact was read to make which.",
        {
            "child, child_version": "What was made.",
            "parent": "What was read.",
            "parent_data_version, parent_fingerprint": "Its version when it was read.",
            "role": "What it was read as, e.g. `policy` or `verifier`.",
        },
    ),
    "files": (
        "Every file of every version.",
        {
            "artifact_id, version": "Whose it is.",
            "path": "From the home.",
            "num_bytes, sha256": "As committed.",
            "num_rows": "Of a Parquet part; null for other files.",
        },
    ),
    "runs": (
        "Every Dagster run that made something.",
        {
            "dagster_run_id": "As in the UI.",
            "first_seen, last_seen": "When its first and its last artifact were committed; UTC.",
            "artifacts": "Their ids, in that order.",
        },
    ),
    "training_rows": (
        "Which generation trained which policy in force; the rows of the very version that was read.",
        {
            "checkpoint, checkpoint_version": "The policy.",
            "training_row_id, generation_id": "The row, and the generation it came from.",
            "rejected_generation_id": "Set against it by preference methods; null else.",
            "weight": "w(û) of the row.",
            "filtered_set": "Artifact id of the set it was in.",
        },
    ),
    "costs": (
        "What each artifact in force cost; null where a stage spends no such thing.",
        {
            "study, iteration, stage, model, task, part, artifact_id, num_rows": "Which.",
            "prompt_tokens, completion_tokens, cached_tokens": "Tokens read, drawn, and read from a cache.",
            "model_seconds": "Of the engine or the trainer.",
            "gpu_seconds": "The same times the GPUs it held.",
            "flops": "Forward passes of an engine, or all of a training.",
            "peak_memory_bytes, peak_gpu_memory_bytes": "Largest resident size; of GPU memory, if known.",
            "wall_seconds": "Of the whole stage, in all runs that worked on it.",
            "copied_from": "The artifact that its making was spent on, where this is a copy; null else.",
        },
    ),
    "costs_per_accepted_row": (
        "What it cost to make and to sieve the training responses, per row of the filtered set.",
        {
            "study, iteration, model, task, num_training_rows": "Which filtered set.",
            "prompt_tokens, completion_tokens, cached_tokens": "As in `costs`, per row.",
            "model_seconds, gpu_seconds, flops, wall_seconds": "As in `costs`, per row.",
        },
    ),
}
"""Tables and views of the catalogue beside those of the stages: what they are, what their columns hold."""


_HEAD = """# Data

What every stage writes, made from the declared schemas by `python -m si_dagster.store.schemas docs/data.md`.

An artifact lies in `<home>/data/<study>/iteration_<t>/<stage>/<model>|<task>[/<part>]`, without
`iteration_<t>` for what precedes or follows the loop; analyses lie in `<home>/data/<study>/analysis/<name>`.
Tables are Parquet parts (`part-000000.parquet`, zstd, sorted by natural key), read as one; `manifest.json` is
written last and holds the hash of every file. Null means unknown, never zero. In the lineage catalogue
(`<home>/lineage.duckdb`) each table has a view over the complete artifacts of all studies, with the columns
`study`, `iteration`, `model`, `task` and `artifact_id` in front; `metrics` is a table with `artifact_id` and
`version` in front.
"""


def document() -> str:
    """The text of docs/data.md."""
    catalogue = (_catalogue_section(name, *told) for name, told in CATALOGUE_TABLES.items())
    blocks = [_HEAD, *(_table_section(table) for table in TABLES.values()), _files_section()]
    return "\n".join([*blocks, "# The catalogue's own tables\n", *catalogue])


def _table_section(table: TableStage) -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    lines = [
        f"## {table.name}",
        "",
        f"{table.description} In the catalogue: `{table.view}`. Natural key: {key}.",
        "",
        "| column | type | null | holds |",
        "|---|---|---|---|",
    ]
    for column in table.columns:
        choices = (
            f" One of {', '.join(f'`{choice}`' for choice in column.choices)}." if column.choices else ""
        )
        cells = (f"`{column.name}`", column.kind, "yes" if column.nullable else "")
        holds = (column.description + choices).replace("|", "\\|")
        lines.append(f"| {' | '.join(cells)} | {holds} |")
    return "\n".join([*lines, ""])


def _catalogue_section(name: str, description: str, columns: dict[str, str]) -> str:
    rows = [
        f"| {', '.join(f'`{c}`' for c in names.split(', '))} | {holds} |" for names, holds in columns.items()
    ]
    return "\n".join([f"## {name}", "", description, "", "| columns | hold |", "|---|---|", *rows, ""])


def _files_section() -> str:
    lines = ["## Folders of files", "", "| stage | holds | file types |", "|---|---|---|"]
    for files in FILES.values():
        lines.append(f"| {files.name} | {files.description} | {' '.join(f'`{s}`' for s in files.suffixes)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/data.md").write_text(document(), encoding="utf-8")
