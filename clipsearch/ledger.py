"""The ledger: which documents an index has acknowledged, and from what they were made.

A SQLite file beside the index. An entry is written only after the engine's acknowledgement, and
taken out before a document is deleted: whatever the moment of a kill -9, the ledger never claims
a document that the index does not hold, and what it forgot is only written once more.
"""

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from clipsearch.documents import Document
from clipsearch.engines import is_remote
from clipsearch.file_lock import HeldElsewhereError, hold
from clipsearch.vespa.address import without_credentials
from finetune.errors import EngineError
from finetune.outputs import foreign_database

LEDGER_NAME = "ledger.sqlite"
FORMAT_VERSION = "1"
COMMIT_EVERY_ENTRIES = 512
COMMIT_EVERY_SECONDS = 1.0

TABLES = ("facts", "documents")
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    content TEXT NOT NULL,
    encoder TEXT NOT NULL,
    fields TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an acknowledged document was made from.

    Attributes:
        id: The document's.
        stamp: Place, size and time of change of the image's bytes: while it is the same, they
            need not be read again. Empty for ready-made vectors.
        content: sha256 of the image's bytes, or of the ready-made vector.
        encoder: Fingerprint; empty for ready-made vectors.
        fields: Hash of everything in the document but its embedding (`hash_of_fields`).
    """

    id: str
    stamp: str
    content: str
    encoder: str
    fields: str


def hash_of_fields(document: Document) -> str:
    """A sha256, in hex, that changes with captions, path, tags or numbers."""
    parts = [
        document.captions,
        document.path,
        sorted(document.tags.items()),
        sorted(document.numbers.items()),
    ]
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
    return _state_folder() / f"{name}.sqlite"


def _state_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "clipsearch"
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "clipsearch"


def check_ledger(path: Path) -> None:
    """Raise EngineError where a file at `path` is none that a ledger wrote."""
    with _explained(path):
        reason = foreign_database(path, TABLES)
    if reason is not None:
        raise EngineError(
            f"{path}: is no readable ledger ({reason}); name another file with --ledger, or move"
            f" this one away to feed everything anew"
        )


class Ledger:
    """Entries by document id. A context manager; all methods raise EngineError.

    One process at a time: a second feed or delete of the same index is refused.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[bytes]) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    @classmethod
    def open(cls, path: Path, work: str = "feed") -> "Ledger":
        """Open, or make, the ledger at `path`; `work` ("delete") tells others what is done."""
        with _explained(path):
            check_ledger(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(path, work)
            # Engines may pull the operations of a feed, which read the ledger, in their own thread.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ledger = cls(path, connection, lock)
        try:
            with _explained(path):
                # The engine's own write is what must be durable; a lost entry costs a second write.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(SCHEMA)
            version = ledger._fact("format version")
            if version is None:
                ledger._set_fact("format version", FORMAT_VERSION)
            elif version != FORMAT_VERSION:
                raise EngineError(
                    f"{path}: is a ledger of version {version}, but this clipsearch reads"
                    f" {FORMAT_VERSION}; delete it to feed everything anew"
                )
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def index_id(self) -> str:
        """Of the index that the entries are about; empty for a new ledger."""
        return self._fact("index id") or ""

    def start_over(self, index_id: str) -> None:
        """Forget every entry; the ledger is about the index `index_id` from now on."""
        with _explained(self.path):
            self._begin()
            self._connection.execute("DELETE FROM documents")
            self._set_fact("index id", index_id)
        self.commit()

    def __len__(self) -> int:
        with _explained(self.path):
            row = self._connection.execute("SELECT count(*) FROM documents").fetchone()
        return int(row[0])

    def get(self, document_id: str) -> Entry | None:
        """The entry of a document; None where it is not known as acknowledged."""
        with _explained(self.path):
            row = self._connection.execute(
                "SELECT id, stamp, content, encoder, fields FROM documents WHERE id = ?",
                (document_id,),
            ).fetchone()
        return None if row is None else Entry(*row)

    def put(self, entry: Entry) -> None:
        """Remember an acknowledged document; committed within a second, or by `commit`."""
        with _explained(self.path):
            self._begin()
            self._connection.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)",
                (entry.id, entry.stamp, entry.content, entry.encoder, entry.fields),
            )
        self._uncommitted += 1
        overdue = time.monotonic() - self._committed_at >= COMMIT_EVERY_SECONDS
        if overdue or self._uncommitted >= COMMIT_EVERY_ENTRIES:
            self.commit()

    def forget(self, ids: Iterable[str]) -> None:
        """Forget documents, and commit: call before they are deleted from the index."""
        with _explained(self.path):
            self._begin()
            self._connection.executemany(
                "DELETE FROM documents WHERE id = ?", ((document_id,) for document_id in ids)
            )
        self.commit()

    def keep_only(self, ids: Iterable[str]) -> int:
        """Forget every document that is not among `ids`, and commit; the number forgotten."""
        before = len(self)
        held = self.id_set(ids)
        with _explained(self.path):
            self._begin()
            self._connection.execute(
                f"DELETE FROM documents WHERE id NOT IN (SELECT id FROM {held.table})"
            )
        self.commit()
        return before - len(self)

    def id_set(self, ids: Iterable[str] = ()) -> "IdSet":
        """An empty set of ids, on disk where it grows large; only one at a time."""
        return IdSet(self.path, self._connection, ids)

    def commit(self) -> None:
        """Make what was put durable."""
        if self._connection.in_transaction:
            with _explained(self.path):
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

    def _fact(self, name: str) -> str | None:
        with _explained(self.path):
            row = self._connection.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: str) -> None:
        with _explained(self.path):
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


class IdSet:
    """Document ids in a temporary table of the ledger: a million of them take little memory."""

    table = "temp.ids"

    def __init__(self, path: Path, connection: sqlite3.Connection, ids: Iterable[str]) -> None:
        self._path = path
        self._connection = connection
        with _explained(path):
            connection.execute(f"DROP TABLE IF EXISTS {self.table}")
            connection.execute(f"CREATE TABLE {self.table} (id TEXT PRIMARY KEY) WITHOUT ROWID")
            connection.executemany(
                f"INSERT OR IGNORE INTO {self.table} VALUES (?)", ((each,) for each in ids)
            )

    def add(self, document_id: str) -> None:
        """Put an id into the set."""
        with _explained(self._path):
            self._connection.execute(
                f"INSERT OR IGNORE INTO {self.table} VALUES (?)", (document_id,)
            )

    def __contains__(self, document_id: str) -> bool:
        with _explained(self._path):
            found = self._connection.execute(
                f"SELECT 1 FROM {self.table} WHERE id = ?", (document_id,)
            ).fetchone()
        return found is not None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise EngineError(
            f"{path}: the ledger cannot be written ({error}); free space or mend its folder, then"
            f" run the same command again: what was acknowledged is kept"
        ) from error
    except sqlite3.DatabaseError as error:
        raise EngineError(
            f"{path}: is no readable ledger ({error}); delete it to feed everything anew"
        ) from error
    except OSError as error:
        raise EngineError(
            f"{path}: the ledger cannot be opened ({error.strerror}); name another with --ledger"
        ) from error


def _locked(path: Path, work: str) -> IO[bytes]:
    # A file of its own: closing any handle of the database itself would drop SQLite's own locks.
    try:
        return hold(path.with_name(path.name + ".lock"), work)
    except HeldElsewhereError as error:
        raise EngineError(
            f"{path}: another {error} works on this index; wait until it is done, then run the"
            f" same command again"
        ) from error
