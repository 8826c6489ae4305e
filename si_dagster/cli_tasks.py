"""Verbs about tasks and graders: list and show tasks, grade a file, grade a stored study again.

Each is one call into the library. Nothing here runs a model or changes a stored table.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from si_dagster.tasks.base import PromptStyle, Split, Task

SHOWN_CHANGES = 10
"""Changed rows a person is shown of each artifact; `--json` gives all."""

tasks_app = typer.Typer(help="List the tasks a study may name; `tasks show NAME` shows one with its prompts.")

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="Name of a task; `si-dagster tasks` lists them.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Option of the task, e.g. path=FOLDER. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def mount(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(tasks_app, name="tasks")
    app.command("grade")(grade)
    app.command("regrade")(regrade)


def task_with(name: str, options: list[str] | None) -> Task:
    """The task of that name, set up with `NAME=VALUE` options; values are read as YAML, as in a study.

    Raises:
        ValueError: If an option is not of that form, or the task or the option does not exist.

    Examples:
        >>> task_with("sudoku4", ["num_blanks=4"]).num_blanks
        4
    """
    from si_dagster.assignments import assignment
    from si_dagster.tasks.catalogue import load_task

    return load_task(name, dict(assignment(option, "--option") for option in options or []))


@tasks_app.callback(invoke_without_command=True)
def list_tasks(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the tasks a study may name; `tasks show NAME` shows one with its prompts."""
    from si_dagster.tasks.showing import one_liners

    if context.invoked_subcommand is not None:
        return
    lines = one_liners()
    if as_json:
        _print_json(lines)
        return
    width = max(map(len, lines))
    for name, line in lines.items():
        _say(f"{name:{width}}  {line}")


@tasks_app.command("show")
def show(
    name: TaskName,
    row: Annotated[
        int, typer.Option(min=0, help="Row of the split, counted from 0 as a study of seed 0 does.")
    ] = 0,
    split: Annotated[Split, typer.Option(help="Which split.")] = "eval",
    style: Annotated[PromptStyle, typer.Option(help="How the policy is spoken to.")] = "text",
    completion: Annotated[str | None, typer.Option(help="What verification prompts judge.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a chat model, whose chat template is applied; with --style chat."),
    ] = None,
    option: Options = None,
    as_json: JsonOption = False,
) -> None:
    """Show a task: its card, and one row as every role reads it."""
    from si_dagster.stages.chat import load_chat_template
    from si_dagster.tasks.showing import EXAMPLE_COMPLETION, card, rendered_prompts, row_at

    task = task_with(name, option)
    found = row_at(task, split, row)
    if model is not None and style != "chat":
        raise ValueError("--model applies a chat template: it goes with --style chat")
    render = load_chat_template(model).render if model else str
    prompts = rendered_prompts(task, found, style, completion or EXAMPLE_COMPLETION, render)
    if as_json:
        _print_json(
            {
                "task": name,
                "card": card(name),
                "row": asdict(found),
                "style": style,
                "prompts": prompts,
                "stop": list(task.stop(style)),
                "verdict_labels": list(task.verdict_labels(style)),
            }
        )
        return
    _say(card(name))
    _say(f"\nrow {row} of {split}: {found.prompt_id}, reference {found.reference!r}, {found.columns}")
    _say(f"stop strings {list(task.stop(style))}, verdict labels {list(task.verdict_labels(style))}")
    for role, prompt in prompts.items():
        _say(f"\n===== {role} ({style}, {len(prompt)} characters) =====\n{prompt}")


def grade(
    task: TaskName,
    file: Annotated[
        Path, typer.Argument(help="JSON Lines: the task's fields or `reference`, and `completion`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the graded rows go; without it to standard output.")
    ] = None,
    option: Options = None,
    as_json: JsonOption = False,
) -> None:
    """Grade a file: every row gets utility, strict, status, extracted, rule and detail."""
    from si_dagster.tasks.grading.records import grade_file, grade_records, summary
    from si_dagster.tasks.sources import read_records

    grader = task_with(task, option)
    if out is not None:
        counts = asdict(grade_file(grader, file, out))
        _print_json({**counts, "out": str(out)}) if as_json else _say(_told(counts))
        return
    rows = grade_records(grader, read_records(file))
    counts = asdict(summary(rows))
    if as_json:
        _print_json({**counts, "rows": rows})
        return
    for graded in rows:
        print(json.dumps(graded, ensure_ascii=False))
    print(_told(counts), file=sys.stderr)


def regrade(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study file, or the name of a study.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Dotted overrides of a study file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Grade stored generations with today's grader and show the difference; nothing is written."""
    from si_dagster.regrading import regrade_study
    from si_dagster.runs import find_study
    from si_dagster.store.artifacts import Store

    artifacts = [asdict(found) for found in regrade_study(find_study(study, overrides or []), Store())]
    if as_json:
        _print_json(artifacts)
        return
    for found in artifacts:
        _say_regraded(found)
    changed = sum(found["num_changed"] for found in artifacts)
    _say(f"{changed} of {sum(found['num_rows'] for found in artifacts)} rows change; nothing was written")


def _say_regraded(found: Mapping[str, Any]) -> None:
    means = " -> ".join(_number(found[key]) for key in ("mean_before", "mean_after"))
    _say(f"{found['artifact']}: {found['num_changed']} of {found['num_rows']} rows change, J {means}")
    for move in found["transitions"]:
        _say(f"  {move['num_rows']} rows from {_number(move['before'])} to {_number(move['after'])}")
    for row in found["changed"][:SHOWN_CHANGES]:
        then, now = row["before"], row["after"]
        _say(f"  {row['generation_id']} (reference {row['reference']!r})")
        for label, grade in (("was", then), ("is", now)):
            reason = f"{grade['status']}, {grade['extracted']!r} by {grade['rule']}"
            _say(f"    {label:3} {_number(grade['utility'])}: {reason}")
    if len(found["changed"]) > SHOWN_CHANGES:
        _say(f"  ... and {len(found['changed']) - SHOWN_CHANGES} more; --json shows all")


def _told(counts: Mapping[str, Any]) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in counts["statuses"].items())
    means = f"utility {_number(counts['mean_utility'])}, strict {_number(counts['mean_strict'])}"
    return f"{counts['num_rows']} rows: {statuses or 'none'}; mean {means}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _say(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str, allow_nan=False))
