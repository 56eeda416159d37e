"""The ledger: which documents an index has acknowledged, and from what they were made.

A SQLite file beside the index. An entry is written only after the engine's acknowledgement, and
taken out before a document is deleted: whatever the moment of a kill -9, the ledger never claims
a document that the index does not hold, and what it forgot is only written once more.

It is a cache of what the index acknowledged. Whether it still says what the index holds, where
others feed that too, `clipsearch.feed.ledger.mark` tells.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from clipsearch.documents import PARTS, Document
from clipsearch.engines import is_remote
from clipsearch.engines.vespa.http.address import without_credentials
from clipsearch.feed.contents import size_of_stamp
from clipsearch.feed.ledger.tables import ContentTable, IdSet, explained
from finetune.errors import EngineError
from finetune.files.databases import foreign_database
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.user_folders import user_state

LEDGER_NAME = "ledger.sqlite"
FORMAT_VERSION = "2"
COMMIT_EVERY_ENTRIES = 512
COMMIT_EVERY_SECONDS = 1.0

TABLES = ("facts", "documents")
FACTS = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
)
DOCUMENTS = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    content TEXT NOT NULL,
    encoder TEXT NOT NULL,
    fields TEXT NOT NULL,
    data_set TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
BY_CONTENT = "CREATE INDEX IF NOT EXISTS by_content ON documents (size, content)"
# Hashed in this order since the first version. What came later is hashed only where a document has
# it, so that the hashes of others, in ledgers that are there, stay true.
_FIRST_FIELDS = ("captions", "path", "tags", "numbers")
COLUMNS = "id, stamp, content, encoder, fields, data_set, size"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a document of the index was made from, as far as is known.

    Attributes:
        id: The document's.
        stamp: Of the image's bytes (`clipsearch.feed.contents.stamp_of`): while it is the same,
        they
            need not be read again. Empty for ready-made vectors, and where it is not known.
        content: sha256 of the image's bytes, or of the ready-made vector; empty where it is not
            known, and the document is then written whole.
        encoder: Fingerprint; empty for ready-made vectors.
        fields: Hash of everything in the document but its embedding (`hash_of_fields`).
        data_set: That it comes from; empty where an earlier version wrote it and nobody has
            claimed it since.
        size: Of the image, in bytes; 0 where it is not known. What is of another size need not be
            hashed to be known as another image.
    """

    id: str
    stamp: str
    content: str
    encoder: str
    fields: str
    data_set: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class PendingFeed:
    """A feed that this ledger has begun, and not ended: at work, or killed.

    Attributes:
        token: That stands in the index for it (`IndexInfo.open_feeds`).
        data_set: That it writes; empty where it only deletes.
        agreed_after: Token of the feed after which the ledger said what the index held; None where
            it did not.
    """

    token: str
    data_set: str
    agreed_after: str | None


def hash_of_fields(document: Document) -> str:
    """A sha256, in hex, that changes with any field but the embedding and its content."""
    later = [
        [name, PARTS[name].kind.ordered(value)]
        for name, value in document.parts.items()
        if value and name not in (*_FIRST_FIELDS, "data_set", "content")
    ]
    return _hash([*_fields(document), document.data_set, *later])


def hash_of_fields_before(document: Document) -> str:
    """The same of a document that an earlier version wrote, as its ledger has it."""
    return _hash(_fields(document))


def _fields(document: Document) -> list[object]:
    return [PARTS[name].kind.ordered(getattr(document, name)) for name in _FIRST_FIELDS]


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def ledger_path(target: str) -> Path:
    """Where the ledger of an index lies unless named.

    Inside the folder of an embedded index, so that it goes where the index goes; for a Vespa in
    the user's folder for state, by a hash of the address.
    """
    if not is_remote(target):
        return Path(target) / LEDGER_NAME
    # A user name and password in the address are no part of what the index is.
    address = without_credentials(target).rstrip("/")
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    return user_state() / f"{name}.sqlite"


def check_ledger(path: Path) -> None:
    """Raise EngineError where a file at `path` is none that a ledger wrote."""
    with explained(path):
        reason = foreign_database(path, TABLES)
    if reason is not None:
        raise EngineError(
            f"{path}: is no readable ledger ({reason}); name another file with --ledger, or move"
            f" this one away to feed everything anew"
        )


class Ledger:
    """Entries by document id. A context manager; all methods raise EngineError.

    One process at a time: a second feed or delete of the same index is refused.

    Attributes:
        path: The file.
        converted: Whether an earlier version wrote it, and opening it has brought it to this one.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[bytes]) -> None:
        self.path = path
        self.converted = False
        self._connection = connection
        self._lock = lock
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    @classmethod
    def open(cls, path: Path, work: str = "feed") -> "Ledger":
        """Open, or make, the ledger at `path`; `work` ("delete") tells others what is done."""
        with explained(path):
            check_ledger(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(path, work)
            # Engines may pull the operations of a feed, which read the ledger, in their own thread.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ledger = cls(path, connection, lock)
        try:
            with explained(path):
                # The engine's own write is what must be durable; a lost entry costs a second write.
                connection.execute("PRAGMA synchronous = NORMAL")
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
        version = self._fact("format version")
        if version is None:
            self._connection.execute("DROP TABLE IF EXISTS documents")
            self._connection.execute(DOCUMENTS)
        elif version == "1":
            self._connection.execute(
                "ALTER TABLE documents ADD COLUMN data_set TEXT NOT NULL DEFAULT ''"
            )
            self._connection.execute(
                "ALTER TABLE documents ADD COLUMN size INTEGER NOT NULL DEFAULT 0"
            )
            self._connection.create_function("size_of_stamp", 1, size_of_stamp)
            self._connection.execute("UPDATE documents SET size = size_of_stamp(stamp)")
            self.converted = len(self) > 0
        elif version != FORMAT_VERSION:
            raise EngineError(
                f"{self.path}: is a ledger of version {version}, but this clipsearch reads"
                f" {FORMAT_VERSION}; delete it to feed everything anew"
            )
        self._connection.execute(BY_CONTENT)
        if version != FORMAT_VERSION:
            self._set_fact("format version", FORMAT_VERSION)

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

    def remember_place(self, data_set: str, paths: tuple[str, ...]) -> None:
        """The data set is fed from here: what was fed from here before as another one is not it."""
        others = {
            name: [path for path in lay if path not in paths]
            for name, lay in self.places_fed.items()
            if name != data_set
        }
        self._set_fact("places fed", json.dumps(others | {data_set: paths}))

    def start_over(self, index_id: str) -> None:
        """Forget every entry; the ledger is about the index `index_id` from now on."""
        with explained(self.path):
            self._begin()
            self._connection.execute("DELETE FROM documents")
            self._connection.execute("DELETE FROM facts WHERE name != 'format version'")
            self._set_fact("index id", index_id)
        self.commit()

    def begin_feed(self, feed: PendingFeed) -> None:
        """Remember a feed that is about to begin, and commit."""
        with explained(self.path):
            self._begin()
            self._set_fact("pending feed", json.dumps(astuple(feed)))
        self.commit()

    def end_feed(self, last_feed: str) -> None:
        """No feed is pending any more; after `last_feed` index and ledger said the same."""
        with explained(self.path):
            self._begin()
            self._set_fact("pending feed", "")
            self._set_fact("last feed", last_feed)
        self.commit()

    def __len__(self) -> int:
        return self._count("1")

    def count_held(self) -> int:
        """Number of documents that the index holds for certain."""
        return self._count("fields != ''")

    def get(self, document_id: str) -> Entry | None:
        """The entry of a document; None where nothing is known of it."""
        return self._one(f"SELECT {COLUMNS} FROM documents WHERE id = ?", (document_id,))

    def holder(self, content: str, size: int, encoder: str) -> Entry | None:
        """A document whose embedding was made from this content; None where there is none."""
        return self._one(
            f"SELECT {COLUMNS} FROM documents WHERE size IN (0, ?) AND content = ? AND encoder = ?",
            (size, content, encoder),
        )

    def data_sets(self) -> set[str]:
        """The data sets of all documents; the empty one where nobody has claimed a document."""
        with explained(self.path):
            rows = self._connection.execute("SELECT DISTINCT data_set FROM documents").fetchall()
        return {str(name) for (name,) in rows}

    def has_data_set(self, name: str) -> bool:
        """Whether any document is of this data set; with "", whether any is unclaimed."""
        return self._has("SELECT 1 FROM documents WHERE data_set = ?", name)

    def has_size(self, size: int) -> bool:
        """Whether any document may have been made from a image of so many bytes."""
        return self._has("SELECT 1 FROM documents WHERE size IN (0, ?) AND content != ''", size)

    def put(self, entry: Entry) -> None:
        """Remember an acknowledged document; committed within a second, or by `commit`."""
        with explained(self.path):
            self._begin()
            self._connection.execute(
                f"INSERT OR REPLACE INTO documents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                astuple(entry),
            )
        self._uncommitted += 1
        overdue = time.monotonic() - self._committed_at >= COMMIT_EVERY_SECONDS
        if overdue or self._uncommitted >= COMMIT_EVERY_ENTRIES:
            self.commit()

    def forget(self, ids: Iterable[str]) -> None:
        """Forget documents, and commit: call before they are deleted from the index."""
        self._change_each("DELETE FROM documents WHERE id = ?", ids)

    def doubt(self, ids: Iterable[str]) -> None:
        """Forget what documents were made from, but not whose they are; the next feed writes them.

        Committed. Of a document that is not known nothing is remembered.
        """
        self._change_each(
            "UPDATE documents SET stamp = '', content = '', fields = '', size = 0 WHERE id = ?", ids
        )

    def adopt(self, data_set: str, is_its: Callable[[str], bool]) -> None:
        """Give to `data_set` each document that nobody has claimed, if `is_its` of its stamp."""
        self._connection.create_function("is_its", 1, is_its)
        with explained(self.path):
            self._begin()
            self._connection.execute(
                "UPDATE documents SET data_set = ? WHERE data_set = '' AND is_its(stamp)",
                (data_set,),
            )
        self.commit()

    def keep_only(self, ids: "Iterable[str] | IdSet") -> int:
        """Forget every document that is not among `ids`, and commit; the number forgotten."""
        before = len(self)
        held = ids if isinstance(ids, IdSet) else self.id_set(ids)
        with explained(self.path):
            self._begin()
            self._connection.execute(
                f"DELETE FROM documents WHERE id NOT IN (SELECT id FROM {held.table})"
            )
        self.commit()
        return before - len(self)

    def id_set(self, ids: Iterable[str] = ()) -> "IdSet":
        """An empty set of ids, on disk where it grows large; only one at a time."""
        return IdSet(self.path, self._connection, ids)

    def content_table(self) -> "ContentTable":
        """An empty table of contents, on disk where it grows large; only one at a time."""
        return ContentTable(self.path, self._connection)

    def commit(self) -> None:
        """Make what was put durable."""
        if self._connection.in_transaction:
            with explained(self.path):
                self._connection.execute("COMMIT")
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def close(self) -> None:
        """Commit and close."""
        try:
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

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")

    def _one(self, query: str, values: tuple[object, ...]) -> Entry | None:
        with explained(self.path):
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else Entry(*row)

    def _has(self, query: str, value: object) -> bool:
        with explained(self.path):
            return self._connection.execute(query, (value,)).fetchone() is not None

    def _count(self, condition: str) -> int:
        with explained(self.path):
            row = self._connection.execute(
                f"SELECT count(*) FROM documents WHERE {condition}"
            ).fetchone()
        return int(row[0])

    def _change_each(self, statement: str, ids: Iterable[str]) -> None:
        with explained(self.path):
            self._begin()
            self._connection.executemany(statement, ((document_id,) for document_id in ids))
        self.commit()

    def _fact(self, name: str) -> str | None:
        with explained(self.path):
            row = self._connection.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: str) -> None:
        with explained(self.path):
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _locked(path: Path, work: str) -> IO[bytes]:
    # A file of its own: closing any handle of the database itself would drop SQLite's own locks.
    try:
        return hold(path.with_name(path.name + ".lock"), work)
    except HeldElsewhereError as error:
        raise EngineError(
            f"{path}: another {error.holder or 'feed'} works on this index; wait until it is"
            f" done, then run the same command again"
        ) from error
