"""The page in a real browser, over an index of drawn shapes on either engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, started_chromium
from drawn_shapes import draw_shapes
from fed_indexes import fed, fed_vespa
from page_visit import Visit
from playwright.sync_api import Browser
from running_service import RunningService

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
def served_vespa(
    shapes: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    work = tmp_path_factory.mktemp("page-vespa")
    with (
        fed_vespa(shapes, encoder_folder, work) as url,
        RunningService(ServerSettings(url, work / "cache")) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with started_chromium() as started:
        yield started


def _visit(browser: Browser, running: RunningService, **options: object) -> Iterator[Visit]:
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(15_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    yield Visit(page, running.url)
    context.close()
    assert errors == []


@pytest.fixture
def visit(browser: Browser, served: RunningService) -> Iterator[Visit]:
    """A page over the embedded engine."""
    yield from _visit(browser, served)


@pytest.fixture(params=["embedded", "vespa"])
def either(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    """A page over each engine."""
    name = "served" if request.param == "embedded" else "served_vespa"
    yield from _visit(browser, request.getfixturevalue(name))


@pytest.fixture
def browser_without_scripts(browser: Browser, served: RunningService) -> Iterator[Visit]:
    """A page in a browser that runs no scripts."""
    yield from _visit(browser, served, java_script_enabled=False)
