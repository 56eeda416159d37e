"""The ledger: which documents an index has acknowledged, and from what they were made.

A SQLite file beside the index. An entry is written only after the engine's acknowledgement, and
taken out before a document is deleted: whatever the moment of a kill -9, the ledger never claims
a document that the index does not hold, and what it forgot is only written once more.

It is a cache of what the index acknowledged. Whether it still says what the index holds, where
others feed that too, `clipsearch.feed.ledger.mark` tells.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple
from itertools import repeat
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from clipsearch.feed.ledger import compared
from clipsearch.feed.ledger.compared import NOT_LOOKED_AT, Compared, Row
from clipsearch.feed.ledger.counts import Counts
from clipsearch.feed.ledger.entry import Entry, PendingFeed, packed
from clipsearch.feed.ledger.facts import LedgerFacts
from clipsearch.feed.ledger.file import check_ledger, locked_for
from clipsearch.feed.ledger.schema import FACTS, FORMAT_VERSION, make_tables
from clipsearch.feed.ledger.tables import ContentTable, IdSet, explained

COMMIT_EVERY_ENTRIES = 65_536
COMMIT_EVERY_SECONDS = 1.0
CACHE_KIBIBYTES = 32 * 1024
# Of more changes than this the digests are written anew as a whole, by the feed that makes them.
FEW_CHANGES = 1000

COLUMNS = "id, stamp, content, encoder, fields, data_set, size"
_PUT = (
    f"INSERT INTO documents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET stamp = excluded.stamp, content = excluded.content,"
    " encoder = excluded.encoder, fields = excluded.fields, data_set = excluded.data_set,"
    " size = excluded.size"
)
_IDS_AT_ONCE = 500


class Ledger(LedgerFacts):
    """Entries by document id. A context manager; all methods raise EngineError.

    One process at a time: a second feed or delete of the same index is refused.

    Attributes:
        path: The file.
        converted: Of which earlier version it was, where opening it has brought it to this one
            and it knew any document; else empty.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[bytes]) -> None:
        super().__init__(path, connection)
        self.converted = ""
        self._lock = lock
        self._waiting: dict[str, Entry] = {}
        self._read_ahead: dict[str, Entry | None] = {}
        self._uncommitted = 0
        self._counts: Counts | None = None
        self._counts_are_kept = False
        self._committed_at = time.monotonic()

    @classmethod
    def open(cls, path: Path, work: str = "feed") -> "Ledger":
        """Open, or make, the ledger at `path`; `work` ("delete") tells others what is done."""
        with explained(path):
            check_ledger(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = locked_for(path, work)
            # Engines may pull the operations of a feed, which read the ledger, in their own thread.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ledger = cls(path, connection, lock)
        try:
            with explained(path):
                # The engine's own write is what must be durable; a lost entry costs a second write.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
                ledger._bring_to_this_version()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _bring_to_this_version(self) -> None:
        """Make or convert the tables, all or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._make_tables()
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _make_tables(self) -> None:
        self._connection.execute(FACTS)
        self.converted = make_tables(self._connection, self.path, self._fact("format version"))
        self._set_fact("format version", FORMAT_VERSION)

    def start_over(self, index_id: str) -> None:
        """Forget every entry; the ledger is about the index `index_id` from now on."""
        with explained(self.path):
            self._change()
            self._counts = Counts()
            self._connection.execute("DELETE FROM documents")
            self._connection.execute(f"DELETE FROM {compared.TABLE}")
            self._connection.execute("DELETE FROM facts WHERE name != 'format version'")
            self._set_fact("index id", index_id)
        self.commit()

    def begin_feed(self, feed: PendingFeed) -> None:
        """Remember a feed that is about to begin, and commit; nothing is compared until it ends."""
        with explained(self.path):
            self._begin()
            self._set_fact("pending feed", json.dumps(astuple(feed)))
            self._distrust(feed.data_set)
        self.commit()

    def end_feed(self, last_feed: str) -> None:
        """Note that no feed is pending: after `last_feed` index and ledger said the same."""
        with explained(self.path):
            self._begin()
            self._set_fact("pending feed", "")
            self._set_fact("last feed", last_feed)
            self._keep_counts()
        self.commit()

    def compared(self, data_set: str, context: str) -> Compared | None:
        """Return the digests that a data set's documents agree with; None where they do not hold.

        `context` is all beside its own digest that makes a record's document what it is.
        """
        if self._fact(f"compared {data_set}") != context:
            return None
        with explained(self.path):
            return compared.load(self._connection, data_set)

    def compared_ids(self, data_set: str, hashes: npt.NDArray[np.uint64]) -> list[str]:
        """Return the ids of documents by their hashes in `compared`."""
        with explained(self.path):
            return list(compared.ids_at(self._connection, data_set, hashes))

    def remember_compared(
        self,
        data_set: str,
        context: str,
        rows: Mapping[str, Row | None] | tuple[list[str], Compared],
    ) -> None:
        """Let digests hold once more, by the next `end_feed` or `commit`.

        Args:
            data_set: Whose documents.
            context: As in `compared`.
            rows: Those that have changed by id, since they held last; or the ids of all documents,
                and their digests in the same order.
        """
        with explained(self.path):
            self._begin()
            if isinstance(rows, tuple):
                compared.write_all(self._connection, data_set, *rows)
            else:
                compared.change(self._connection, data_set, rows)
            self._set_fact(f"compared {data_set}", context)

    def remember_manifest(self, data_set: str, manifest: str) -> None:
        """Keep, until a document of the data set changes, how its manifest was when it was fed."""
        with explained(self.path):
            self._begin()
            self._set_fact(f"manifest {data_set}", manifest)

    def counts(self) -> Counts:
        """Return the counts of all documents."""
        if self._counts is None:
            with explained(self.path):
                self._flush()
                kept = self._fact("counts")
                if kept is not None:
                    self._counts = Counts.from_text(kept)
                    self._counts_are_kept = True
                else:
                    self._counts = Counts.of(self._connection)
        return self._counts

    def __len__(self) -> int:
        return self.counts().documents

    def get(self, document_id: str) -> Entry | None:
        """Return the entry of a document; None where nothing is known of it."""
        waiting = self._waiting.get(document_id)
        if waiting is not None:
            return waiting
        if document_id in self._read_ahead:
            return self._read_ahead[document_id]
        return self._one(f"SELECT {COLUMNS} FROM documents WHERE id = ?", (document_id,))

    def read_ahead(self, ids: Sequence[str]) -> None:
        """Read the entries of some hundred documents at once, that will be asked for next."""
        marks = ", ".join("?" * len(ids))
        query = f"SELECT {COLUMNS} FROM documents WHERE id IN ({marks})"
        self._read_ahead = dict.fromkeys(ids)
        with explained(self.path):
            for row in self._connection.execute(query, ids):
                self._read_ahead[row[0]] = Entry.from_row(row)

    def holder(self, content: str, size: int, encoder: str) -> Entry | None:
        """Find a document whose embedding was made from this content; None where there is none."""
        self._flush()
        return self._one(
            f"SELECT {COLUMNS} FROM documents"
            " WHERE size IN (0, ?) AND content = ? AND encoder = ? AND encoder != ''",
            (size, packed(content), packed(encoder)),
        )

    def has_data_set(self, name: str) -> bool:
        """Return whether any document is of this data set; with "", whether any is unclaimed."""
        return name in self.counts().by_data_set

    def ids_of(self, data_set: str) -> list[str]:
        """Return the ids of all its documents."""
        with explained(self.path):
            self._flush()
            query = "SELECT id FROM documents WHERE data_set = ?"
            return [id for (id,) in self._connection.execute(query, (data_set,))]

    def stamps_of(self, data_set: str) -> Iterable[str]:
        """Return the stamps of all its documents."""
        with explained(self.path):
            self._flush()
            query = "SELECT stamp FROM documents WHERE data_set = ?"
            for (stamp,) in self._connection.execute(query, (data_set,)):
                yield stamp

    def has_size(self, size: int) -> bool:
        """Return whether any document may have been made from an image of so many bytes."""
        self._flush()
        return self._has(
            "SELECT 1 FROM documents WHERE size IN (0, ?) AND content != '' AND encoder != ''", size
        )

    def put(self, entry: Entry, known: Entry | EllipsisType | None = ...) -> None:
        """Remember an acknowledged document; committed within a second, or by `commit`.

        `known` is what `get` gives, where the caller has asked that already.
        """
        if self._counts is not None:
            self._counts.replace(self.get(entry.id) if known is ... else known, entry)
        self._waiting[entry.id] = entry
        self._uncommitted += 1
        self._commit_in_time()

    def put_new(
        self, ids: Sequence[str], contents: Iterable[bytes], fields: Iterable[bytes], data_set: str
    ) -> None:
        """Remember acknowledged documents of ready-made vectors, of which nothing was known.

        Args:
            ids: Of the documents.
            contents, fields: As in `Entry`, as bytes.
            data_set: Of all of them.
        """
        with explained(self.path):
            self._flush()
            self._begin()
            self._uncount_kept()
            rows = zip(ids, repeat(""), contents, repeat(""), fields, repeat(data_set), repeat(0))
            self._connection.executemany(_PUT, rows)
        if self._counts is not None:
            self._counts.add(data_set, len(ids))
        self._uncommitted += len(ids)
        self._commit_in_time()

    def knows(self, ids: Sequence[str]) -> set[str]:
        """Return those of the documents that have an entry."""
        if not self.counts().documents:
            return set()
        self._flush()
        found: set[str] = set()
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = ids[start : start + _IDS_AT_ONCE]
            query = f"SELECT id FROM documents WHERE id IN ({', '.join('?' * len(part))})"
            with explained(self.path):
                found.update(id for (id,) in self._connection.execute(query, part))
        return found

    def forget(self, ids: Collection[str]) -> None:
        """Forget documents, and commit: call before they are deleted from the index."""
        self._change_each("DELETE FROM documents WHERE id = ?", ids, None)

    def doubt(self, ids: Collection[str]) -> None:
        """Forget what documents were made from, but not whose they are; the next feed writes them.

        Committed. Of a document that is not known nothing is remembered.
        """
        self._change_each(
            "UPDATE documents SET stamp = '', content = '', fields = '', size = 0 WHERE id = ?",
            ids,
            NOT_LOOKED_AT,
        )

    def adopt(self, data_set: str, is_its: Callable[[str], bool]) -> None:
        """Give to `data_set` each document that nobody has claimed, if `is_its` of its stamp."""
        self._connection.create_function("is_its", 1, is_its)
        with explained(self.path):
            self._change()
            self._connection.execute(
                "UPDATE documents SET data_set = ? WHERE data_set = '' AND is_its(stamp)",
                (data_set,),
            )
        self.commit()

    def keep_only(self, ids: "Iterable[str] | IdSet") -> int:
        """Forget every document that is not among `ids`, and commit; the number forgotten."""
        held = ids if isinstance(ids, IdSet) else self.id_set(ids)
        with explained(self.path):
            self._change()
            gone = self._connection.execute(
                f"DELETE FROM documents WHERE id NOT IN (SELECT id FROM {held.table})"
            ).rowcount
        self.commit()
        return gone

    def id_set(self, ids: Iterable[str] = ()) -> "IdSet":
        """Make an empty set of ids, on disk where it grows large; only one at a time."""
        return IdSet(self.path, self._connection, ids)

    def content_table(self) -> "ContentTable":
        """Make an empty table of contents, on disk where it grows large; only one at a time."""
        return ContentTable(self.path, self._connection)

    def commit(self) -> None:
        """Make what was put durable."""
        with explained(self.path):
            self._flush()
        if self._connection.in_transaction:
            with explained(self.path):
                self._connection.execute("COMMIT")
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def close(self) -> None:
        """Commit and close."""
        try:
            with explained(self.path):
                if self._counts is not None and not self._counts_are_kept:
                    self._begin()
                    self._keep_counts()
            self.commit()
        finally:
            self._connection.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _commit_in_time(self) -> None:
        overdue = time.monotonic() - self._committed_at >= COMMIT_EVERY_SECONDS
        if overdue or self._uncommitted >= COMMIT_EVERY_ENTRIES:
            self.commit()

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")

    def _one(self, query: str, values: tuple[object, ...]) -> Entry | None:
        with explained(self.path):
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else Entry.from_row(row)

    def _has(self, query: str, value: object) -> bool:
        with explained(self.path):
            return self._connection.execute(query, (value,)).fetchone() is not None

    def _change(self) -> None:
        """Begin to change documents in a way that digests and counts know nothing of."""
        self._flush()
        self._read_ahead = {}
        self._begin()
        self._distrust(None)
        self._set_fact("counts", None)
        self._counts, self._counts_are_kept = None, False

    def _distrust(self, data_set: str | None) -> None:
        """Forget what was compared of a data set, or of all for None."""
        for name in ("compared", "manifest"):
            if data_set is not None:
                self._set_fact(f"{name} {data_set}", None)
            else:
                self._connection.execute("DELETE FROM facts WHERE name GLOB ?", (f"{name} *",))

    def _change_each(self, statement: str, ids: Collection[str], row: Row | None) -> None:
        """Run a statement for each id; `row` is what their digests become."""
        if len(ids) > FEW_CHANGES:
            with explained(self.path):
                self._change()
                self._connection.executemany(statement, ((id,) for id in ids))
            self.commit()
            return
        known = [entry for entry in map(self.get, ids) if entry is not None]
        self._read_ahead = {}
        with explained(self.path):
            self._flush()
            self._begin()
            self._connection.executemany(statement, ((entry.id,) for entry in known))
            for data_set in {entry.data_set for entry in known}:
                changes = {each.id: row for each in known if each.data_set == data_set}
                compared.change(self._connection, data_set, changes)
                self._set_fact(f"manifest {data_set}", None)
        if self._counts is not None:
            for entry in known:
                self._counts.remove(entry, stays=row is not None)
        self._uncount_kept()
        self.commit()

    def _flush(self) -> None:
        """Give to SQLite what was put."""
        if not self._waiting:
            return
        self._begin()
        self._uncount_kept()
        self._connection.executemany(
            _PUT,
            (entry.to_row() for entry in self._waiting.values()),
        )
        self._waiting, self._read_ahead = {}, {}

    def _uncount_kept(self) -> None:
        """Drop the kept counts, lest they outlive what they count; part of the transaction."""
        if self._counts is None or self._counts_are_kept:
            self._set_fact("counts", None)
            self._counts_are_kept = False

    def _keep_counts(self) -> None:
        self._set_fact("counts", self.counts().to_text())
        self._counts_are_kept = True
