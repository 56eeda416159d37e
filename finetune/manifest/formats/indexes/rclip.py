"""rclip's database: the images that it has indexed, each with its vector, and no captions.

`~/.local/share/rclip/db.sqlite3` (macOS: `~/Library/Application Support/rclip/`), or in
`$RCLIP_DATADIR`. The table `images` has `filepath` (absolute), `vector` (float32 of unit length),
`size`, `modified_at` and `deleted`; the table `db_version` tells which model made the vectors
(https://github.com/yurijmikhalevich/rclip, rclip/db.py).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import ManifestError
from finetune.manifest.formats.columns import COLUMNS
from finetune.manifest.formats.row import Row, embedding_value
from finetune.manifest.problems import Problems
from finetune.text.composed import composed

MAGIC = b"SQLite format 3\0"
_MODELS = {
    1: "ViT-B-32-quickgelu of OpenAI",
    2: "ViT-B-32-quickgelu of OpenAI",
    3: "ViT-B-32-256 of DataComp (datacomp_s34b_b86k)",
    4: "ViT-B-32-256 of DataComp (datacomp_s34b_b86k)",
}
_NEEDED = {"id", "filepath", "vector", "deleted", "size", "modified_at"}
_PRESENT = "FROM images WHERE deleted IS NULL"
# Seconds: a double of today has less than a microsecond.
_TIME_IS_EQUAL = 0.001
_VALUE_BYTES = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class RclipDatabase:
    """A database of rclip's.

    Attributes:
        root: The folder that all its images lie below.
        version: Of the database; 0 where it tells none.
    """

    path: Path
    root: Path
    version: int
    format: str = "rclip"
    captioned: bool = False
    suffixes: tuple[str, ...] = ("",)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the images that rclip has not marked as deleted, by their paths from `root`.

        Raises:
            ManifestError: the database is damaged.
        """
        model = _MODELS.get(self.version)
        if model is not None:
            problems.note(COLUMNS, self.path.name, f"rclip made these vectors with {model}")
        above = len(f"{self.root.as_posix().rstrip('/')}/")
        try:
            with _opened(self.path) as database:
                found = database.execute(
                    f"SELECT id, filepath, vector, modified_at, size {_PRESENT} ORDER BY id"
                )
                for number, (id, file, vector, modified_at, size) in enumerate(found):
                    where = f"{self.path.name}:{id}"
                    if _has_changed(file, modified_at, size):
                        reason = (
                            f"{file} has changed since rclip encoded it; run rclip once more, or"
                            f" feed the folder"
                        )
                        problems.add("bad embedding", where, reason, composed(file[above:]))
                        continue
                    try:
                        embedding = embedding_value(_values(vector))
                    except ValueError as error:
                        reason = f"{file}: {error}"
                        problems.add("bad embedding", where, reason, composed(file[above:]))
                        continue
                    yield Row(number, self.path.name, id, file[above:], (), embedding=embedding)
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error


def recognise(path: Path) -> RclipDatabase:
    """Return an SQLite database as rclip's.

    Raises:
        ManifestError: it is another program's, is damaged, or holds no images.
    """
    try:
        with _opened(path) as database:
            columns = {str(row[1]) for row in database.execute("PRAGMA table_info(images)")}
            if not columns >= _NEEDED:
                raise ManifestError(
                    f"{path}: is an SQLite database, but not rclip's; name a manifest or a folder"
                )
            bounds = database.execute(f"SELECT min(filepath), max(filepath) {_PRESENT}").fetchone()
            version = _version(database)
    except sqlite3.Error as error:
        raise _damaged(path, error) from error
    first, last = bounds
    if first is None:
        raise ManifestError(f"{path}: rclip has indexed no images")
    # What the first and the last in order have in common, all between them have too.
    root = first.rpartition("/")[0] if first == last else os.path.commonpath([first, last])
    return RclipDatabase(path, Path(root), version)


def _version(database: sqlite3.Connection) -> int:
    try:
        row = database.execute("SELECT version FROM db_version").fetchone()
    except sqlite3.OperationalError:  # there is no such table
        return 0
    return int(row[0]) if row else 1


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))


def _has_changed(file: str, modified_at: float, size: int) -> bool:
    """Return whether rclip would encode a file again, by its own rule; not one that is gone."""
    try:
        status = os.stat(file)  # noqa: PTH116 - a Path a row doubles the time
    except (OSError, ValueError):
        return False
    return status.st_size != size or abs(status.st_mtime - modified_at) > _TIME_IS_EQUAL


def _values(vector: object) -> object:
    if not isinstance(vector, bytes) or len(vector) % _VALUE_BYTES:
        raise ValueError("the vector is no float32 values")
    return np.frombuffer(vector, np.float32)


def _damaged(path: Path, error: sqlite3.Error) -> ManifestError:
    return ManifestError(f"{path}: damaged or in use, no database that can be read: {error}")
