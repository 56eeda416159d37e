"""What rclip and clip-retrieval write, as their own code does."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# rclip/db.py at version 4 of its database.
RCLIP_TABLES = """
CREATE TABLE images (
  id INTEGER PRIMARY KEY,
  deleted BOOLEAN,
  filepath TEXT NOT NULL UNIQUE,
  modified_at DATETIME NOT NULL,
  size INTEGER NOT NULL,
  vector BLOB NOT NULL
);
CREATE UNIQUE INDEX existing_images ON images(filepath) WHERE deleted IS NULL;
CREATE TABLE db_version (version INTEGER);
ALTER TABLE images ADD COLUMN indexing BOOLEAN;
ALTER TABLE images ADD COLUMN hash TEXT;
CREATE INDEX hash_index ON images(hash) WHERE deleted IS NULL;
INSERT INTO db_version(version) VALUES (4);
"""


def rclip_database(path: Path, files: Sequence[Path], vectors: np.ndarray) -> Path:
    rows = []
    for file, vector in zip(files, vectors, strict=True):
        status = file.stat() if file.exists() else Path(__file__).stat()
        rows.append((str(file), status.st_mtime, status.st_size, vector.tobytes(), "x"))
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(RCLIP_TABLES)
        database.executemany(
            "INSERT INTO images(deleted, indexing, filepath, modified_at, size, vector, hash)"
            " VALUES (NULL, NULL, ?, ?, ?, ?, ?)",
            rows,
        )
    return path


def clip_retrieval_folder(
    root: Path,
    paths: Sequence[Path | str],
    vectors: np.ndarray,
    captions: Sequence[str] = (),
    per_part: int = 100,
) -> Path:
    """clip_inference/writer.py: vectors in float16, tables as pandas writes them."""
    for name in ("img_emb", "metadata"):
        (root / name).mkdir(parents=True)
    for number, start in enumerate(range(0, len(paths), per_part)):
        part = slice(start, start + per_part)
        np.save(root / f"img_emb/img_emb_{number}.npy", vectors[part].astype(np.float16))
        names = list(map(str, paths[part]))
        columns: dict[str, object] = {"image_path": names, "width": [8] * len(names)}
        if captions:
            columns["caption"] = list(captions[part])
        pq.write_table(pa.table(columns), root / f"metadata/metadata_{number}.parquet")
    return root
