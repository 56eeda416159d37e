"""A page that is open in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page


@dataclass
class Visit:
    """A page that is open; any error in it fails the test, but for those that are `expected`."""

    page: Page
    url: str
    expected: list[str] = field(default_factory=list)

    def go(self, address: str) -> None:
        """Open an address and wait for its answer."""
        self.page.goto(self.url + address)
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked last is answered."""
        self.page.wait_for_selector("body.alive #results:not([aria-busy])", state="attached")

    @property
    def ids(self) -> list[str]:
        """Ids of the images shown."""
        found: list[str] = self.page.eval_on_selector_all(
            "#results a.frame", "links => links.map(link => link.dataset.id)"
        )
        return found


@contextmanager
def visited(browser: Browser, url: str, **options: object) -> Iterator[Visit]:
    """Open a page, and fail where an error was told in it.

    Pages without `options` share the browser's first context: scripts and thumbnails come once.
    """
    context = browser.new_context(**options) if options else browser.contexts[0]  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(15_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    visit = Visit(page, url)
    yield visit
    page.close()
    if options:
        context.close()
    assert [error for error in errors if not any(known in error for known in visit.expected)] == []
