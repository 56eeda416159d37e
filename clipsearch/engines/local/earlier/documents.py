"""Indexes of format 1: documents in a table of LanceDB, and a snapshot of it for searching.

The snapshot is plain arrays and holds every document of a feed that ended; it is read without
LanceDB. After a feed that was stopped the table alone has them all, and LanceDB is asked.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.documents import Document
from clipsearch.engines.local.earlier.files import (
    CURRENT_FILE,
    SNAPSHOT_NAME,
    SNAPSHOT_NAMES,
    TABLE_FOLDER,
    current_snapshot,
)
from finetune.errors import EngineError
from finetune.files import bounded_json
from finetune.files.ownership import FolderKind, look, read_mark, remove, sha256_of

_ROWS_AT_ONCE = 2048


def earlier_documents(folder: Path) -> Iterator[Document]:
    """Yield every document of the index, with its embedding. Raises EngineError."""
    snapshot = current_snapshot(folder)
    if snapshot is not None and _is_whole(snapshot):
        return _of_snapshot(snapshot)
    return _of_table(folder)


def remove_earlier(folder: Path) -> None:
    """Remove the files of format 1 that are ours, once the documents stand elsewhere."""
    (folder / CURRENT_FILE).unlink(missing_ok=True)
    if (folder / TABLE_FOLDER).is_dir() and not (folder / TABLE_FOLDER).is_symlink():
        shutil.rmtree(folder / TABLE_FOLDER)
    kind = FolderKind("snapshot", SNAPSHOT_NAMES)
    for path in folder.glob("snapshot-*"):
        if SNAPSHOT_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            remove(path, look(path, kind).ours)


def verify_earlier(folder: Path, broken: dict[Path, str], notes: list[str]) -> int:
    """Compare the files with their SHA-256, as far as they have one; how many were."""
    notes.append("the index is of an earlier format, which the next feed converts")
    count = 0
    snapshot = current_snapshot(folder)
    mark = read_mark(folder)
    expected = {} if mark is None or snapshot is None else {
        folder / name: digests[0] for name, digests in mark.files.items()
    }  # fmt: skip
    if snapshot is not None:
        expected |= {snapshot / name: digest for name, digest in _digests(snapshot).items()}
    for path, digest in expected.items():
        count += 1
        if not path.is_file():
            broken[path] = "is missing"
        elif sha256_of(path) != digest:
            broken[path] = "is not as it was written"
    return count


def check_earlier(folder: Path) -> None:
    """Raise EngineError where the snapshot is not as it was written."""
    snapshot = current_snapshot(folder)
    for name, digest in {} if snapshot is None else _digests(snapshot).items():
        assert snapshot is not None
        path = snapshot / name
        if path.is_file() and sha256_of(path) != digest:
            raise EngineError(
                f"{path}: is not as it was written, so the index is not converted; remove"
                f" {folder / CURRENT_FILE} and run the feed again, which takes the documents from"
                f" the table beside it"
            )


def _of_snapshot(snapshot: Path) -> Iterator[Document]:
    starts = np.load(snapshot / "document_starts.npy")
    text = (snapshot / "documents.json").read_bytes()
    vectors = np.load(snapshot / "embeddings.npy", mmap_mode="r")
    for row in range(len(starts) - 1):
        stored = json.loads(text[starts[row] : starts[row + 1]])
        yield Document.from_json(stored, np.array(vectors[row]))


def _is_whole(snapshot: Path) -> bool:
    try:
        facts = bounded_json.read(snapshot / "snapshot.json")
        sizes = facts["sizes"].items()
        return all((snapshot / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _digests(snapshot: Path) -> dict[str, str]:
    try:
        stored = bounded_json.read(snapshot / "snapshot.json").get("sha256")
    except (OSError, ValueError, AttributeError):
        return {}
    return {str(n): str(d) for n, d in stored.items()} if isinstance(stored, dict) else {}


def _of_table(folder: Path) -> Iterator[Document]:
    query = _table(folder).search().select(["document", "embedding"])
    for batch in query.to_batches(batch_size=_ROWS_AT_ONCE):
        vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
        rows = batch.column("document").to_pylist()
        for row, vector in zip(rows, vectors.reshape(len(rows), -1), strict=True):
            yield replace(Document.from_json(json.loads(row)), embedding=vector.copy())


def _table(folder: Path) -> Any:
    try:
        import lancedb  # no part of clipsearch any more: a second, and 200 MB
    except ImportError as error:
        raise EngineError(
            f"{folder}: its last feed was by an earlier version and was stopped, so that only the"
            f" LanceDB table in it has all documents; install LanceDB (pip install lancedb) and run"
            f" the feed again, which converts the index and needs it no more"
        ) from error
    try:
        return lancedb.connect(folder).open_table(TABLE_FOLDER.removesuffix(".lance"))
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise EngineError(f"{folder / TABLE_FOLDER}: cannot be read ({first})") from error
