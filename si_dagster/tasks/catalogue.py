"""The tasks a study may name, and how a name becomes a task.

Task modules are imported when they are asked for, so that reading this table costs nothing. It does
not discover tasks, read plugins or hold data: a task of one's own is `custom`, mapped by column names.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from si_dagster.tasks.base import Task

TASK_CLASSES = {
    "arithmetic": ("si_dagster.tasks.arithmetic", "Arithmetic"),
    "crescent": ("si_dagster.tasks.crescent", "Crescent"),
    "custom": ("si_dagster.tasks.custom", "Custom"),
    "facts": ("si_dagster.tasks.facts", "Facts"),
    "gsm8k": ("si_dagster.tasks.gsm8k", "Gsm8k"),
    "math": ("si_dagster.tasks.math", "Math"),
    "mbpp": ("si_dagster.tasks.mbpp", "Mbpp"),
    "nq_open": ("si_dagster.tasks.nq_open", "NqOpen"),
    "sudoku4": ("si_dagster.tasks.sudoku4", "Sudoku4"),
    "svamp": ("si_dagster.tasks.svamp", "Svamp"),
}
"""Task name -> (module, class); the class is called with the task options of the study as keywords."""


class TaskOptionError(ValueError):
    """A task name or option that does not exist, or an option value that cannot be; says what is allowed."""


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(TASK_CLASSES)


def load_task(name: str, options: Mapping[str, Any]) -> Task:
    """The task of that name, set up with the options of the study; no data is read yet.

    Args:
        name: One of `task_names()`.
        options: Keywords of the task's class, e.g. `{"path": "data/gsm8k", "num_fewshot": 4}`.

    Raises:
        TaskOptionError: If the name or an option is unknown, or a required option is missing.

    Examples:
        >>> load_task("chess", {})
        Traceback (most recent call last):
        ...
        si_dagster.tasks.catalogue.TaskOptionError: no task 'chess': allowed are arithmetic, crescent, \
custom, facts, gsm8k, math, mbpp, nq_open, sudoku4, svamp
    """
    if name not in TASK_CLASSES:
        raise TaskOptionError(f"no task {name!r}: allowed are {', '.join(task_names())}")
    module, class_name = TASK_CLASSES[name]
    task_class = getattr(import_module(module), class_name)
    try:
        inspect.signature(task_class).bind(**options)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(task_class).parameters) or "none"
        raise TaskOptionError(f"task {name}: {error}; options are {allowed}") from error
    return task_class(**options)
