"""An engine that does no more at once than it is told."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from clipsearch.engine import Engine, EngineQuery, Page
from clipsearch.server.metrics import Metrics

# What takes long and is no question, or takes no time.
_UNBOUNDED = frozenset(
    {"close", "feed", "finish_feed", "upgrade", "version", "visit", "change_info"}
)


class BoundedEngine:
    """Passes everything on to `engine`: questions by turns, and with their time measured."""

    def __init__(self, engine: Engine, at_once: int, metrics: Metrics) -> None:
        self._engine = engine
        self._turn = threading.BoundedSemaphore(at_once)
        self._metrics = metrics

    def search(self, query: EngineQuery) -> Page:
        """See `Engine.search`."""
        page: Page = self._in_turn(self._engine.search)(query)
        if page.partial is not None:
            self._metrics.partial()
        return page

    def __getattr__(self, name: str) -> Any:
        """Return what the engine has of this name."""
        found = getattr(self._engine, name)
        if name.startswith("_") or name in _UNBOUNDED or not callable(found):
            return found
        return self._in_turn(found)

    def _in_turn(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(ask)
        def asked(*arguments: Any, **options: Any) -> Any:
            with self._turn, self._metrics.stage("engine"):
                return ask(*arguments, **options)

        return asked
