"""The command line: thin verbs over the library and the graph.

`run` materializes the same assets as the UI, into the same instance. Nothing is computed here, and nothing
that a verb prints is only to be had by reading text: every verb takes `--json`.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from si_dagster import cli_tasks
from si_dagster.store.errors import StoreError
from si_dagster.study import StudyError

WIDE = 150
"""Columns of a table that goes to a file or a pipe."""

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
    str, typer.Option("--engine", help="transformers, or scripted: answers made up, to try the graph.")
]


def main() -> None:
    """Entry point: errors a person can mend are one message on stderr and exit code 1."""
    try:
        app()
    except (StudyError, StoreError, ValueError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_escaped(error)}", soft_wrap=True, highlight=False)
        sys.exit(1)


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
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Move artifacts of another recipe aside and make them anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study from where it is to its end, or to where its gap is closed."""
    from resources.engine import EngineResource
    from resources.store import StoreResource
    from si_dagster.runs import run_study
    from si_dagster.study import load_study

    outcome = run_study(
        load_study(study, [*(overrides or []), *(["scripted=true"] if engine == "scripted" else [])]),
        StoreResource(supersede=supersede),
        EngineResource(kind=engine, chunk_prompts=chunk_prompts),
        quiet=as_json,
    )
    if as_json:
        _print_json(outcome.to_dict())
    else:
        if outcome.table:
            _print_rows(outcome.table, title=f"{outcome.study}: held-out prompts")
        for line in outcome.summary():
            console.print(line, highlight=False, soft_wrap=True)
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def status(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """What is done, missing or stale, and which fields of the recipe differ."""
    from si_dagster.runs import find_study, study_status

    rows = study_status(find_study(study, overrides or []))
    if as_json:
        _print_json(rows)
        return
    shown = [
        {
            "artifact": row["artifact"],
            "state": row["state"],
            "rows": str(row["num_rows"] or "-"),
            "drift": "\n".join(
                f"{d['field']}: stored {d['stored']}, study says {d['study']}" for d in row["drift"]
            ),
        }
        for row in rows
    ]
    _print_rows(shown, title="artifacts")


@app.command()
def gap(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """The gap table: a row per iteration, model, task, split and verification, with intervals."""
    from si_dagster.analysis.table import gap_rows, shown_rows
    from si_dagster.runs import stored_metrics

    metrics = stored_metrics(study, overrides or [])
    if as_json:
        _print_json(gap_rows(metrics))
        return
    for split in ("eval", "train"):
        _print_rows(shown_rows(metrics, split), title=f"{study}: {split} prompts")


@app.command()
def cost(study: StudyArgument, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """Tokens, seconds, FLOPs and memory: per stage and iteration, and per accepted training row."""
    from si_dagster.analysis.cost import costs_per_accepted_row, shown_costs, summed_costs
    from si_dagster.runs import find_study, stored_costs

    found = find_study(study, overrides or [])
    costs, price = stored_costs(found), found.price
    by_stage = summed_costs(costs, ("iteration", "stage"), price)
    iterations = summed_costs(costs, ("iteration",), price)
    accepted = costs_per_accepted_row(costs, price)
    if as_json:
        _print_json(
            {"artifacts": costs, "stages": by_stage, "iterations": iterations, "accepted_rows": accepted}
        )
        return
    _print_rows(shown_costs(by_stage), title=f"{found.name}: cost by iteration and stage")
    _print_rows(shown_costs(iterations), title="by iteration")
    _print_rows(shown_costs(accepted), title="of one accepted training row")


@app.command()
def trace(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A generation, training row or checkpoint.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Where a row or checkpoint comes from: through all iterations, back to the base."""
    from rich.pretty import pprint

    from si_dagster.store.layout import default_home
    from si_dagster.store.trace import trace as trace_id

    history = trace_id(default_home(), identifier)
    if as_json:
        _print_json(history)
    else:
        pprint(history, console=console, expand_all=True)


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
