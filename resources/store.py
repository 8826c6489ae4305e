"""The store as a resource: where artifacts and lineage lie, and whether stale ones may be replaced."""

from functools import cached_property
from pathlib import Path

import dagster as dg

from si_dagster.store.artifacts import Store
from si_dagster.store.layout import default_home


class StoreResource(dg.ConfigurableResource):
    """Artifacts as Parquet and safetensors under one home folder, lineage in DuckDB beside them."""

    home: str = ""
    """Home folder; default: SI_DAGSTER_HOME, else ./.si."""
    supersede: bool = False
    """Move artifacts that were made by another recipe aside and make them anew, instead of refusing."""

    @property
    def path(self) -> Path:
        """The home folder, absolute."""
        return Path(self.home).absolute() if self.home else default_home()

    @cached_property
    def store(self) -> Store:
        """The store of that home."""
        return Store(self.path)
