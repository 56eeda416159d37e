"""The files of an index beside its table: what it knows about itself, which snapshot is current,
and the lock of the one that writes. The layout is described in `local.py`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clipsearch.engine import IndexInfo
from finetune.errors import EngineError
from finetune.files import bounded_json
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.ownership import (
    FolderKind,
    Mark,
    claim,
    is_mark,
    look,
    read_mark,
    remove,
    sha256_of,
    write_mark,
)

FORMAT = 1
INFO_FILE = "index.json"
CURRENT_FILE = "current.json"
LOCK_FILE = "write.lock"
FEED_LOCK_FILE = "feed.lock"
SNAPSHOT_PREFIX = "snapshot-"
_INFO_TEMPORARY = re.compile(re.escape(INFO_FILE) + r"\.[0-9a-f]{8}\.tmp")
TABLE_FOLDER = "documents.lance"
SNAPSHOT_FILE = "snapshot.json"
LEDGER_FILE = "ledger.sqlite"
REPORT_FILE = "feed-report.csv"
_SNAPSHOT_NAME = re.compile(rf"{SNAPSHOT_PREFIX}[0-9a-f]{{12}}")

SNAPSHOT_FOLDER = FolderKind(
    "snapshot",
    (
        "embeddings.npy", "documents.json", "document_starts.npy", "starts.npy", "rows.npy",
        "impacts.npy", "terms.json", "tag-*.npy", "tag-*.json", "number-*.npy", "columns.json",
        "addresses.npy", "address_order.npy", SNAPSHOT_FILE,
    ),
)  # fmt: skip
INDEX_FOLDER = FolderKind(
    "index",
    (
        INFO_FILE, CURRENT_FILE, f"{INFO_FILE}.*.tmp", f"{CURRENT_FILE}.*.tmp", LOCK_FILE,
        FEED_LOCK_FILE,        f"{TABLE_FOLDER}/", REPORT_FILE,
        *(f"{SNAPSHOT_PREFIX}*/{name}" for name in SNAPSHOT_FOLDER.names),
        *(LEDGER_FILE + end for end in ("", ".lock", "-journal", "-wal", "-shm")),
    ),
)  # fmt: skip


def read_info(folder: Path) -> IndexInfo:
    """What an index knows about itself. Raises EngineError where there is none to read."""
    path = folder / INFO_FILE
    try:
        stored = bounded_json.read(path)
        if stored["format"] != FORMAT:
            raise EngineError(
                f"{folder}: an index of format {stored['format']}, but this clipsearch reads"
                f" {FORMAT}; feed a new index"
            )
        return IndexInfo.from_json(stored)
    except NotADirectoryError as error:
        raise EngineError(
            f"{folder}: is a file, and an index is a folder; name that, or a new one"
            f" for clipsearch feed to make"
        ) from error
    except FileNotFoundError as error:
        unfinished = folder.is_dir() and is_unfinished(folder)
        if unfinished and (folder / FEED_LOCK_FILE).exists():
            raise EngineError(
                f"{folder}: no index there yet: a feed is making it, or was stopped while it did;"
                f" try again in a moment, or run that feed again"
            ) from error
        if folder.is_dir() and not unfinished:
            raise EngineError(
                f"{folder}: no index there, but other files (and no {INFO_FILE}); name the"
                f" folder of an index, or a new one for clipsearch feed to make"
            ) from error
        raise EngineError(
            f"{folder}: no index there; make one with: clipsearch feed MANIFEST --index {folder}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{path}: cannot be read ({error}); feed the index anew") from error


def write_info(folder: Path, info: IndexInfo) -> None:
    """Replace it in one step, so that a killed process leaves the old or the new."""
    content = {"format": FORMAT} | info.to_json()
    replace_json(folder / INFO_FILE, content | {"sha256": info_digest(content)})


def info_digest(content: Mapping[str, object]) -> str:
    """The SHA-256, in hex, of what index.json says, but for this itself."""
    # As it is stored, where a tuple is a list.
    said = json.loads(json.dumps({name: v for name, v in content.items() if name != "sha256"}))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def replace_json(path: Path, content: object) -> None:
    """Write a file beside `path`, flush it to the disk, and put it in its place."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=2, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether the folder is empty, or is what a killed `LocalEngine.create` left.

    Nothing was ever fed to it: the first write to the table leaves a lock file of its own. A table
    counts only where the mark of the folder says that we are making it: anybody may have one named
    `documents`.
    """
    names = {path.name for path in folder.iterdir() if not is_mark(path.name)}
    names -= {name for name in names if _INFO_TEMPORARY.fullmatch(name)}
    if TABLE_FOLDER in names:
        mark = read_mark(folder)
        if mark is None or mark.kind != INDEX_FOLDER.name or mark.whole:
            return False
        # Ours is still empty: of a table that holds something, nobody's is a leftover.
        if any((folder / TABLE_FOLDER / "data").glob("*")):
            return False
    return names <= {TABLE_FOLDER, FEED_LOCK_FILE}


def clear_unfinished(folder: Path) -> None:
    """Empty a folder that `is_unfinished`, and mark it as an index that is being made."""
    claim(folder, INDEX_FOLDER)
    if (folder / TABLE_FOLDER).exists():
        shutil.rmtree(folder / TABLE_FOLDER)
    for path in folder.iterdir():
        if _INFO_TEMPORARY.fullmatch(path.name):
            path.unlink()


def mark_as_made(folder: Path) -> None:
    """Say in the mark that the index is made, and its table ours."""
    write_mark(folder, Mark(INDEX_FOLDER.name, whole=True))


def current_snapshot(folder: Path) -> Path | None:
    """The saved snapshot that equals the table; None while there is none."""
    try:
        stored = bounded_json.read(folder / CURRENT_FILE)
        return folder / str(stored["snapshot"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget_snapshot(folder: Path) -> None:
    """Before a write: from now on the saved snapshot no longer equals the table."""
    (folder / CURRENT_FILE).unlink(missing_ok=True)


def new_snapshot_folder(folder: Path) -> Path:
    """An empty folder for a snapshot to be saved in."""
    path = folder / f"{SNAPSHOT_PREFIX}{uuid.uuid4().hex[:12]}"
    path.mkdir()
    return path


def publish_snapshot(folder: Path, snapshot: Path) -> None:
    """Make a saved snapshot the current one."""
    digest = sha256_of(snapshot / SNAPSHOT_FILE)
    replace_json(folder / CURRENT_FILE, {"snapshot": snapshot.name, "sha256": digest})


def remove_old_snapshots(folder: Path) -> None:
    """Remove all snapshots but the current one; readers that have one open keep its content.

    Files that are not of a snapshot stay, with their folder.
    """
    current = current_snapshot(folder)
    for path in folder.glob(f"{SNAPSHOT_PREFIX}*"):
        if path != current and _SNAPSHOT_NAME.fullmatch(path.name) and not path.is_symlink():
            with contextlib.suppress(OSError):
                remove(path, look(path, SNAPSHOT_FOLDER).ours)


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Be the one writer. Raises EngineError while another process, or another engine, is."""
    try:
        lock = hold(folder / LOCK_FILE, str(os.getpid()))
    except HeldElsewhereError as error:
        raise EngineError(
            f"{folder}: process {error.holder or '?'} is writing to it; wait until it is done"
        ) from error
    except OSError as error:
        raise EngineError(f"{folder}: cannot write there: {error.strerror}") from error
    with lock:
        yield
