"""The generations of iteration 0 and what they are made from.

    python -m benchmarks.draw STUDY HOME ENGINE [NAME=VALUE]...

By Dagster and as `si-dagster run` does it, the engine's libraries imported beside ours. For
benchmarks/throughput.py, which times the whole process; it prints nothing and measures nothing itself.
"""

import sys
from pathlib import Path

from si_dagster.cli import engine_ahead


def main() -> None:
    file, home, kind, *settings = sys.argv[1:]
    with engine_ahead(file, [], kind, settings):
        draw(Path(file), Path(home), kind, settings)


def draw(file: Path, home: Path, kind: str, settings: list[str]) -> None:
    import dagster as dg

    from assets.automation import job_name
    from assets.stage_asset import asset_key
    from resources.engine import EngineResource
    from resources.store import StoreResource
    from si_dagster.console import progress_logger
    from si_dagster.definitions import definitions
    from si_dagster.instance import open_instance
    from si_dagster.study import load_study

    study = load_study(file)
    (model, task), *_ = study.cells()
    stages = [asset_key(study, stage, 0) for stage in ("prompts", "generations")]
    engine = EngineResource(kind=kind).with_settings(settings)
    with open_instance(home) as instance, progress_logger(quiet=True) as loggers:
        graph = definitions([study], StoreResource(home=str(home)), engine)
        job = dg.Definitions.merge(graph, dg.Definitions(loggers=loggers)).resolve_job_def(
            job_name(study.name, "all_iterations")
        )
        job.execute_in_process(
            instance=instance,
            partition_key=dg.MultiPartitionKey({"model": model, "task": task}),
            asset_selection=[asset_key(study, "base_checkpoint", None), *stages],
            run_config={"loggers": {"console": {}}},
        )


if __name__ == "__main__":
    main()
