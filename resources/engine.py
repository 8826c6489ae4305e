"""The engine as a resource: which engine, on what, in what portions. None of it changes a fingerprint.

At most one policy is loaded at a time, in a process of its own. It stays for the next stage that asks for
the same folder and is gone before training begins. It does not choose a policy: stages do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from si_dagster.assignments import assignment
from si_dagster.engines.base import Engine
from si_dagster.engines.child import spare
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.replicas import EngineReplicas

SCRIPTED = "scripted"
OWN_SETTINGS = ("chunk_prompts", "data_parallel_size", "python")


class EngineResource(dg.ConfigurableResource):
    """Turns prompts into completions and log-probabilities."""

    kind: str = "transformers"
    """The engine of every study that is not scripted."""
    chunk_prompts: int = 256
    """Prompts a chunk: what a killed run loses at most."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the engine: device, dtype, batch sizes, tensor_parallel_size."""
    data_parallel_size: int = 1
    """Engines at once, each with the whole policy; on GPUs each takes tensor_parallel_size of them."""
    python: str = ""
    """The Python an engine runs with; default: this one, for vllm also an environment of its own."""

    _loaded: tuple[str, Path, bool, EngineProcess | EngineReplicas] | None = PrivateAttr(default=None)

    def with_settings(self, settings: Sequence[str]) -> "EngineResource":
        """This resource with `name=value` pairs: its own fields where they have that name, else options.

        Raises:
            ValueError: If a setting is no such pair, or a value does not fit its field.
        """
        fields, options = {}, dict(self.options)
        for setting in settings:
            name, value = assignment(setting, "engine option")
            place = fields if name in OWN_SETTINGS else options
            place[name] = value
        return EngineResource(**{**self._plain(), **fields, "options": options})

    def _plain(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name) for name in OWN_SETTINGS}}

    def kind_for(self, scripted: bool) -> str:
        """The kind that answers a study, scripted or not; scripted answers never lie beside real ones.

        Raises:
            ValueError: If the scripted engine would answer a study that does not say `scripted: true`.
        """
        if self.kind == SCRIPTED and not scripted:
            raise ValueError("the scripted engine answers only studies with `scripted: true`; choose another")
        return SCRIPTED if scripted else self.kind

    def load(self, kind: str, folder: Path, trust_remote_code: bool = False) -> Engine:
        """The engine of that kind holding the policy of that folder, started if it is not there or died."""
        wanted = (kind, folder, trust_remote_code)
        if self._loaded is None or self._loaded[:3] != wanted or self._loaded[3].is_closed:
            self._end_loaded()
            options = {} if kind == SCRIPTED else dict(self.options)
            if trust_remote_code:
                options["trust_remote_code"] = True
            self._loaded = (*wanted, self._started(kind, folder, options))
        return self._loaded[3]

    def _started(self, kind: str, folder: Path, options: dict[str, Any]) -> EngineProcess | EngineReplicas:
        if self.data_parallel_size > 1 and kind != SCRIPTED:
            return EngineReplicas(kind, folder, options, self.data_parallel_size, self.python)
        return EngineProcess(kind, folder, options, self.python if kind != SCRIPTED else "")

    def release(self) -> None:
        """End the engine process, and one that was started ahead, and give their memory back."""
        spare.drop()
        self._end_loaded()

    def _end_loaded(self) -> None:
        if self._loaded is not None:
            engine, self._loaded = self._loaded[3], None
            engine.close()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """End the engine with the run."""
        self.release()
