"""Engines by name, imported when they are asked for.

It starts an engine in this process; `EngineProcess` starts one in a process of its own. It does not choose
device or batch sizes.
"""

import contextlib
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from si_dagster.engines.base import Engine, EngineError

ENGINE_CLASSES = {
    "openai": ("si_dagster.engines.openai_server", "OpenAIEngine"),
    "ray": ("si_dagster.engines.ray", "RayEngine"),
    "scripted": ("si_dagster.engines.scripted", "ScriptedEngine"),
    "transformers": ("si_dagster.engines.transformers", "TransformersEngine"),
    "vllm": ("si_dagster.engines.vllm", "VllmEngine"),
}
"""Engine kind -> (module, class); the class is called with the checkpoint's path and the options."""


def open_engine(kind: str, path: str | Path, **options: Any) -> Engine:
    """The engine of that kind, holding the policy at `path`.

    Raises:
        EngineError: If kind or option is unknown, or the engine cannot start.

    Examples:
        >>> open_engine("oracle", "checkpoints/base")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        si_dagster.engines.base.EngineError: no engine 'oracle': allowed are openai, ...
    """
    if kind not in ENGINE_CLASSES:
        raise EngineError(f"no engine {kind!r}: allowed are {', '.join(sorted(ENGINE_CLASSES))}")
    module, class_name = ENGINE_CLASSES[kind]
    engine_class = getattr(import_module(module), class_name)
    known = inspect.signature(engine_class).parameters
    for option in options:
        if option not in known:
            allowed = ", ".join(name for name in known if name != "path")
            raise EngineError(f"engine {kind}: no option {option!r}: allowed are {allowed}")
    return engine_class(path, **options)


def prepare(kind: str) -> None:
    """Import what an engine of that kind needs; what cannot be imported is told by `open_engine`."""
    with contextlib.suppress(ImportError, OSError, EngineError):
        module = import_module(ENGINE_CLASSES[kind][0])
        getattr(module, "prepare", lambda: None)()
