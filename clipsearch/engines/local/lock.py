"""The lock of an index folder: one feed or delete at a time, from before it looks until it ends.

It is taken before the index exists, so that of two first feeds one is refused, and held while the
index is made. `write.lock` (`folder.py`) is another one, held only while the table is written, by
whoever writes it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clipsearch.engines.local.folder import (
    FEED_LOCK_FILE,
    INFO_FILE,
    check_place,
    is_unfinished,
)
from finetune.errors import EngineError
from finetune.files.lock import HeldElsewhereError, hold

# In a folder that vanishes each time; where none can be made at all, it says so as well.
_ATTEMPTS = 100
_PAUSE_SECONDS = 0.01


@contextmanager
def index_lock(folder: Path, work: str) -> Iterator[None]:
    """Hold the folder, made where it is missing, and removed if no index came of it.

    A file, and a folder that holds anything but an index, are left as they are, without a lock:
    no index can be opened or made there.

    Args:
        folder: Of the index, or where one is to be.
        work: "feed" or "delete", for the one that is refused meanwhile.

    Raises EngineError where another process holds it, or nothing can be written there.
    """
    check_place(folder)
    if _is_foreign(folder):
        yield
        return
    lock, made = _take(folder, work)
    try:
        yield
    finally:
        _leave(folder, made)
        lock.close()


def _is_foreign(folder: Path) -> bool:
    """Return whether the folder is neither unfinished nor an index.

    It is looked at without the lock, so each look is one step: others come and go between two.
    """
    try:
        unfinished = is_unfinished(folder)
    except FileNotFoundError:
        return False
    except OSError:  # a file, or not for us
        return True
    # An index that is made meanwhile is unfinished, or has its description.
    return not unfinished and not (folder / INFO_FILE).exists()


def _take(folder: Path, work: str) -> tuple[IO[bytes], list[Path]]:
    """Take the lock; return it and the folders made for it, the innermost first."""
    made: list[Path] = []
    attempts = 0
    while True:
        attempts += 1
        try:
            made += _make(folder)
            return hold(folder / FEED_LOCK_FILE, work), made
        except HeldElsewhereError as error:
            raise EngineError(
                f"{folder}: another {error.holder or 'feed'} works on this index; wait until it"
                f" is done, then run the same command again"
            ) from error
        except OSError as error:
            # The one that held it may just have removed the folder again.
            if isinstance(error, FileNotFoundError) and attempts < _ATTEMPTS:
                time.sleep(_PAUSE_SECONDS)
                continue
            _remove(made)
            raise EngineError(f"{folder}: cannot write there: {error.strerror}") from error


def _make(folder: Path) -> list[Path]:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _leave(folder: Path, made: list[Path]) -> None:
    """Remove the lock's file and the folders that were made, unless there is an index now."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [FEED_LOCK_FILE]:
            (folder / FEED_LOCK_FILE).unlink()
            _remove(made)


def _remove(folders: list[Path]) -> None:
    with suppress(OSError):  # someone else has put something there meanwhile
        for folder in folders:
            folder.rmdir()
