"""The files of an index beside its table: what it knows about itself, which snapshot is current,
and the lock of the one that writes. The layout is described in `local.py`.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from clipsearch.engine import IndexInfo
from finetune.errors import EngineError

FORMAT = 1
INFO_FILE = "index.json"
CURRENT_FILE = "current.json"
LOCK_FILE = "write.lock"
FEED_LOCK_FILE = "feed.lock"
SNAPSHOT_PREFIX = "snapshot-"
TABLE_FOLDER = "documents.lance"


def read_info(folder: Path) -> IndexInfo:
    """What an index knows about itself. Raises EngineError where there is none to read."""
    path = folder / INFO_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
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
    replace_json(folder / INFO_FILE, {"format": FORMAT} | asdict(info))


def replace_json(path: Path, content: object) -> None:
    """Write a file beside `path`, flush it to the disk, and put it in its place."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether the folder is empty, or is what a killed `LocalEngine.create` left.

    Nothing was ever fed to it: the first write to the table leaves a lock file of its own.
    """
    names = {path.name for path in folder.iterdir()}
    names -= {name for name in names if name.startswith(INFO_FILE + ".") and name.endswith(".tmp")}
    return names <= {TABLE_FOLDER, FEED_LOCK_FILE}


def clear_unfinished(folder: Path) -> None:
    """Empty a folder that `is_unfinished`, but for the lock of the one that does it."""
    for path in folder.iterdir():
        if path.name == FEED_LOCK_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def current_snapshot(folder: Path) -> Path | None:
    """The saved snapshot that equals the table; None while there is none."""
    try:
        stored = json.loads((folder / CURRENT_FILE).read_text(encoding="utf-8"))
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
    replace_json(folder / CURRENT_FILE, {"snapshot": snapshot.name})


def remove_old_snapshots(folder: Path) -> None:
    """Remove all snapshots but the current one; readers that have one open keep its content."""
    current = current_snapshot(folder)
    for path in folder.glob(f"{SNAPSHOT_PREFIX}*"):
        if path != current:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Be the one writer. Raises EngineError while another process, or another engine, is."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EngineError(f"{folder}: cannot write there: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise EngineError(
                f"{folder}: process {holder or '?'} is writing to it; wait until it is done"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back, as a killed process does
