"""The store: an SQLite database with the documents and what the index consists of.

    documents   key, slot of the vector, CRC-32 of vector and of text, the document as JSON
    segments    the files of segments
    gone        rows of segments whose documents were deleted or written anew, with their terms
    moved       slots of a segment's rows, where vectors were moved since it was written
    blocks      the files of vectors
    facts       counters, and what was measured

A batch is one transaction: the files that it adds are flushed before, and are nothing without it.
Readers look at `commits` to know whether what they have mapped is still the index. The journal is
a rollback journal, since that leaves one file and can be read where nothing can be written.
"""

import errno
import json
import sqlite3
import threading
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import PARTS, Document, Embedding
from clipsearch.engines.local.folder import STORE_FILE
from clipsearch.engines.local.vectors.blocks import Block
from clipsearch.engines.local.vectors.depth import Depths
from finetune.errors import EngineError
from finetune.memory import is_too_little

BUSY_SECONDS = 60
# Kept in place of a look that is the content, as that of a ready-made vector: 64 bytes a document.
_CONTENT = True
# A content is kept under this name, in base64, where it is what it mostly is: a third less.
_DIGEST = "sha256"
_HEX_DIGITS, _HEX = 64, frozenset("0123456789abcdef")
KEYS_AT_ONCE = 500
# Of documents of 300 bytes a page of 4,096, which is usual, leaves twice as much unused.
_PAGE_BYTES = 8192

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (key INTEGER PRIMARY KEY, slot INTEGER NOT NULL,
    vector_sum INTEGER NOT NULL, sum INTEGER NOT NULL, document TEXT NOT NULL);
CREATE TABLE segments (number INTEGER PRIMARY KEY, size INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE gone (number INTEGER PRIMARY KEY, segment INTEGER NOT NULL, rows BLOB NOT NULL,
    terms BLOB NOT NULL);
CREATE TABLE moved (segment INTEGER PRIMARY KEY, number INTEGER NOT NULL, slots BLOB NOT NULL);
CREATE TABLE blocks (place INTEGER PRIMARY KEY, number INTEGER NOT NULL, codes INTEGER NOT NULL,
    used INTEGER NOT NULL);
"""
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment's file: its number, bytes and rows."""

    number: int
    size: int
    rows: int

    def path(self, folder: Path) -> Path:
        """Where it lies."""
        return segment_path(folder, self.number)


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of the segment of this number."""
    return folder / f"segment-{number:06}.seg"


@dataclass(frozen=True, slots=True)
class State:
    """What the index consists of after a commit.

    Attributes:
        commits: How many there were.
        finished: Commits when the last feed had ended.
        next_key: Of documents.
        next_number: Of files, deletions and moves.
        written: Vectors that were ever written.
        centre: float32[d], of the codes.
        depths: As measured; None while the index is small or has not been measured.
        segments, blocks: The files.
        gone: Segment to the numbers of its deletions.
        moved: Segment to the number of its move.
    """

    commits: int
    finished: int
    next_key: int
    next_number: int
    written: int
    centre: Embedding
    depths: Depths | None
    segments: tuple[SegmentFile, ...]
    blocks: tuple[Block, ...]
    gone: dict[int, tuple[int, ...]]
    moved: dict[int, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of `documents`."""

    key: int
    slot: int
    vector_sum: int
    text: str

    def document(self, embedding: Embedding | None = None) -> Document:
        """Return what was stored, with this embedding."""
        values = orjson.loads(self.text)
        if _DIGEST in values:
            values["content"] = b64decode(values[_DIGEST]).hex()
        if values.get("look") is _CONTENT:
            values["look"] = values["content"]
        return Document.from_json(values, embedding)


def text_of(document: Document) -> bytes:
    """Write the document as one JSON text, in UTF-8.

    `Stored.document` gives it back, but for the embedding.
    """
    values = document.to_json()
    values["look"] = _look_to_keep(values["look"], values["content"])
    return orjson.dumps(_with_digest(values))


def texts_of(documents: DocumentColumns) -> list[bytes]:
    """Write each document as `text_of` does."""
    names = ("id", *documents.parts)
    columns: dict[str, Iterable[Any]] = {
        name: map(PARTS[name].kind.to_json, held) for name, held in documents.parts.items()
    }
    columns["look"] = map(_look_to_keep, documents.parts["look"], documents.parts["content"])
    dumps = orjson.dumps
    return [
        dumps(_with_digest(dict(zip(names, values, strict=True))))
        for values in zip(documents.ids, *columns.values(), strict=True)
    ]


def _look_to_keep(look: str, content: str) -> str | bool:
    return _CONTENT if look and look == content else look


def _with_digest(values: dict[str, Any]) -> dict[str, Any]:
    content = values["content"]
    if len(content) == _HEX_DIGITS and _HEX.issuperset(content):
        del values["content"]
        values[_DIGEST] = b64encode(bytes.fromhex(content)).decode()
    return values


class Store:
    """An open connection, which threads share by turns. All methods raise EngineError."""

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, which `create` has made."""
        self._folder = folder
        self._lock = threading.RLock()
        with clear_errors(folder):
            self._connection = _connected(folder, "rw")

    @classmethod
    def create(cls, folder: Path, dimension: int) -> None:
        """Make an empty store. Raises OSError and sqlite3.Error."""
        connection = _connected(folder, "rwc")
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}")
            facts = {
                "commits": 0, "finished": 0, "next_key": 0, "next_number": 1, "written": 0,
                "depths": "null",
                "centre": np.zeros(dimension, np.float32).tobytes(),
            }  # fmt: skip
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            connection.execute("COMMIT")
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def commits(self) -> int:
        """Return how many commits there were."""
        with self._reading():
            (found,) = self._connection.execute(
                "SELECT value FROM facts WHERE name = 'commits'"
            ).fetchone()
            return int(found)

    def state(self) -> State:
        """Read what the index consists of now."""
        with self._reading(), self._snapshot():
            execute = self._connection.execute
            facts = dict(execute("SELECT name, value FROM facts").fetchall())
            gone: dict[int, tuple[int, ...]] = {}
            for number, segment in execute("SELECT number, segment FROM gone ORDER BY number"):
                gone[segment] = (*gone.get(segment, ()), number)
            depths = json.loads(facts["depths"])
            return State(
                int(facts["commits"]),
                int(facts["finished"]),
                int(facts["next_key"]),
                int(facts["next_number"]),
                int(facts["written"]),
                np.frombuffer(facts["centre"], np.float32),
                None if depths is None else Depths(
                    depths["vectors"],
                    depths["written"],
                    tuple(depths["by_signs"]),
                    tuple(depths["by_steps"]),
                ),
                tuple(
                    SegmentFile(*row)
                    for row in execute("SELECT number, size, rows FROM segments ORDER BY number")
                ),
                tuple(
                    Block(*row)
                    for row in execute(
                        "SELECT place, number, codes, used FROM blocks ORDER BY place"
                    )
                ),
                gone,
                dict(execute("SELECT segment, number FROM moved").fetchall()),
            )  # fmt: skip

    def gone(self, number: int) -> tuple[Ints, Ints] | None:
        """Return (rows, terms) of a deletion; None where it is there no more."""
        return self._arrays("SELECT rows, terms FROM gone WHERE number = ?", number)

    def moved(self, number: int) -> Ints | None:
        """Return the slots of a move; None where it is there no more."""
        found = self._arrays("SELECT slots, slots FROM moved WHERE number = ?", number)
        return None if found is None else found[0]

    def fetch(self, keys: Sequence[int]) -> tuple[int, dict[int, Stored]]:
        """Return (commits, those of the documents that exist by key), both of one moment.

        Raises EngineError where a document is not as it was written.
        """
        found: dict[int, Stored] = {}
        with self._reading():
            if len(keys) <= KEYS_AT_ONCE:
                return self._some(keys, found), found
            with self._snapshot():
                for start in range(0, len(keys), KEYS_AT_ONCE):
                    commits = self._some(keys[start : start + KEYS_AT_ONCE], found)
                return commits, found

    def _some(self, keys: Sequence[int], found: dict[int, Stored]) -> int:
        """Add documents to `found`, by one statement, which is of one moment; its commits."""
        marks = ",".join("?" * len(keys))
        rows = self._connection.execute(
            "SELECT facts.value, key, slot, vector_sum, sum, document FROM facts"
            f" LEFT JOIN documents ON key IN ({marks}) WHERE name = 'commits'",
            [int(key) for key in keys],
        ).fetchall()
        for _, *stored in rows:
            if stored[0] is not None:
                found[stored[0]] = self._stored(*stored)
        return int(rows[0][0])

    def all_after(self, key: int, count: int) -> list[Stored]:
        """Return the first `count` documents whose keys are above `key`, by key."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT key, slot, vector_sum, sum, document FROM documents WHERE key > ?"
                " ORDER BY key LIMIT ?",
                (key, count),
            ).fetchall()
        return [self._stored(*row) for row in rows]

    def fault(self) -> str | None:
        """Return what SQLite's own check of the file finds wrong; None where nothing is."""
        try:
            with self._lock:
                found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if found == ("ok",) else str(found[0])

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that only the one writer makes; it counts as a commit of the index."""
        with self._lock, clear_errors(self._folder):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute(
                    "UPDATE facts SET value = value + 1 WHERE name = 'commits'"
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Hold one moment for several reads."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, clear_errors(self._folder):
            yield

    def _arrays(self, query: str, number: int) -> tuple[Ints, Ints] | None:
        with self._reading():
            row = self._connection.execute(query, (number,)).fetchone()
        if row is None:
            return None
        return np.frombuffer(row[0], np.int32), np.frombuffer(row[1], np.int32)

    def _stored(self, key: int, slot: int, vector_sum: int, digest: int, text: str) -> Stored:
        if zlib.crc32(text.encode()) != digest:
            raise EngineError(
                f"{self._folder / STORE_FILE}: the document with the key {key} is not as it was"
                f" written; feed a new index from the manifest, and then remove this one"
            )
        return Stored(key, slot, vector_sum, text)


def put_documents(
    connection: sqlite3.Connection,
    keys: Iterable[int],
    slots: Iterable[int],
    vector_sums: Iterable[int],
    texts: Sequence[bytes],
) -> None:
    """Write documents by their keys: slot and CRC-32 of the vector, and the text."""
    # The bytes go as text, since the column is of that: `CAST` would copy them twice.
    rows = zip(
        keys, slots, vector_sums, map(zlib.crc32, texts), map(bytes.decode, texts), strict=True
    )
    connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", rows)


def put_facts(connection: sqlite3.Connection, **facts: Any) -> None:
    """Replace facts by name."""
    connection.executemany(
        "UPDATE facts SET value = ? WHERE name = ?",
        [(value, name) for name, value in facts.items()],
    )


def put_block(connection: sqlite3.Connection, block: Block) -> None:
    """Add a block, or replace the one at its place."""
    connection.execute(
        "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)",
        (block.place, block.number, block.codes, block.used),
    )


def depths_as_text(depths: Depths | None) -> str:
    """Write the depths as the fact `depths` has them."""
    if depths is None:
        return "null"
    return json.dumps(
        {
            "vectors": depths.vectors,
            "written": depths.written,
            "by_signs": list(depths.by_signs),
            "by_steps": list(depths.by_steps),
        }
    )


def _connected(folder: Path, mode: str) -> sqlite3.Connection:
    uri = f"{(folder / STORE_FILE).resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


@contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Whatever the disk or SQLite raises, as one sentence."""
    try:
        yield
    except (OSError, sqlite3.Error, MemoryError) as error:
        raise EngineError(storage_error(folder, error)) from error


def storage_error(folder: Path, error: BaseException) -> str:
    """Describe a failure of the disk or of SQLite in one sentence."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if is_too_little(error):
        return f"{folder}: too little memory; close other programs and run the same command again"
    if number == errno.ENOSPC or "disk is full" in text:
        return f"{folder}: the disk is full; free some space and run the same command again"
    if number in (errno.EFBIG, errno.EDQUOT):
        return f"{folder}: the disk quota or file size limit is reached; raise it and run again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) or "readonly" in text:
        return f"{folder}: no permission to write there; check the owner of the folder"
    if "unable to open" in text:
        return f"{folder / STORE_FILE}: is missing, or cannot be opened; feed a new index"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return (
            f"{folder / STORE_FILE}: is broken ({text}); feed a new index from the manifest, and"
            f" then remove this one"
        )
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{folder}: the index cannot be read or written: {first_line[:300]}"
