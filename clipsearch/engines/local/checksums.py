"""Checksums of an index's files: written by each feed, verified by `clipsearch status --verify`.

What is covered, and where its SHA-256 lies:

    snapshot-*/*        every array that a search reads: in snapshot.json, whose own is in
                        current.json
    documents.lance/**  every file of the table, hashed when the feed that wrote it is done: in the
                        mark of the folder. Of data and vector index LanceDB never changes a file,
                        so that only new ones are hashed; it says itself whether it could write them
    index.json          in itself
    ledger.sqlite       SQLite's own check of its structure, where it lies in the folder

The files of a snapshot are read back once they are flushed, so that a feed does not end before the
disk gives what was written. Nothing is hashed when an index is opened or searched.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clipsearch.engines.local.folder import (
    CURRENT_FILE,
    INDEX_FOLDER,
    INFO_FILE,
    LEDGER_FILE,
    SNAPSHOT_FILE,
    TABLE_FOLDER,
    current_snapshot,
    info_digest,
)
from finetune.errors import EngineError
from finetune.files import bounded_json
from finetune.files.ownership import Mark, read_mark, sha256_of, write_mark

_NEVER_CHANGED = (f"{TABLE_FOLDER}/data/", f"{TABLE_FOLDER}/_indices/")


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found.

    Attributes:
        files: That were compared.
        broken: File to what is wrong with it.
        notes: What could not be compared, in sentences.
    """

    files: int
    broken: Mapping[Path, str]
    notes: tuple[str, ...] = ()

    def check(self, folder: Path) -> None:
        """Raise EngineError, with the files and the mend, where one is broken."""
        if not self.broken:
            return
        named = "; ".join(
            f"{path.relative_to(folder)} {reason}" for path, reason in self.broken.items()
        )
        raise EngineError(f"{folder}: {named}; {_mend(folder, self.broken)}")


def snapshot_digests(folder: Path) -> dict[str, str]:
    """File to SHA-256 of a snapshot just written, flushed and read back from the disk.

    Raises EngineError where what is read back is something else, and OSError.
    """
    return {path.name: _flushed_sha256(path) for path in sorted(folder.iterdir())}


def list_table(folder: Path) -> None:
    """Bring the mark's list of the table's files up to date. Call while nobody writes."""
    before = read_mark(folder)
    known = {} if before is None else before.files
    files = {}
    for path in _table_files(folder):
        name = path.relative_to(folder).as_posix()
        is_known = name in known and name.startswith(_NEVER_CHANGED)
        files[name] = known[name] if is_known else (sha256_of(path),)
    write_mark(folder, Mark(INDEX_FOLDER.name, files, whole=True))


def are_complete(folder: Path) -> bool:
    """Whether the last feed left checksums; those of earlier versions left none."""
    snapshot = current_snapshot(folder)
    return snapshot is not None and bool(_stored(snapshot / SNAPSHOT_FILE).get("sha256"))


def verify(folder: Path) -> Verified:
    """Read every file that is covered, and compare. Raises OSError where one cannot be read."""
    broken: dict[Path, str] = {}
    notes: list[str] = []
    count = 0
    expected = _expected(folder, notes)
    for path, digest in expected:
        count += 1
        if not path.is_file():
            broken[path] = "is missing"
        elif sha256_of(path) != digest:
            broken[path] = "is not as it was written"
    info = _stored(folder / INFO_FILE)
    if "sha256" in info:
        count += 1
        if info_digest(info) != info["sha256"]:
            broken[folder / INFO_FILE] = "is not as it was written"
    ledger = folder / LEDGER_FILE
    if ledger.is_file():
        count += 1
        fault = _fault_of(ledger)
        if fault:
            broken[ledger] = f"is broken ({fault})"
    return Verified(count, broken, tuple(notes))


def _expected(folder: Path, notes: list[str]) -> Iterator[tuple[Path, str]]:
    """Files and what their SHA-256 should be; what is not covered goes to `notes`."""
    snapshot = current_snapshot(folder)
    current = _stored(folder / CURRENT_FILE)
    if snapshot is None:
        notes.append(
            "a feed is under way or was stopped, so that only those files of the table were"
            " compared that an earlier feed left; run the feed again"
        )
    elif not are_complete(folder) or "sha256" not in current:
        notes.append(
            "the snapshot has no checksums, since an earlier version wrote it; the next feed"
            " writes them"
        )
    else:
        yield snapshot / SNAPSHOT_FILE, str(current["sha256"])
        for name, digest in _digests(snapshot).items():
            yield snapshot / name, digest
    mark = read_mark(folder)
    listed = {} if mark is None else mark.files
    if not any(name.startswith(f"{TABLE_FOLDER}/") for name in listed):
        notes.append("the table has no checksums yet; the next feed that writes makes them")
    for name, digests in listed.items():
        # A feed that was stopped may have replaced files, and LanceDB's own about versions.
        is_there = name.startswith(_NEVER_CHANGED) and (folder / name).is_file()
        if snapshot is not None or is_there:
            yield folder / name, digests[0]


def _digests(snapshot: Path) -> dict[str, str]:
    stored = _stored(snapshot / SNAPSHOT_FILE).get("sha256")
    return {str(n): str(d) for n, d in stored.items()} if isinstance(stored, dict) else {}


def _table_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / TABLE_FOLDER).rglob("*") if path.is_file())


def _stored(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty where there is none."""
    try:
        value = bounded_json.read(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _fault_of(database: Path) -> str | None:
    import sqlite3  # light path: a query verifies nothing

    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            found = opened.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None  # another process writes to it
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == ("ok",) else str(found[0])


def _flushed_sha256(path: Path) -> str:
    with path.open("rb") as file:
        written = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            # From the disk, not from memory, as far as the system lets go of it.
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != written:
            raise EngineError(
                f"{path}: the disk gives back something else than was written; all documents are in"
                f" the table: look after the disk, then run the same command again"
            )
    return written


def _mend(folder: Path, broken: Mapping[Path, str]) -> str:
    """What puts it right: the cheapest way that does for all of the files."""
    parts = {path.relative_to(folder).parts[0] for path in broken}
    snapshot = current_snapshot(folder)
    if snapshot is not None and parts <= {snapshot.name}:
        return (
            f"remove the folder {snapshot} and run the feed again: it is laid out anew from the"
            f" documents, which are whole"
        )
    if parts == {LEDGER_FILE}:
        return f"remove {folder / LEDGER_FILE} and run the feed again, which feeds everything anew"
    return "feed a new index from the manifest, and then remove this one"
