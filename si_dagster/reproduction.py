"""The studies of the findings, what is stored of them, and the page on what came out: `si-dagster findings`.

They are `studies/findings_*.yaml` for several seeds. The page holds nothing that is not stored under the home
folder, by the present recipes. Judging is the part of `analysis.findings`; nothing here runs a study.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from si_dagster.analysis.data import StudyData
from si_dagster.analysis.findings import ITERATION, ORACLE, Evidence, Measured, verdict
from si_dagster.analysis.findings_page import sections, written
from si_dagster.analysis.plots import to_svg
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.atomic import write_bytes
from si_dagster.store.layout import Address
from si_dagster.study import Study, load_study, parse_study

SEEDS = (3, 4, 5)
"""Seeds that no recipe was chosen on and no other study of this repository was run on."""
STUDIES = Path(__file__).parent.parent / "studies"
DOCS = Path(__file__).parent.parent / "docs"
VARIANTS = {
    ORACLE: (
        ITERATION,
        ("oracle=true", "verification=[oracle]", "weighting.rule=threshold", "weighting.tau=1"),
    )
}
"""Name -> (file, overrides): studies that differ from a file in what they are the control of, and follow it
in all else. Its base has the fingerprint of that of the file, and so is copied, not trained again."""
SMALL_SEED = 10
SMALL_STEPS = 4


def finding_studies(small: bool = False, folder: Path = STUDIES) -> list[tuple[str, Study]]:
    """(name of the file or variant, study) in the order of the runs: the longest first, and a variant last.

    All seeds of a study come before the next study: studies of the arithmetic family take as long as all
    others of their seed together, and one that came last would run by itself while the other cores are idle.

    Examples:
        >>> [name for name, _ in finding_studies(small=True)][2:]
        ['findings_iteration', 'findings_sudoku4', 'findings_oracle']
    """
    files = sorted(folder.glob("findings_*.yaml"))
    known = {file.stem for file in files}
    asked = [(file.stem, file, ()) for file in files]
    asked += [
        (name, folder / f"{stem}.yaml", overrides)
        for name, (stem, overrides) in VARIANTS.items()
        if stem in known
    ]
    loaded = [
        (name, _of_seed(name, file, seed, overrides))
        for name, file, overrides in asked
        for seed in ((SMALL_SEED,) if small else SEEDS)
    ]
    return [(name, shrunk(study) if small else study) for name, study in loaded]


def _of_seed(name: str, file: Path, seed: int, overrides: Sequence[str]) -> Study:
    called = [f"name={name}__seed_{seed}"] if overrides else []
    return load_study(file, [f"seed={seed}", *overrides, *called])


def shrunk(study: Study) -> Study:
    """The same study for a test of the path: two bases of a few steps, a few prompts, one update; no result.

    Examples:
        >>> from si_dagster.study import load_study
        >>> small = shrunk(load_study("studies/findings_arithmetic.yaml"))
        >>> small.name, [m.name for m in small.models], small.splits.eval
        ('findings_arithmetic__small', ['xxs', 'l'], 8)
    """
    data: dict[str, Any] = study.model_dump(mode="json", exclude_none=True)
    models = [data["models"][0], data["models"][-1]] if len(data["models"]) > 1 else data["models"]
    for place, model in enumerate(models, 1):
        tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        tiny |= {"max_steps": place * SMALL_STEPS, "per_device_train_batch_size": 8, "warmup_steps": 0}
        model["pretrain"] |= tiny
    names = {model["name"] for model in models}
    known = [v for v in data["verification"] if v["verifier"] in names | {"self", "base"}]
    data |= {"name": f"{study.name}__small", "models": models, "verification": known}
    data |= {"splits": {"train": 8, "eval": 8}, "iterations": min(1, study.iterations)}
    data["generation"] |= {"n": 4}
    if study.oracle:
        data["weighting"]["tau"] = 0  # a policy of a few steps is never right, and nothing would be left
    data["distillation"] |= {"max_steps": 2, "per_device_train_batch_size": 4, "replay_fraction": 0.0}
    return parse_study(data, study.name)


def evidence(store: Store, small: bool = False, folder: Path = STUDIES) -> Evidence:
    """Whatever is stored of the studies' present recipes."""
    studies = finding_studies(small, folder)
    return Evidence(
        measured=tuple(m for stem, study in studies for m in _measured(stem, Plan(study), store)),
        planned={stem: frozenset(model.name for model in study.models) for stem, study in studies},
    )


def _measured(stem: str, plan: Plan, store: Store) -> Iterator[Measured]:
    """Policies of which utilities and every verification are there."""
    study = plan.study
    present = {a: store.require(a) for a in plan.nodes if _is_of_this_recipe(plan, store, a)}
    for samples in StudyData(study, present).samples("eval"):
        base = present.get(plan.address("base_checkpoint", None, (samples.model, samples.task)))
        if base is not None and len(samples.specs) == len(study.verification):
            yield Measured(
                study=stem,
                seed=study.seed,
                iteration=samples.iteration,
                model=samples.model,
                num_parameters=int(base.manifest.metadata["num_parameters"]),
                flops=float(base.manifest.metadata["pretraining_flops"]),
                prompts=samples.policy.prompt_ids,
                offsets=samples.offsets,
                utilities=samples.utilities,
                scores=samples.scores,
            )


def _is_of_this_recipe(plan: Plan, store: Store, address: Address) -> bool:
    manifest = store.manifest(address)
    return manifest is not None and manifest.fingerprint == plan.fingerprint(address)


def write_page(
    store: Store, folder: Path, small: bool = False, studies: Path = STUDIES
) -> tuple[Path, dict[str, str]]:
    """Write findings.md and its pictures; what was not measured is said to be so.

    Returns:
        The page, and the verdict on each finding by its number and title.
    """
    found = evidence(store, small, studies)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    judged = sections(found)
    for each in judged:
        if each.chart is not None:
            write_bytes(images / each.image, to_svg(each.chart).encode())
    page = folder / "findings.md"
    seeds = [study.seed for _, study in finding_studies(small, studies)]
    write_bytes(page, written(found, seeds, judged).encode())
    return page, {f"{s.finding.number}. {s.finding.title}": verdict(s.contrasts) for s in judged}
