"""Several studies at once, each in a process of its own, in one home folder.

Policies of some hundred thousand parameters leave a second thread idle: two processes of one thread each do
more than one of two. The locks of the store, of the catalogue and of Dagster's databases keep them apart.
It does not decide which studies run, nor on which device: processes share a GPU as well as they can.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from si_dagster.instance import open_instance
from si_dagster.processes import exit_with_parent, threads_of_each, usable_cores
from si_dagster.store.layout import default_home
from si_dagster.study import Study, parse_study

MOST_WORKERS = 4
"""By default; each takes about 2 GB while it trains."""
LAST_LINES = 20
WIDE = "200"
"""Columns of a process that writes to a pipe, so that it breaks no line."""


def default_workers() -> int:
    """One a core, up to four."""
    return min(MOST_WORKERS, usable_cores())


def run_at_once(studies: Sequence[Study], workers: int, quiet: bool = False) -> list[str]:
    """Run studies in order, some at a time; messages of what failed, by study.

    Args:
        studies: Of different names.
        workers: How many at a time; they share the cores, unless `OMP_NUM_THREADS` says otherwise.
        quiet: No progress on the terminal.

    Raises:
        KeyboardInterrupt: On Ctrl-C, when the studies that ran have ended; what is whole is kept.
    """
    with open_instance(default_home()):
        pass  # Made once, before anybody races for it.
    with _told(len(studies), quiet) as board, _Crew(workers, board) as crew:
        return [message for messages in crew.run(studies) for message in messages]


class _Board:
    """What is told of studies while they run: a line each on a terminal, all their lines elsewhere."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    @contextmanager
    def line(self, name: str) -> Iterator["_Line"]:
        task = self._progress.add_task(name, said="begins")
        yield _Line(self._progress, task, name)
        self._progress.remove_task(task)

    def ended(self, name: str, failures: Sequence[str]) -> None:
        self._done += 1
        how = "failed" if failures else "done"
        self._progress.console.print(f"{name}: {how} ({self._done} of {self._total})", highlight=False)


class _Line:
    def __init__(self, progress: Progress, task: object, name: str) -> None:
        self._progress, self._task, self._name = progress, task, name

    def says(self, text: str) -> None:
        if self._progress.console.is_terminal:
            self._progress.update(self._task, said=escape(text.strip()))  # pyright: ignore[reportArgumentType]
        else:
            self._progress.console.print(
                f"{self._name}: {text}", highlight=False, markup=False, soft_wrap=True
            )


@contextmanager
def _told(total: int, quiet: bool) -> Iterator[_Board]:
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr, quiet=quiet)) as progress:
        yield _Board(progress, total)


class _Crew:
    """Processes that run studies, of which none outlives the block."""

    def __init__(self, workers: int, board: _Board) -> None:
        self._board, self._workers = board, workers
        self._threads = os.environ.get("OMP_NUM_THREADS", str(threads_of_each(workers)))
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._stopping = threading.Lock(), False

    def __enter__(self) -> "_Crew":
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                with suppress(ProcessLookupError):  # it has just ended
                    # To its trainer and engine too, as a terminal does.
                    os.killpg(process.pid, signal.SIGINT)
        self._pool.shutdown(cancel_futures=True)

    def run(self, studies: Iterable[Study]) -> Iterator[list[str]]:
        """Messages of what failed, a list a study, in the order of the studies."""
        return self._pool.map(self._run, studies)

    def _run(self, study: Study) -> list[str]:
        with (
            tempfile.TemporaryDirectory(prefix="si-dagster-") as folder,
            self._board.line(study.name) as line,
        ):
            asked, answer = Path(folder) / "study.json", Path(folder) / "failures.json"
            asked.write_text(study.model_dump_json(exclude_none=True))
            last = self._wait(asked, answer, line)
            if answer.is_file():
                failures = [f"{study.name}: {failure}" for failure in json.loads(answer.read_text())]
            else:
                failures = [f"{study.name}: its process ended: {last}"]
        if not self._stopping:
            self._board.ended(study.name, failures)
        return failures

    def _wait(self, asked: Path, answer: Path, line: _Line) -> str:
        """The last lines of what a process said, when it has ended."""
        with self._lock:
            if self._stopping:
                return ""
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(asked), str(answer), str(os.getpid())],
                env={**os.environ, "COLUMNS": WIDE, "OMP_NUM_THREADS": self._threads},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._running.add(process)
        last: list[str] = []
        with process:
            assert process.stderr is not None
            for text in map(str.rstrip, process.stderr):
                if text.strip() and not self._stopping:
                    line.says(text)
                last = [*last, text][-LAST_LINES:]
        with self._lock:
            self._running.discard(process)
        return "\n".join(last)


def work(asked: Path, answer: Path, parent: int) -> None:
    """One study to its end, in a process of its own; what failed is written to `answer`."""
    from dagster import DagsterExecutionInterruptedError

    from si_dagster.runs import run_study

    exit_with_parent(parent)
    study = parse_study(json.loads(asked.read_text()), asked.name)
    try:
        failures = run_study(study).failures
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        sys.exit(1)
    except Exception as error:  # one study's failure must not stop the others, so it is told
        failures = [str(error)]
    answer.write_text(json.dumps(failures))


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
