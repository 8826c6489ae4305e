"""The files of `deploy/`, as far as they can be held against the package without Docker or a cluster."""

import inspect
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from dagster._core.errors import DagsterInvalidConfigError
from dagster._core.instance.ref import InstanceRef

from resources.engine import EngineResource
from si_dagster.engines.child import OWN_ENVIRONMENTS, PACKAGE_ROOT
from si_dagster.engines.ray import RayEngine
from si_dagster.engines.registry import ENGINE_CLASSES

DEPLOY = ROOT / "deploy"
IMAGE_HOME = "/opt/si-dagster/"


def read(file: str) -> Any:
    return yaml.safe_load((DEPLOY / file).read_text())


COMPOSE, INSTANCE = read("docker/compose.yaml"), read("docker/dagster.yaml")
VALUES, RAY, STORAGE = (read(f"kubernetes/{n}.yaml") for n in ("dagster-values", "raycluster", "storage"))
DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
[CODE_LOCATION] = VALUES["dagster-user-deployments"]["deployments"]
CODE_VARIABLES = {pair["name"]: pair["value"] for pair in CODE_LOCATION["env"]}
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)
RAY_PODS = [
    group["template"]["spec"] for group in (RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"])
]


def is_known_to_the_package(variable: str) -> bool:
    files = (file for folder in ("si_dagster", "resources") for file in (ROOT / folder).rglob("*.py"))
    return any(f'"{variable}"' in file.read_text() for file in files)


def in_dockerfile(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)


def test_every_file_is_read_here() -> None:
    assert {file.name for file in DEPLOY.rglob("*.yaml")} == {
        "compose.yaml",
        "dagster.yaml",
        "dagster-values.yaml",
        "raycluster.yaml",
        "storage.yaml",
    }


def test_dagster_takes_the_instance(tmp_path: Path) -> None:
    assert InstanceRef.from_dir(str(DEPLOY / "docker")).storage_data.class_name == "DagsterPostgresStorage"
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({**INSTANCE, "concurency": {}}))
    with pytest.raises(DagsterInvalidConfigError, match="concurency"):
        InstanceRef.from_dir(str(tmp_path))


def test_the_chart_is_given_an_instance_that_dagster_takes(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(VALUES["additionalInstanceConfig"]))
    settings = InstanceRef.from_dir(str(tmp_path)).settings
    assert settings["concurrency"]["pools"]["granularity"] == "run"


def test_runs_are_containers_of_compose() -> None:
    launcher = INSTANCE["run_launcher"]["config"]
    for service in (COMPOSE["services"]["webserver"], COMPOSE["services"]["daemon"]):
        assert service["image"] == launcher["image"]
        assert set(launcher["env_vars"]) == set(service["environment"])
        words = service["command"].split()
        assert (ROOT / words[words.index("--workspace") + 1]).is_file()
        assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert launcher["network"] == COMPOSE["networks"]["si-dagster"]["name"]
    assert launcher["container_kwargs"]["volumes"] == [f"{COMPOSE['volumes']['data']['name']}:/data"]
    postgres = INSTANCE["storage"]["postgres"]["postgres_db"]
    assert {value["env"] for value in postgres.values() if isinstance(value, dict)} <= set(
        launcher["env_vars"]
    )


@pytest.mark.parametrize(
    "variable",
    sorted(
        name
        for name in {*INSTANCE["run_launcher"]["config"]["env_vars"], *CODE_VARIABLES, "SI_DAGSTER_HOME"}
        if name.startswith("SI_DAGSTER_")
    ),
)
def test_a_variable_that_is_set_is_read(variable: str) -> None:
    assert is_known_to_the_package(variable)


def test_kubernetes_runs_drive_the_ray_cluster() -> None:
    """Image, volume, address and version agree, and the engine knows every option."""
    image = f"{CODE_LOCATION['image']['repository']}:{CODE_LOCATION['image']['tag']}"
    pods = [container for pod in RAY_PODS for container in pod["containers"]]
    assert {container["image"] for container in pods} == {image}
    volumes = [volume for pod in RAY_PODS for volume in pod["volumes"]] + CODE_LOCATION["volumes"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}
    assert claims == {STORAGE["metadata"]["name"]}
    mounts = [mount for holder in (*pods, CODE_LOCATION) for mount in holder["volumeMounts"]]
    assert {mount["mountPath"] for mount in mounts} == {CODE_VARIABLES["SI_DAGSTER_HOME"]}
    assert RAY["spec"]["rayVersion"] == PINNED["ray"]

    settings = CODE_VARIABLES["SI_DAGSTER_ENGINE_OPTIONS"].split()
    engine = EngineResource(kind=CODE_VARIABLES["SI_DAGSTER_ENGINE"]).with_settings(settings)
    assert engine.kind == "ray"
    assert set(engine.options) <= set(inspect.signature(RayEngine).parameters)
    assert engine.options["engine"] in ENGINE_CLASSES
    assert engine.options["address"] == f"ray://{RAY['metadata']['name']}-head-svc:10001"

    arguments = CODE_LOCATION["dagsterApiGrpcArgs"]
    assert find_spec(arguments[arguments.index("--module-name") + 1])
    assert f"{arguments[arguments.index('--working-directory') + 1]}/" == IMAGE_HOME


def test_the_image_has_what_its_commands_name() -> None:
    assert in_dockerfile("WORKDIR") == [IMAGE_HOME.rstrip("/")]
    [context, place] = in_dockerfile("COPY")[0].split()
    assert (context, place) == (".", ".")
    runs = "\n".join(in_dockerfile("RUN"))
    for constraints in re.findall(r"--constraint (\S+)", runs):
        assert (ROOT / constraints).is_file()
    [extra] = re.findall(r"'\.\[(\w+)\]'", runs)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    environment = str(OWN_ENVIRONMENTS["vllm"].relative_to(PACKAGE_ROOT).parents[1])
    assert f"-m venv {environment} && {environment}/bin/pip install" in runs
    variables = dict(pair.split("=") for pair in " ".join(in_dockerfile("ENV")).split())
    assert variables["SI_DAGSTER_HOME"] == CODE_VARIABLES["SI_DAGSTER_HOME"]
    home = Path(variables["DAGSTER_HOME"]).relative_to(IMAGE_HOME)
    assert (ROOT / home / "dagster.yaml").is_file()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert not {"deploy", "workspace.yaml", "constraints.txt", "studies"} & set(ignored)


def test_the_image_has_the_compiler_of_deepspeed() -> None:
    [packages] = re.findall(r"apt-get install (.*?) &&", DOCKERFILE)
    assert "g++" in packages.split()


def test_dagsters_libraries_have_the_version_of_dagster() -> None:
    """0.29.27 goes with 1.13.27."""
    _, minor, patch = map(int, PINNED["dagster"].split("."))
    found = re.findall(r"(dagster-\w+)==(\S+)", DOCKERFILE)
    assert {name for name, _ in found} == {"dagster-postgres", "dagster-docker", "dagster-k8s"}
    assert {version for _, version in found} == {f"0.{16 + minor}.{patch}"}
