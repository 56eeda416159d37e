"""The files of an index: what it knows about itself, which are ours, and the lock of the one that
writes. The layout is described in `engine`.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clipsearch.engine import IndexInfo
from clipsearch.engines.local.earlier.files import EARLIER_NAMES, TABLE_FOLDER
from finetune.errors import EngineError
from finetune.files import bounded_json
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.ownership import (
    FolderKind,
    Mark,
    claim,
    is_mark,
    read_mark,
    write_mark,
)
from finetune.near_names import did_you_mean

FORMAT = 2
EARLIER_FORMAT = 1
"""Documents lay in a table of LanceDB (`earlier`)."""
EARLIER_DOCUMENT_FORM = 1
INFO_FILE = "index.json"
# In index.json, where the folders lie that it names, from the index: all may move together.
BESIDE = "beside"
_FOLDERS = ("encoder_path", "images_root")
STORE_FILE = "documents.sqlite"
LOCK_FILE = "write.lock"
FEED_LOCK_FILE = "feed.lock"
LEDGER_FILE = "ledger.sqlite"
REPORT_FILE = "feed-report.csv"
_INFO_TEMPORARY = re.compile(re.escape(INFO_FILE) + r"\.[0-9a-f]{8}\.tmp")
STORE_NAMES = tuple(STORE_FILE + end for end in ("", "-journal"))
INDEX_FOLDER = FolderKind(
    "index",
    (
        INFO_FILE, f"{INFO_FILE}.*.tmp", LOCK_FILE, FEED_LOCK_FILE, REPORT_FILE,
        *STORE_NAMES, "vectors-*.f32", "codes-*.signs", "codes-*.bits", "segment-*.seg",
        *EARLIER_NAMES,
        *(LEDGER_FILE + end for end in ("", ".lock", "-journal", "-wal", "-shm")),
    ),
)  # fmt: skip


def read_info(folder: Path) -> IndexInfo:
    """Read what an index knows about itself. Raises EngineError where there is none to read."""
    path = folder / INFO_FILE
    try:
        stored = bounded_json.read(path)
        if stored["format"] == EARLIER_FORMAT:
            # So that a feed asks for the documents to be brought to today's form.
            stored = {**stored, "document_form": EARLIER_DOCUMENT_FORM}
        elif stored["format"] != FORMAT:
            raise EngineError(
                f"{folder}: an index of format {stored['format']}, but this clipsearch reads"
                f" {EARLIER_FORMAT} and {FORMAT}; feed a new index"
            )
        return _found_again(folder, IndexInfo.from_json(stored), stored.get(BESIDE))
    except NotADirectoryError as error:
        check_place(folder)
        raise EngineError(
            f"{folder}: is a file, and an index is a folder; name that, or a new one"
            f" for clipsearch feed to make"
        ) from error
    except FileNotFoundError as error:
        check_place(folder)
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
            f"{folder}: no index there{did_you_mean(folder, folders=True)}; make one with:"
            f" clipsearch feed MANIFEST --index {folder}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{path}: cannot be read ({error}); feed the index anew") from error


def _found_again(folder: Path, info: IndexInfo, beside: object) -> IndexInfo:
    """Return the info with folders that moved together with the index where they lie now."""
    relative = beside if isinstance(beside, dict) else {}

    def now(known: str | None, name: str) -> str | None:
        if known is None or Path(known).is_dir() or not isinstance(relative.get(name), str):
            return known
        there = Path(os.path.normpath(folder.absolute() / relative[name]))
        return str(there) if there.is_dir() else known

    return replace(
        info,
        encoder_path=now(info.encoder_path, "encoder_path"),
        images_root=now(info.images_root, "images_root"),
    )


def _beside(folder: Path, info: IndexInfo) -> dict[str, str]:
    """Return the folders that the index names, as they lie from it."""
    named = {name: getattr(info, name) for name in _FOLDERS}
    return {
        name: os.path.relpath(path, folder.absolute())
        for name, path in named.items()
        if path is not None
    }


def is_earlier(folder: Path) -> bool:
    """Return whether the index is still of the format before this one. Raises EngineError."""
    try:
        return bool(bounded_json.read(folder / INFO_FILE)["format"] == EARLIER_FORMAT)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{folder / INFO_FILE}: cannot be read ({error})") from error


def write_info(folder: Path, info: IndexInfo, *, earlier: bool = False) -> None:
    """Replace it in one step, so that a killed process leaves the old or the new."""
    content = {"format": EARLIER_FORMAT if earlier else FORMAT} | info.to_json()
    content[BESIDE] = _beside(folder, info)
    replace_json(folder / INFO_FILE, content | {"sha256": info_digest(content)})


def info_digest(content: Mapping[str, object]) -> str:
    """Return the SHA-256, in hex, of what index.json says, apart from this digest itself."""
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


def check_place(folder: Path) -> None:
    """Raise EngineError where no folder can be: below a file, or behind a link to nowhere."""
    for each in (folder, *folder.parents):
        if each.is_dir():
            return
        if each.is_symlink() and not each.exists():
            raise EngineError(
                f"{folder}: {'is' if each == folder else f'{each} is'} a link to"
                f" {each.readlink()}, which is not there; make that, or remove the link"
            )
        if each != folder and each.exists():
            raise EngineError(f"{folder}: {each} is a file; name an index in a folder")


def is_unfinished(folder: Path) -> bool:
    """Return whether the folder is empty, or is what a killed `LocalEngine.create` left.

    Nothing was ever fed to it: the first write takes a lock file of its own. A store counts only
    where the mark of the folder says that we are making it: anybody may have a database.
    """
    names = {path.name for path in folder.iterdir() if not is_mark(path.name)}
    names -= {name for name in names if _INFO_TEMPORARY.fullmatch(name)}
    made = {*STORE_NAMES, TABLE_FOLDER}
    if names & made:
        mark = read_mark(folder)
        if mark is None or mark.kind != INDEX_FOLDER.name or mark.whole:
            return False
        # Ours is still empty: of a table that holds something, nobody's is a leftover.
        if any((folder / TABLE_FOLDER / "data").glob("*")):
            return False
    return names <= {*made, FEED_LOCK_FILE}


def clear_unfinished(folder: Path) -> None:
    """Empty a folder that `is_unfinished`, and mark it as an index that is being made."""
    claim(folder, INDEX_FOLDER)
    if (folder / TABLE_FOLDER).exists():
        shutil.rmtree(folder / TABLE_FOLDER)
    for path in folder.iterdir():
        if _INFO_TEMPORARY.fullmatch(path.name) or path.name in STORE_NAMES:
            path.unlink()


def mark_as_made(folder: Path) -> None:
    """Say in the mark that the index is made, and its files ours."""
    write_mark(folder, Mark(INDEX_FOLDER.name, whole=True))


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


def disk_bytes(folder: Path) -> int:
    """Count the bytes of all files under `folder`."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a feed at work cleans up old versions
            continue
    return total
