"""What a run shows on the terminal: a bar for every stage that counts, a line for what is worth one.

It reads the log of the run, which holds the same lines in the UI; it adds nothing to it.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COUNT = re.compile(r"^(?P<label>[^:\n]+): (?P<done>\d+)/(?P<total>\d+) (?P<rest>.*)", re.DOTALL)
"""The form of a line that counts, as `resources.stage_run.Progress` and the trainers write it."""


SAID_ELSEWHERE = ("Dependencies for step", "[pipes] did not receive closed message")
"""Beginnings of what Dagster says of every step behind the one that failed, and of a trainer that died: the
failure itself is told once, by the outcome of the run."""


class _Bars(logging.Handler):
    """One bar per asset and counted thing; other messages above them."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", None) or {}
        event = meta.get("dagster_event")
        step = (meta.get("step_key") or "").replace("__", "/", 2)
        if event is not None:
            if event.event_type_value == "STEP_START":
                self._progress.console.print(f"[dim]{step}[/]", highlight=False)
            return
        message = meta.get("orig_message") or record.getMessage()
        counted = COUNT.match(message)
        if counted:
            self._count(step, **counted.groupdict())
        elif record.levelno >= logging.WARNING and not message.startswith(SAID_ELSEWHERE):
            self._progress.console.print(message, highlight=False, markup=False)

    def _count(self, step: str, label: str, done: str, total: str, rest: str) -> None:
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"  {label}: {done}/{total} {rest}", highlight=False)
            return
        name = f"{step} {label}"
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=int(total), rest=rest)
        self._progress.update(self._bars[name], completed=int(done), total=int(total), rest=rest)


@contextmanager
def progress_logger(quiet: bool) -> Iterator[dict[str, dg.LoggerDefinition]]:
    """Logger definitions for a run that draw its progress while the block lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
    )
    console = Console(file=sys.stderr, quiet=quiet)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        handler = _Bars(progress)

        def bars(_: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger("si_dagster.run", logging.INFO)
            logger.addHandler(handler)
            return logger

        yield {"console": dg.LoggerDefinition(bars, description="Bars on the terminal.")}
