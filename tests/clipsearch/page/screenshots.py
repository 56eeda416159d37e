"""Write the screenshots of the documents, of the demo's index: `make screenshots`."""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2] / "doubles"))

from chromium import CHROMIUM, started_chromium  # noqa: E402
from playwright.sync_api import Page  # noqa: E402
from running_service import RunningService  # noqa: E402

from clipsearch.server.settings import ServerSettings  # noqa: E402

DOCS = HERE.parents[3] / "docs"
TEXT = "two red stars on the left"
WINDOW = {"width": 1280, "height": 820}


def _settled(page: Page) -> None:
    page.wait_for_selector("body.alive #results:not([aria-busy])", state="attached")
    page.wait_for_load_state("networkidle")


def _page(page: Page, url: str) -> None:
    page.goto(f"{url}/?q={TEXT}")
    _settled(page)


def _compared(page: Page, url: str) -> None:
    page.goto(f"{url}/?q={TEXT}&compare=")
    _settled(page)
    page.locator(".badge.joined").first.hover()


def _large(page: Page, url: str) -> None:
    _page(page, url)
    page.locator("#results a.frame").first.click()
    page.wait_for_selector("#viewer[open]")
    page.fill("#where-text", "a red star")
    page.press("#where-text", "Enter")
    page.wait_for_selector("#heat", state="visible")
    _settled(page)


def main() -> None:
    """Write one file a state; the folder of the demo is the only argument."""
    index = Path(sys.argv[1]) / "pictures.index"
    if CHROMIUM is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as cache,
        RunningService(ServerSettings(str(index), Path(cache))) as running,
        started_chromium() as browser,
    ):
        for name, state, scheme in (
            ("page", _page, "light"),
            ("page-compared", _compared, "light"),
            ("page-large", _large, "dark"),
        ):
            page = browser.new_page(viewport=WINDOW, color_scheme=scheme)
            state(page, running.url)
            page.screenshot(path=DOCS / f"{name}.png")
            page.close()
            print(DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
