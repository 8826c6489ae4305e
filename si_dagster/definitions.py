"""The code location: every study as a graph, bound to store, engine and trainer.

Studies are the YAML files of `studies/` and, for studies run from elsewhere or with overrides, the copies
kept under the home folder. A file that cannot be read is told and left out, so one bad file hides no other.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from assets.findings import findings_definitions
from assets.study_graph import study_definitions
from resources.engine import EngineResource
from resources.store import StoreResource
from resources.trainer import TrainerResource
from si_dagster.plan import Plan
from si_dagster.store.layout import default_home
from si_dagster.study import Study, load_study

LOG = logging.getLogger("si_dagster")
STUDIES = Path(__file__).parent.parent / "studies"


def find_studies(home: Path) -> list[Study]:
    """All studies of the repository, and those of the home folder that have another name."""
    studies: dict[str, Study] = {}
    for study in readable_studies([*study_files(), *kept_copies(home)]):
        # Dagster names jobs and steps by letters, digits and `_` alone.
        first = studies.setdefault("".join(c if c.isalnum() else "_" for c in study.name), study)
        if first.name != study.name:
            LOG.warning("left out: %r differs from %r in punctuation alone", study.name, first.name)
    return list(studies.values())


def readable_studies(files: Iterable[Path]) -> Iterator[Study]:
    """Studies whose graph can be drawn; each of the others is told."""
    for file in files:
        try:
            study = load_study(file)
            _ = Plan(study).nodes
        except ValueError as error:
            LOG.warning("left out: %s: %s", file, error)
            continue
        yield study


def study_files() -> list[Path]:
    """Study files of the repository."""
    return sorted(Path(os.environ.get("SI_DAGSTER_STUDIES", STUDIES)).glob("*.yaml"))


def kept_copies(home: Path) -> list[Path]:
    """Files of the studies that were run in a home folder."""
    return sorted((home / "studies").glob("*.yaml"))


def engine_of_environment() -> EngineResource:
    """The engine of SI_DAGSTER_ENGINE, with the `name=value` pairs of SI_DAGSTER_ENGINE_OPTIONS."""
    kind = os.environ.get("SI_DAGSTER_ENGINE", "transformers")
    return EngineResource(kind=kind).with_settings(os.environ.get("SI_DAGSTER_ENGINE_OPTIONS", "").split())


def definitions(
    studies: list[Study],
    store: StoreResource | None = None,
    engine: EngineResource | None = None,
    trainer: TrainerResource | None = None,
) -> dg.Definitions:
    """The graphs of some studies, with their resources."""
    bound = dg.Definitions(
        resources={
            "store": store or StoreResource(),
            "engine": engine or engine_of_environment(),
            "trainer": trainer or TrainerResource(),
        },
        # One process a run: a step costs .05 s instead of 2, and heavy work has processes of its own.
        executor=dg.in_process_executor,
        sensors=[
            dg.AutomationConditionSensorDefinition(
                "carry_studies_through",
                target=dg.AssetSelection.all(),
                default_status=dg.DefaultSensorStatus.STOPPED,
            )
        ],
    )
    graphs = [study_definitions(study) for study in studies]
    return dg.Definitions.merge(*graphs, findings_definitions(studies), bound)


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` loads."""
    return definitions(find_studies(default_home()))
