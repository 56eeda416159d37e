"""Every state of the page: WCAG 2.2 AA by axe-core, light and dark; small and large windows."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_visit import Visit, visited
from playwright.sync_api import Browser, Page
from running_service import RunningService
from vespa_stub import StubVespa

from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.server import service
from clipsearch.server.app import HERE
from clipsearch.server.settings import ServerSettings

RULES = {
    "resultTypes": ["violations"],  # what passes is not told of every node
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
}
PICTURES = os.environ.get("PAGE_STATES")
# What is wrong with a card is wrong with each of them, and axe looks at every one.
FEW = "filter=year%3D2000..2002"
COLORS = {"resultTypes": ["violations"], "runOnly": {"type": "rule", "values": ["color-contrast"]}}


def _found(visit: Visit) -> None:
    visit.go(f"/?q=red+circle&{FEW}")


def _first_visit(visit: Visit) -> None:
    visit.go("/")
    assert "Some of them:" in visit.page.inner_text("#summary")
    assert visit.page.locator("#notes .chip").count() > 3


def _nothing(visit: Visit) -> None:
    visit.go("/?q=zebra&mode=bm25")
    assert visit.page.inner_text(".telling h2") == "Nothing found"


def _slow(visit: Visit) -> None:
    """The answer never comes, and the page's clocks go ten times as fast."""
    visit.page.add_init_script(
        "const later = setTimeout; window.setTimeout = (act, wait, ...values) =>"
        " later(act, wait / 10, ...values);"
    )
    visit.page.route("**/v1/search", lambda route: None)
    visit.page.goto(visit.url + "/?q=red")
    visit.page.wait_for_selector(".card.empty")
    visit.page.get_by_text("Still searching").wait_for()


def _failing(visit: Visit) -> None:
    visit.expected.append("500")
    broken = {"status": 500, "json": {"detail": "The disk is broken."}}
    visit.page.route("**/v1/search", lambda route: route.fulfill(**broken))  # type: ignore[arg-type]
    visit.page.goto(visit.url + "/?q=red")
    visit.page.get_by_text("The disk is broken.").wait_for()
    visit.page.unroute("**/v1/search")
    visit.page.click("text=Try again")
    visit.settle()
    assert visit.ids
    visit.page.route("**/v1/search", lambda route: route.fulfill(**broken))  # type: ignore[arg-type]
    visit.page.goto(visit.url + "/?q=blue")
    visit.page.get_by_text("The disk is broken.").wait_for()


def _out_of_reach(visit: Visit) -> None:
    visit.expected.append("ERR_FAILED")
    visit.page.route("**/v1/search", lambda route: route.abort())
    visit.page.goto(visit.url + "/?q=red")
    visit.page.get_by_text("The service cannot be reached.").wait_for()


def _refused(visit: Visit) -> None:
    visit.expected.append("400")
    visit.page.goto(visit.url + "/?q=red&filter=clas%3Dcircle")
    visit.page.get_by_text("did you mean class?").wait_for()


def _compared(visit: Visit) -> None:
    visit.go(f"/?q=red+circle&{FEW}&compare=")


def _large(visit: Visit) -> None:
    visit.go("/?q=red+circle")
    visit.page.locator("#results a.frame").first.click()
    visit.page.wait_for_selector("#viewer[open]")
    visit.page.fill("#where-text", "a red circle")
    visit.page.press("#where-text", "Enter")
    visit.page.wait_for_selector("#heat", state="visible")
    visit.page.click("#draw")
    # A small image is enlarged, and keeps its shape.
    width, height, own = visit.page.eval_on_selector(
        "#large", "image => [image.clientWidth, image.clientHeight, image.naturalWidth]"
    )
    assert width == pytest.approx(height, abs=1)
    assert width > 2 * own


def _help(visit: Visit) -> None:
    visit.go(f"/?q=red&{FEW}")
    visit.page.click("#keys")


STATES: tuple[Callable[[Visit], None], ...] = (
    _first_visit,
    _found,
    _nothing,
    _slow,
    _failing,
    _out_of_reach,
    _refused,
    _compared,
    _large,
    _help,
)


def picture(page: Page, name: str) -> None:
    """Write a screenshot for people to look at, where PAGE_STATES names a folder for it."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def check(visit: Visit, name: str) -> None:
    """Hold what is shown against axe, light and dark, and against small and large windows."""
    page = visit.page
    page.emulate_media(color_scheme="light")
    picture(page, f"{name}-light")
    found: Any = Axe().run(page, options=RULES).response["violations"]
    page.emulate_media(color_scheme="dark")
    picture(page, f"{name}-dark")
    # What is in the page already; but for its colours nothing has changed.
    found += page.evaluate(f"axe.run({json.dumps(COLORS)}).then(found => found.violations)")
    told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]
    assert told == [], name
    for width, height in ((360, 640), (3840, 2160)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        if width == 360:
            picture(page, f"{name}-small")
    page.set_viewport_size({"width": 1280, "height": 720})


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.strip("_"))
def test_every_state_is_accessible_and_fits(visit: Visit, state: Callable[[Visit], None]) -> None:
    state(visit)
    check(visit, state.__name__.strip("_"))


def test_an_answer_in_part_says_so(
    browser: Browser,
    vespa: StubVespa,
    served_vespa: RunningService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page itself comes too, though such a Vespa cannot count its documents."""
    assert served_vespa.get("/v1/index").json()["count"] == len(vespa.images())
    monkeypatch.setattr(service, "_COUNTED_FOR_SECONDS", -1.0)
    vespa.coverage = {"coverage": 50, "full": False, "degraded": {"timeout": True}}
    try:
        with visited(browser, served_vespa.url) as visit:
            visit.go(f"/?q=red&{FEW}")
            told = visit.page.inner_text("#notes")
            assert "Only a part could be searched: only 50 % of the documents" in told
            assert visit.ids, "what was found is shown"
            assert "only 50 %" in served_vespa.get("/v1/facets").json()["partial"]
            check(visit, "partial")
    finally:
        vespa.coverage = {}
    counted = r"^clipsearch_partial_answers_total (.+)$"
    (count,) = re.findall(counted, served_vespa.get("/metrics").text, re.MULTILINE)
    assert float(count) >= 1


def test_an_empty_index_says_how_to_fill_it(browser: Browser, tmp_path: Path) -> None:
    index = str(tmp_path / "empty.index")
    create_engine(index, IndexInfo(32)).close()
    with (
        RunningService(ServerSettings(index, tmp_path / "cache")) as running,
        visited(browser, running.url) as visit,
    ):
        visit.go("/")
        assert "clipsearch feed MANIFEST" in visit.page.inner_text(".telling")
        check(visit, "empty")


@pytest.fixture
def below(browser: Browser, served: RunningService, tmp_path: Path) -> Iterator[Visit]:
    """A page below a path."""
    settings = ServerSettings(served.settings.index, tmp_path / "cache", root_path="/my/images")
    with (
        RunningService(settings) as running,
        visited(browser, f"{running.url}/my/images") as visit,
    ):
        yield visit


@pytest.mark.slow
def test_the_api_is_described_and_tried_below_a_path(below: Visit) -> None:
    """Swagger UI keeps to the policy: a violation is an error of the browser's console."""
    asked: list[str] = []
    below.page.on("request", lambda request: asked.append(request.url))
    below.page.goto(f"{below.url}/docs")
    below.page.get_by_text("/v1/suggest").click()
    below.page.click("text=Try it out")
    below.page.fill("tr[data-param-name=prefix] input", "re")
    below.page.click("button.execute")
    below.page.wait_for_selector(".live-responses-table")
    assert '"word": "red"' in below.page.inner_text(".live-responses-table")
    picture(below.page, "docs")
    assert all(url.startswith((below.url, "data:")) for url in asked), asked


def test_all_of_it_works_below_a_path(below: Visit) -> None:
    below.go("/?q=red+circle")
    assert below.page.locator("#results img").first.evaluate("image => image.decode()") is None
    below.page.locator("#results a.frame").first.click()
    below.page.wait_for_selector("#viewer[open]")
    below.page.reload()
    below.page.wait_for_selector("#viewer[open]")
    assert below.page.url.startswith(below.url)


def test_nothing_moves_when_images_load(visit: Visit) -> None:
    visit.page.add_init_script(
        """window.moved = 0;
        new PerformanceObserver(list => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) moved += entry.value;
        }).observe({type: "layout-shift", buffered: true});"""
    )
    visit.go("/?q=red+circle")
    visit.page.evaluate("scrollTo(0, 900)")
    visit.settle()
    assert visit.page.evaluate("window.moved") < 0.02


def test_right_to_left_captions_run_right_to_left(visit: Visit) -> None:
    visit.go("/?q=%D8%AF%D8%A7%D8%A6%D8%B1%D8%A9&mode=bm25")
    caption = visit.page.locator("#results .caption").first
    assert caption.evaluate("element => getComputedStyle(element).direction") == "rtl"


def test_the_files_are_small() -> None:
    files = [HERE / "templates" / "page.html", HERE / "static" / "page.css"]
    files += [each for each in (HERE / "static").rglob("*.js") if each.name != "docs.js"]
    assert sum(each.stat().st_size for each in files) < 60_000
