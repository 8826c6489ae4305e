"""The command line: thin verbs over the library and the graph.

`run` materializes the same assets as the UI, into the same instance. Nothing is computed here, and nothing
that a verb prints is only to be had by reading text: every verb takes `--json`.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from si_dagster import cli_tasks
from si_dagster.store.errors import RecipeDrift, StoreError
from si_dagster.study import StudyError

WIDE = 10_000
"""Columns of what goes to a file or a pipe: none of its lines is broken."""

INTERRUPTED = 130
"""Exit code of Ctrl-C, as shells have it: 128 + SIGINT."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="LLM self-improvement as a Dagster graph: generate, verify, filter, distil, measure the gap, again.",
)
lineage_app = typer.Typer(no_args_is_help=True, help="The lineage catalogue (DuckDB).")
app.add_typer(lineage_app, name="lineage")
cli_tasks.mount(app)
console = Console(width=None if sys.stdout.isatty() else WIDE)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Study file, or the name of a study.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Dotted overrides, e.g. generation.n=64."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine", help="transformers, vllm, ray, openai, or scripted: answers made up, to try the graph."
    ),
]
EngineSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option", metavar="NAME=VALUE", help="Setting of the engine: dtype=float32; repeatable."
    ),
]
TrainerSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--trainer-option", metavar="NAME=VALUE", help="How training runs: num_processes=2; repeatable."
    ),
]


def main() -> None:
    """Entry point: errors a person can mend are one message on stderr and exit code 1."""
    try:
        app()
    except (StudyError, StoreError, ValueError) as error:
        _complain(f"[bold red]error:[/] {_escaped(error)}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"[bold red]error:[/] {_escaped(OSError(f'{where}{error.strerror or error}'))}")
    sys.exit(1)


def _complain(message: str) -> None:
    """One message on stderr, so that what is piped on stays clean."""
    Console(stderr=True).print(message, soft_wrap=True, highlight=False)


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


@app.command()
def validate(
    files: Annotated[list[Path] | None, typer.Argument(help="Study files; default: studies/*.yaml.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check study files: fields, names of tasks and methods, and that the graph can be drawn."""
    from si_dagster.runs import check_study_file

    paths = files or sorted(Path("studies").glob("*.yaml"))
    problems = {str(path): check_study_file(path) for path in paths}
    if as_json:
        _print_json(problems)
    else:
        for path, problem in problems.items():
            console.print(
                f"{path}: ok" if problem is None else _escaped(ValueError(problem)), highlight=False
            )
    if any(problems.values()) or not paths:
        raise typer.Exit(1)


@app.command()
def run(
    study: StudyArgument,
    overrides: Overrides = None,
    engine: EngineOption = "transformers",
    chunk_prompts: Annotated[
        int, typer.Option("--chunk-prompts", min=1, help="Prompts a chunk: what a killed run loses at most.")
    ] = 256,
    engine_option: EngineSettings = None,
    trainer_option: TrainerSettings = None,
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Move artifacts of another recipe aside and make them anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study from where it is to its end, or to where its gap is closed."""
    settings, scripted = engine_option or [], ["scripted=true"] if engine == "scripted" else []
    command = _run_command(study, overrides, *(["--engine", engine] if scripted else []))
    with engine_ahead(study, overrides or [], engine, settings):
        from resources.engine import EngineResource
        from resources.store import StoreResource
        from resources.trainer import TrainerResource, execution_of
        from si_dagster.runs import find_study, run_study

        resource = EngineResource(kind=engine, chunk_prompts=chunk_prompts).with_settings(settings)
        try:
            with _interruptible():
                outcome = run_study(
                    find_study(study, [*(overrides or []), *scripted]),
                    StoreResource(supersede=supersede),
                    resource,
                    quiet=as_json,
                    trainer=TrainerResource(execution=execution_of(trainer_option))
                    if trainer_option
                    else None,
                )
        except RecipeDrift as drift:
            raise RecipeDrift(f"{drift}:\n  {command} --supersede", drift.fields) from None
    if as_json:
        _print_json(outcome.to_dict())
        for failure in outcome.failures:
            _complain(f"[bold red]failed:[/] {_escaped(ValueError(failure))}")
    else:
        if outcome.table:
            _print_rows(outcome.table, title=f"{outcome.study}: held-out prompts")
        for line in outcome.summary():
            console.print(line, highlight=False, soft_wrap=True)
    if outcome.failures:
        raise typer.Exit(1)


@contextmanager
def engine_ahead(study: str, overrides: list[str], kind: str, settings: list[str]) -> Iterator[None]:
    """Begin to import the engine's libraries before ours: each takes seconds, on a core of its own."""
    from si_dagster.assignments import assignment
    from si_dagster.engines.child import spare
    from si_dagster.study import is_study_file, load_study

    options = dict(assignment(setting, "engine option") for setting in settings)
    python, replicas = str(options.pop("python", "")), options.pop("data_parallel_size", 1)
    try:
        if replicas == 1 and is_study_file(study) and not load_study(study, overrides).scripted:
            spare.start(kind, python, options)
        yield
    finally:
        spare.drop()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a run with one line and the exit code of shells."""
    from dagster import DagsterExecutionInterruptedError

    try:
        yield
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        _complain("interrupted; what is whole is kept, run again to continue")
        raise typer.Exit(INTERRUPTED) from None


def _run_command(study: str, overrides: list[str] | None, *options: str) -> str:
    """How a study is run, to be copied from a message."""
    return shlex.join(["si-dagster", "run", study, *(overrides or []), *options])


@app.command()
def findings(
    small: Annotated[
        bool, typer.Option("--small", help="A run of the same path in a minute, which says nothing.")
    ] = False,
    only_write: Annotated[
        bool, typer.Option("--only-write", help="Judge and write what is stored; run nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of findings.md; default: docs, or the home if small.")
    ] = None,
    studies: Annotated[
        Path | None, typer.Option("--studies", help="Folder of findings_*.yaml; default: studies.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Studies at a time; default: one a core, four at most."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the paper's findings to the test: run studies/findings_*.yaml, judge, write docs/findings.md."""
    from si_dagster import reproduction
    from si_dagster.runs import materialize_findings
    from si_dagster.store.artifacts import Store
    from si_dagster.store.layout import default_home
    from si_dagster.studies_at_once import default_workers, run_at_once

    files = studies or reproduction.STUDIES
    planned = [study for _, study in reproduction.finding_studies(small, files)]
    with _interruptible():
        failures = [] if only_write else run_at_once(planned, workers or default_workers(), quiet=as_json)
    folder = out or (default_home() / "findings" if small else reproduction.DOCS)
    page, verdicts = reproduction.write_page(Store(default_home()), folder, small, files)
    failures += [] if small else materialize_findings(planned)
    if as_json:
        _print_json({"page": str(page), "verdicts": verdicts, "failures": failures})
    else:
        for finding, verdict in verdicts.items():
            console.print(f"{finding}: {verdict}", highlight=False)
        for failure in failures:
            Console(stderr=True).print(
                f"[bold red]failed:[/] {_escaped(ValueError(failure))}", soft_wrap=True
            )
        console.print(f"page: {page}", highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)


@app.command()
def status(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """What is done, missing, stale or damaged, which fields of the recipe differ, and what to do next."""
    from si_dagster.runs import find_study
    from si_dagster.status import next_steps, study_status
    from si_dagster.store.artifacts import Store

    asked, store = find_study(study, overrides or []), Store()
    statuses = study_status(asked, store)
    if as_json:
        _print_json([status.to_dict() for status in statuses])
        return
    _print_rows([_shown_status(status.to_dict()) for status in statuses], title=asked.name)
    for line in next_steps(asked, store, statuses, _run_command(study, overrides)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _shown_status(row: dict[str, Any]) -> dict[str, str]:
    reason = (row["reason"] or "").partition(". ")[0]  # the way out of damage stands below the table
    drift = [f"{d['field']}: stored {d['stored']}, study says {d['study']}" for d in row["drift"]]
    return {
        "artifact": row["artifact"],
        "state": row["state"],
        "rows": str(row["num_rows"] or "-"),
        "why": "\n".join([*drift, *filter(None, [reason])]),
    }


@app.command()
def gap(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """The gap table: a row per iteration, model, task, split and verification, with intervals."""
    from si_dagster.analysis.table import gap_rows, shown_rows
    from si_dagster.runs import measured_studies, stale_metrics, stored_metrics

    measured = measured_studies(study, overrides or [])
    metrics = stored_metrics(measured)
    stale = stale_metrics(measured, study, overrides or [])
    if as_json:
        _print_json(gap_rows(metrics))
    else:
        for split in ("eval", "train"):
            _print_rows(shown_rows(metrics, split), title=f"{study}: {split} prompts")
    _complain_of_stale(stale, study)


def _complain_of_stale(stale: list[str], study: str) -> None:
    """One message where anything shown is not of the recipe that the study has now."""
    if stale:
        _complain(
            f"[bold yellow]stale:[/] {len(stale)} of these were made by another recipe than the study says "
            f"now, {stale[0]} first; si-dagster status {study} says which fields differ"
        )


@app.command()
def cost(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """Tokens, seconds, FLOPs and memory: per stage and iteration, and per accepted training row."""
    from si_dagster.analysis.cost import cost_tables, costs_per_accepted_row, priced_costs, summed_costs
    from si_dagster.runs import find_study, stored_costs

    found = find_study(study, overrides or [])
    costs, price = stored_costs(found), found.price
    if as_json:
        summed = {
            "artifacts": priced_costs(costs, price),
            "stages": summed_costs(costs, ("iteration", "stage"), price),
            "iterations": summed_costs(costs, ("iteration",), price),
            "accepted_rows": costs_per_accepted_row(costs, price),
        }
        _print_json(summed)
        return
    for title, rows in cost_tables(costs, price).items():
        _print_rows(rows, title=f"{found.name}: {title}")


@app.command()
def sweep(
    study: StudyArgument,
    overrides: Overrides = None,
    weighting: Annotated[
        list[str] | None,
        typer.Option("--weighting", help="FIELD=VALUE, e.g. q=0.9: the training rows this would exchange."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Other thresholds from stored verifications: every verification and ensemble, no engine asked."""
    import gc
    from dataclasses import asdict

    gc.disable()  # looking for cycles takes a sixteenth of the time of so short a process, and finds none
    from si_dagster import stored
    from si_dagster.analysis import threshold_sweep
    from si_dagster.store.artifacts import Store

    found, store = stored.find_stored(study, overrides or []), Store()
    if weighting:
        other = stored.other_weighting(found, weighting)
        differences = stored.training_set_differences(found, other, store)
        if as_json:
            _print_json([asdict(difference) for difference in differences])
        else:
            _print_rows(
                [difference.shown() for difference in differences],
                title=f"{study}: training rows under {other.label}, against {found.weighting.label}",
            )
        return
    rows = stored.analysis_rows(found, "threshold_sweep", store)
    if as_json:
        _print_json(rows.to_dicts())
    else:
        _print_rows(threshold_sweep.shown(rows), title=f"{study}: thresholds chosen on half of the prompts")
        console.print(" ".join(threshold_sweep.READING.split()), soft_wrap=True, highlight=False)


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY STUDY...", help="Names or files; all run.")],
    as_json: JsonOption = False,
) -> None:
    """J, gap and relative gap of several studies side by side, and how each differs from the first."""
    from si_dagster import stored
    from si_dagster.analysis import comparison
    from si_dagster.status import stale_inputs
    from si_dagster.store.artifacts import Store

    found, store = [stored.find_stored(study) for study in studies], Store()
    rows, fields = stored.compared(found, store), comparison.differing_fields(found)
    for asked, study in zip(studies, found, strict=True):
        _complain_of_stale(stale_inputs(study, store, stored.COMPARED), asked)
    if as_json:
        _print_json({"fields": fields, "rows": rows.to_dicts()})
        return
    _print_rows([{k: _plain(v) for k, v in row.items()} for row in fields], title="fields that differ")
    _print_rows(comparison.shown(rows), title="held-out prompts")
    _print_rows(comparison.shown_differences(rows), title=f"less {found[0].name}")
    console.print(" ".join(comparison.READING.split()), soft_wrap=True, highlight=False, markup=False)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command("analysis")
def analysis_table(
    study: StudyArgument,
    name: Annotated[str, typer.Argument(help="One that `run` makes: slices, scaling, ...")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """The table of one analysis, from stored rows; docs/analysis.md says how each number is made."""
    from si_dagster import stored
    from si_dagster.analysis.catalogue import ANALYSES
    from si_dagster.store.artifacts import Store

    if name not in ANALYSES:
        raise ValueError(f"no analysis {name!r}; there are: {', '.join(ANALYSES)}")
    rows = stored.analysis_rows(stored.find_stored(study, overrides or []), name, Store())
    if as_json:
        _print_json(rows.to_dicts())
        return
    module = ANALYSES[name].load()
    _print_rows(module.shown(rows), title=f"{study}: {module.TITLE.lower()}")
    console.print(" ".join(module.READING.split()), soft_wrap=True, highlight=False, markup=False)


@app.command()
def trace(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A generation, verification, training row, checkpoint or other artifact."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Where a row or artifact comes from: through all iterations, back to the base.

    `si-dagster status STUDY` lists artifacts; docs/loop.md has the SQL that finds rows.
    """
    from si_dagster.store.layout import default_home
    from si_dagster.store.trace import trace as trace_id
    from si_dagster.store.trace_text import told

    history = trace_id(default_home(), identifier)
    if as_json:
        _print_json(history)
    else:
        console.print("\n".join(told(history)), highlight=False, markup=False, soft_wrap=True)


@lineage_app.command("rebuild")
def lineage_rebuild(as_json: JsonOption = False) -> None:
    """Make the lineage file anew from manifests and Parquet."""
    from si_dagster.store.layout import default_home
    from si_dagster.store.lineage import rebuild

    path = rebuild(default_home())
    if as_json:
        _print_json({"path": str(path)})
    else:
        console.print(f"rebuilt {path}", highlight=False)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine and the home folder: versions, memory, disk, damaged artifacts."""
    from si_dagster.doctor import examine

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        _print_rows(
            [{"check": f["check"], "ok": "yes" if f["ok"] else "NO", "found": f["found"]} for f in findings]
        )
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(1)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 3000) -> None:
    """Start the Dagster UI on the same home folder."""
    from si_dagster.runs import exec_ui

    exec_ui(port)


def _print_rows(rows: list[dict[str, str]], title: str | None = None) -> None:
    if not rows:
        console.print(f"{title or 'rows'}: none", highlight=False)
        return
    table = Table(title=title, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(ValueError(value)) for value in row.values()))
    console.print(table)
    if any(value.endswith("[no spread]") for row in rows for value in row.values()):
        from si_dagster.analysis.table import NO_SPREAD_READING

        text = " ".join(NO_SPREAD_READING.split())
        console.print(text, soft_wrap=True, highlight=False, markup=False)
