"""The engine as a resource: which engine, on what, in what portions. None of it changes a fingerprint.

At most one policy is loaded at a time, in a process of its own. It stays for the next stage that asks for
the same folder and is gone before training begins. It does not choose a policy: stages do.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from si_dagster.engines.base import Engine
from si_dagster.engines.process import EngineProcess


class EngineResource(dg.ConfigurableResource):
    """Turns prompts into completions and log-probabilities."""

    kind: str = "transformers"
    """`transformers`, or `scripted` for tests of orchestration."""
    chunk_prompts: int = 256
    """Prompts a chunk: what a killed run loses at most."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the engine: device, dtype, batch sizes."""

    _loaded: tuple[Path, bool, Engine] | None = PrivateAttr(default=None)

    def load(self, folder: Path, trust_remote_code: bool = False) -> Engine:
        """The engine holding the policy of that folder, started if it is not there yet."""
        wanted = (folder, trust_remote_code)
        if self._loaded is None or self._loaded[:2] != wanted:
            self.release()
            options = {**self.options, **({"trust_remote_code": True} if trust_remote_code else {})}
            self._loaded = (*wanted, EngineProcess(self.kind, folder, options))
        return self._loaded[2]

    def release(self) -> None:
        """End the engine process and give its memory back."""
        if self._loaded is not None:
            engine, self._loaded = self._loaded[2], None
            engine.close()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """End the engine with the run."""
        self.release()
