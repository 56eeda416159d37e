"""What a ledger knows beside its documents, a text for each name."""

import json
import sqlite3
from pathlib import Path

from clipsearch.feed.ledger.entry import PendingFeed
from clipsearch.feed.ledger.tables import explained


class LedgerFacts:
    """The facts of a ledger; all methods raise EngineError.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @property
    def index_id(self) -> str:
        """Of the index that the entries are about; empty for a new ledger."""
        return self._fact("index id") or ""

    @property
    def last_feed(self) -> str:
        """Token of the feed after which the ledger and the index said the same; empty for none."""
        return self._fact("last feed") or ""

    @property
    def pending(self) -> PendingFeed | None:
        """The feed that this ledger has begun and not ended."""
        known = self._fact("pending feed")
        return PendingFeed(*json.loads(known)) if known else None

    @property
    def places_fed(self) -> dict[str, tuple[str, ...]]:
        """The data sets that were fed by this ledger, and where their manifests lay then."""
        known = json.loads(self._fact("places fed") or "{}")
        return {name: tuple(paths) for name, paths in known.items()}

    def known_manifest(self, data_set: str) -> str:
        """Return what `Ledger.remember_manifest` kept; empty where it no longer holds."""
        return self._fact(f"manifest {data_set}") or ""

    def remember_place(self, data_set: str, paths: tuple[str, ...]) -> None:
        """Remember that the data set is fed from here.

        What was fed from here before as another one is not it.
        """
        others = {
            name: [path for path in lay if path not in paths]
            for name, lay in self.places_fed.items()
            if name != data_set
        }
        self._set_fact("places fed", json.dumps(others | {data_set: paths}))

    def _fact(self, name: str) -> str | None:
        with explained(self.path):
            row = self._connection.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: str | None) -> None:
        """Set a fact, unless it is so already; None takes it away."""
        with explained(self.path):
            if self._fact(name) == value:
                return
            if value is None:
                self._connection.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)
                )
