"""findings: the verdicts on the paper's findings, over all of their studies that are stored.

One asset for all findings studies of the code location; without any there is none. It judges by the code that
writes docs/findings.md, writes no file, and runs no study.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from assets.automation import whenever_something_is_new
from assets.stage_asset import OWNERS, asset_key, told_plainly
from resources.store import StoreResource
from si_dagster.study import Study

FINDINGS = "findings"
CARD = """The six findings of "Mind the Gap" put to the test: verdict, contrasts with their intervals, and a
picture of each.

Made from whatever studies of the findings are complete; a finding whose study is not is told as not measured.

Reads: utilities, verifications of all bases and iterations of those studies.

Writes: nothing; `si-dagster findings` writes the same as docs/findings.md.
"""


def findings_definitions(studies: Sequence[Study]) -> dg.Definitions:
    """The asset `findings`, where any of its studies is among these."""
    ours = list(_of_the_findings(studies))
    return dg.Definitions(assets=[_findings_asset(ours)] if ours else [])


def _of_the_findings(studies: Sequence[Study]) -> Iterator[Study]:
    named = [study for study in studies if study.name.startswith(f"{FINDINGS}_")]
    if named:
        from si_dagster.reproduction import finding_studies

        planned = {study.name for _, study in finding_studies()}
        yield from (study for study in named if study.name in planned)


def _findings_asset(studies: Sequence[Study]) -> dg.AssetsDefinition:
    @dg.asset(
        key=FINDINGS,
        deps=[
            dg.AssetDep(asset_key(study, "gap_metrics", iteration), metadata={"si/edge": "summary"})
            for study in studies
            for iteration in range(study.iterations + 1)
        ],
        group_name=FINDINGS,
        description=CARD,
        kinds={"numpy", "altair"},
        owners=OWNERS,
        automation_condition=whenever_something_is_new(),
    )
    def all_findings(store: StoreResource) -> dg.MaterializeResult:
        with told_plainly():
            return materialize(store)

    return all_findings


def materialize(store: StoreResource) -> dg.MaterializeResult:
    """Judge what is stored and show it."""
    from si_dagster.analysis.findings_page import section, sections, verdict_table
    from si_dagster.reproduction import evidence

    found = evidence(store.store)
    told = sections(found)
    pages = {f"finding_{each.finding.number}": section(each, each.inline_picture) for each in told}
    return dg.MaterializeResult(
        metadata={
            "verdicts": dg.MetadataValue.md(verdict_table(told)),
            **{name: dg.MetadataValue.md(page) for name, page in pages.items()},
        }
    )
