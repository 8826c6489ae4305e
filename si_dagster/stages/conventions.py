"""How the estimators of a study are set up: what metrics and analyses share.

It estimates nothing and reads no rows.
"""

from typing import Any

from si_dagster.core.fingerprint import derive_seed
from si_dagster.study import Study


def bootstrap_options(study: Study) -> dict[str, Any]:
    """How the study's intervals are made, as arguments of the functions of `core.intervals`."""
    return {
        "num_resamples": study.analysis.num_resamples,
        "confidence": study.analysis.confidence,
        "seed": derive_seed(study.seed, "bootstrap"),
    }
