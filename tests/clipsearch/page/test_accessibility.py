"""WCAG 2.2 AA by axe-core in every state, light and dark; small and large windows."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_visit import Visit

from clipsearch.server.app import HERE

RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


def _found(visit: Visit) -> None:
    visit.go("/?q=red+circle")


def _first_visit(visit: Visit) -> None:
    visit.go("/")


def _nothing(visit: Visit) -> None:
    visit.go("/?q=zebra&mode=bm25")


def _failing(visit: Visit) -> None:
    visit.page.route(
        "**/v1/search", lambda route: route.fulfill(status=500, json={"detail": "It broke."})
    )
    visit.page.goto(visit.url + "/?q=red")
    visit.page.wait_for_selector(".telling")


def _compared(visit: Visit) -> None:
    visit.go("/?q=red+circle&compare=")


def _large(visit: Visit) -> None:
    visit.go("/?q=red+circle")
    visit.page.locator("#results a.frame").first.click()
    visit.page.wait_for_selector("#viewer[open]")
    visit.page.click("#draw")


def _help(visit: Visit) -> None:
    visit.go("/?q=red")
    visit.page.click("#keys")


STATES: tuple[Callable[[Visit], None], ...] = (
    _found,
    _nothing,
    _compared,
    _large,
    _help,
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Visit, scheme: Literal["light", "dark"]) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    for state in STATES:
        state(visit)
        found: Any = Axe().run(visit.page, options=RULES).response["violations"]
        told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]
        assert told == [], state.__name__


@pytest.mark.parametrize(("width", "height"), [(360, 640), (3840, 2160)])
def test_nothing_is_wider_than_the_window(visit: Visit, width: int, height: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": height})
    for state in STATES:
        state(visit)
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, state.__name__


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
