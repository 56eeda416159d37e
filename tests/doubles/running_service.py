"""A service that answers over real HTTP, in a thread of the test."""

import asyncio
import faulthandler
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from clipsearch.search.search import Search
from clipsearch.server.listening import address_of, listen
from clipsearch.server.running import Server, server_of
from clipsearch.server.service import Service
from clipsearch.server.settings import ServerSettings


@dataclass
class RunningService:
    """A context manager; `url` is its address."""

    settings: ServerSettings
    session: requests.Session = field(default_factory=requests.Session)

    def __enter__(self) -> Self:
        self._listener = listen("127.0.0.1", 0)
        self.url = address_of(self._listener)
        self.server: Server = server_of(self.settings)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve([self._listener])), daemon=True
        )
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.close()
        if "search" in vars(self):
            self.search.close()
        self.server.should_exit = True
        ended = self.has_ended(60)
        self._listener.close()
        if not ended:
            faulthandler.dump_traceback()
        assert ended, "what it waits for is on standard error"

    def has_ended(self, seconds: float) -> bool:
        """Wait at most so long until it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def service(self) -> Service:
        return self.server.config.app.state.service  # type: ignore[union-attr]

    @cached_property
    def search(self) -> Search:
        """The same index without HTTP, opened when it is first asked for."""
        return Search.open(self.settings.index)

    def get(self, address: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + address, timeout=30, **options)

    def post(self, address: str, **options: Any) -> requests.Response:
        return self.session.post(self.url + address, timeout=30, **options)

    def ask(self, method: str, address: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + address, timeout=30, **options)


def image_at(id: str, what: str = "") -> str:
    """The address of a document, or of what there is of it."""
    return f"/v1/images/{quote(id, safe='')}" + (f"/{what}" if what else "")
