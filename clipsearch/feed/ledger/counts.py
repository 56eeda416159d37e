"""How many documents a ledger knows, by data set: kept, for counting reads all."""

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Self

from clipsearch.feed.ledger.entry import Entry


@dataclass
class Counts:
    """Documents, and those of them that the index holds for certain, by data set; none is 0."""

    by_data_set: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Self:
        """Count the rows of a ledger."""
        query = "SELECT data_set, count(*), sum(fields != '') FROM documents GROUP BY data_set"
        return cls({name: (count, held) for name, count, held in connection.execute(query)})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` gave."""
        return cls({name: (count, held) for name, (count, held) in json.loads(text).items()})

    def to_text(self) -> str:
        """Return them as JSON."""
        return json.dumps(self.by_data_set)

    @property
    def documents(self) -> int:
        """Of all data sets."""
        return sum(count for count, _ in self.by_data_set.values())

    @property
    def held(self) -> int:
        """Those of them that the index holds for certain."""
        return sum(held for _, held in self.by_data_set.values())

    def replace(self, known: Entry | None, entry: Entry) -> None:
        """Count an entry that came in place of what was known of its document."""
        if known is not None:
            if known.data_set == entry.data_set and bool(known.fields) == bool(entry.fields):
                return
            self._add(known.data_set, -1, -bool(known.fields))
        self._add(entry.data_set, 1, bool(entry.fields))

    def add(self, data_set: str, count: int) -> None:
        """Count so many documents that were not known, and are held."""
        self._add(data_set, count, count)

    def remove(self, entry: Entry, *, stays: bool) -> None:
        """Count a document that was forgotten, or what it was made from; it `stays` then."""
        self._add(entry.data_set, 0 if stays else -1, -bool(entry.fields))

    def _add(self, data_set: str, documents: int, held: int) -> None:
        before = self.by_data_set.get(data_set, (0, 0))
        after = (before[0] + documents, before[1] + held)
        if after[0]:
            self.by_data_set[data_set] = after
        else:
            self.by_data_set.pop(data_set, None)
