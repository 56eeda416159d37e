"""Temporary tables beside the ledger: sets of a million ids or hashes take little memory."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from finetune.errors import EngineError
from finetune.images.source import ImageSource


class IdSet:
    """Document ids in a temporary table of the ledger: a million of them take little memory."""

    table = "temp.ids"

    def __init__(self, path: Path, connection: sqlite3.Connection, ids: Iterable[str]) -> None:
        self._path = path
        self._connection = connection
        with explained(path):
            connection.execute(f"DROP TABLE IF EXISTS {self.table}")
            connection.execute(f"CREATE TABLE {self.table} (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self.add_all(ids)

    def add(self, document_id: str) -> None:
        """Put an id into the set."""
        with explained(self._path):
            self._connection.execute(
                f"INSERT OR IGNORE INTO {self.table} VALUES (?)", (document_id,)
            )

    def add_all(self, ids: Iterable[str]) -> None:
        """Put ids into the set."""
        with explained(self._path):
            self._connection.executemany(
                f"INSERT OR IGNORE INTO {self.table} VALUES (?)", ((each,) for each in ids)
            )

    def __contains__(self, document_id: str) -> bool:
        with explained(self._path):
            found = self._connection.execute(
                f"SELECT 1 FROM {self.table} WHERE id = ?", (document_id,)
            ).fetchone()
        return found is not None


class Hashed(NamedTuple):
    """An image's sha256 and its stamp from before it was read."""

    content: str
    stamp: str


class ContentTable:
    """What is known of the images of a feed that have no embedding yet, by size and by content."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        with explained(path):
            for name, columns in (
                ("sizes", "size INTEGER PRIMARY KEY, path TEXT, place INTEGER, hashed INTEGER"),
                ("contents", "content TEXT PRIMARY KEY"),
                ("hashes", "id TEXT PRIMARY KEY, content TEXT, stamp TEXT"),
            ):
                connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
                connection.execute(f"CREATE TABLE temp.{name} ({columns})")

    def has_size(self, size: int) -> bool:
        """Return whether an image of so many bytes was added."""
        return self._has("SELECT 1 FROM temp.sizes WHERE size = ?", size)

    def add_size(self, size: int, image: ImageSource, *, hashed: bool) -> None:
        """Remember the first image of so many bytes; `hashed` where its content is added too."""
        values = (size, str(image.path), image.offset, hashed)
        with explained(self._path):
            self._connection.execute("INSERT INTO temp.sizes VALUES (?, ?, ?, ?)", values)

    def take_unhashed(self, size: int) -> ImageSource | None:
        """Return the first image of so many bytes, if nobody has hashed it.

        The caller does it now.
        """
        with explained(self._path):
            found = self._connection.execute(
                "UPDATE temp.sizes SET hashed = 1 WHERE size = ? AND NOT hashed"
                " RETURNING path, place",
                (size,),
            ).fetchone()
        if found is None:
            return None
        path, place = found
        return ImageSource(Path(path), place, None if place is None else size)

    def add(self, content: str) -> None:
        """Note that an image of this content will be encoded."""
        with explained(self._path):
            self._connection.execute("INSERT OR IGNORE INTO temp.contents VALUES (?)", (content,))

    def __contains__(self, content: str) -> bool:
        return self._has("SELECT 1 FROM temp.contents WHERE content = ?", content)

    def remember(self, document_id: str, hashed: Hashed) -> None:
        """Keep what the image of a document was hashed to."""
        with explained(self._path):
            self._connection.execute(
                "INSERT OR REPLACE INTO temp.hashes VALUES (?, ?, ?)", (document_id, *hashed)
            )

    def hashed(self, document_id: str) -> Hashed | None:
        """Return what `remember` kept."""
        with explained(self._path):
            row = self._connection.execute(
                "SELECT content, stamp FROM temp.hashes WHERE id = ?", (document_id,)
            ).fetchone()
        return None if row is None else Hashed(*row)

    def _has(self, query: str, value: object) -> bool:
        with explained(self._path):
            return self._connection.execute(query, (value,)).fetchone() is not None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise whatever SQLite raises about the ledger at `path` as one sentence."""
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
