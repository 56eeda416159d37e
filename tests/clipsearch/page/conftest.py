"""The page in a real browser, over an index of drawn shapes on either engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, started_chromium
from drawn_shapes import draw_shapes
from fed_indexes import fed, fed_vespa
from page_visit import Visit, visited
from playwright.sync_api import Browser
from running_service import RunningService
from vespa_stub import StubVespa

from clipsearch.server.settings import ServerSettings


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 64 drawn images."""
    return draw_shapes(tmp_path_factory.mktemp("shapes"), 64)


@pytest.fixture(scope="session")
def served(
    shapes: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    work = tmp_path_factory.mktemp("page")
    index = fed(shapes, str(work / "shapes.index"), encoder_folder, work)
    with RunningService(ServerSettings(index, work / "cache")) as running:
        yield running


@pytest.fixture(scope="session")
def vespa(
    shapes: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StubVespa]:
    with fed_vespa(shapes, encoder_folder, tmp_path_factory.mktemp("page-vespa")) as stub:
        yield stub


@pytest.fixture(scope="session")
def served_vespa(
    vespa: StubVespa, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    settings = ServerSettings(vespa.url, tmp_path_factory.mktemp("page-vespa-cache"))
    with RunningService(settings) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with started_chromium() as started:
        started.new_context()  # that `visited` shares
        yield started


@pytest.fixture
def visit(browser: Browser, served: RunningService) -> Iterator[Visit]:
    """A page over the embedded engine."""
    with visited(browser, served.url) as page:
        yield page


@pytest.fixture(params=["embedded", "vespa"])
def either(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    """A page over each engine."""
    name = "served" if request.param == "embedded" else "served_vespa"
    with visited(browser, request.getfixturevalue(name).url) as page:
        yield page


@pytest.fixture
def browser_without_scripts(browser: Browser, served: RunningService) -> Iterator[Visit]:
    """A page in a browser that runs no scripts."""
    with visited(browser, served.url, java_script_enabled=False) as page:
        yield page
