"""The UI in a real browser: the graph of a study, and a stage materialized from the UI's own API.

Needs Debian's chromium (or the program named by SI_DAGSTER_CHROMIUM). Screenshots go to the folder named by
SI_DAGSTER_SCREENSHOTS, if set.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CLI, ROOT, environment
from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = os.environ.get("SI_DAGSTER_CHROMIUM") or shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
    # Playwright and the server leave sockets to the garbage collector when a test fails half-way.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
CELL = "pico|sudoku4"


class Server:
    """`si-dagster ui` on a free port."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        studies = ROOT / "tests" / "cases"
        self.log = (home / "ui.log").open("w")
        self.process = subprocess.Popen(
            [*CLI, "ui", "--port", str(self.port)],
            cwd=ROOT,
            env={**environment(home), "SI_DAGSTER_STUDIES": str(studies)},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                urllib.request.urlopen(f"{self.url}/server_info", timeout=2).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(Path(self.log.name).read_text())

    def ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("ui") / "home"
    shutil.copytree(finished, home)
    server = Server(home)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    yield page
    page.close()


def screenshot(page: Page, name: str) -> None:
    folder = os.environ.get("SI_DAGSTER_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_lineage_shows_base_iterations_and_report(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/asset-groups")
    for group in (
        "mini__base",
        "mini__iteration_0",
        "mini__iteration_1",
        "mini__iteration_2",
        "mini__analysis",
        "mini__report",
    ):
        page.get_by_text(group, exact=False).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2_000)
    screenshot(page, "lineage")


def test_a_stage_is_materialized_from_the_api_and_its_page_shows_numbers_and_plot(
    server: Server, page: Page
) -> None:
    path = ["mini", "iteration_0", "verifications", "multiple_choice"]
    params = {
        "selector": {
            "repositoryLocationName": "si_dagster",
            "repositoryName": "__repository__",
            "pipelineName": "mini__all_iterations",
            "assetSelection": [{"path": path}],
        },
        "mode": "default",
        "executionMetadata": {
            "tags": [
                {"key": "dagster/partition", "value": CELL},
                {"key": "dagster/partition/model", "value": "pico"},
                {"key": "dagster/partition/task", "value": "sudoku4"},
            ]
        },
    }
    launched = server.ask(LAUNCH, {"params": params})["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    deadline = time.monotonic() + 180
    status = "STARTED"
    while status not in ("SUCCESS", "FAILURE", "CANCELED") and time.monotonic() < deadline:
        time.sleep(1)
        status = server.ask(STATUS, {"id": run_id})["runOrError"]["status"]
    assert status == "SUCCESS", Path(server.log.name).read_text()[-4000:]

    partition = CELL.replace("|", "%7C")
    page.goto(f"{server.url}/assets/{'/'.join(path)}?view=partitions&partition={partition}")
    page.get_by_text("mean_proxy_utility", exact=False).first.wait_for(timeout=60_000)
    page.get_by_text("num_verifications", exact=False).first.wait_for()
    page.get_by_text("Show Markdown", exact=False).first.click()
    page.locator("img[src^='data:image/png']").first.wait_for(timeout=30_000)
    page.wait_for_timeout(1_000)
    screenshot(page, "verifications")


def test_the_report_shows_the_gap_table(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/assets/mini/report")
    page.get_by_text("table", exact=True).first.wait_for(timeout=60_000)
    screenshot(page, "report")


def shown(page: Page, key: str) -> Locator:
    """What a key of the metadata holds as Markdown: in its row if it is short, else in a dialog."""
    row = page.locator("tr").filter(has=page.get_by_text(key, exact=True)).first
    row.wait_for(timeout=60_000)
    button = row.get_by_text("Show Markdown")
    if not button.count():
        return row
    button.click()
    return page.get_by_role("dialog")


def test_an_analysis_shows_its_table_and_its_plot(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/assets/mini/analysis/verifier_quality")
    table = shown(page, "table")
    for heading in ("prompts", "AUROC", "calibration error"):
        table.get_by_role("columnheader", name=heading, exact=True).wait_for(timeout=30_000)
    assert table.get_by_role("cell", name="multiple_choice", exact=True).count() >= 3  # one an iteration
    page.keyboard.press("Escape")
    picture = shown(page, "plot").locator("img[src^='data:image/png']")
    picture.wait_for(timeout=30_000)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    screenshot(page, "analysis")
