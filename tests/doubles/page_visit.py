"""A page that is open in a browser."""

from dataclasses import dataclass

from playwright.sync_api import Page


@dataclass
class Visit:
    """A page that is open; any error in it fails the test."""

    page: Page
    url: str

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
