"""A file that one process holds at a time, and which says what that process is doing.

The lock is the kernel's (`flock`), so it goes with the process, also by kill -9; the file may stay.
"""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import IO

HOLDER_BYTES = 64
_HOLDER = re.compile(rb"[a-z]{0,%d}" % HOLDER_BYTES)


class HeldElsewhereError(Exception):
    """Another process holds the file; the message is what it is doing ("feed")."""


def hold(path: Path, work: str) -> IO[bytes]:
    """Make the file if it is missing, and hold it until what is returned is closed.

    Args:
        path: Its folder must be there.
        work: What this process is about to do, for the message of the next one.

    Raises HeldElsewhereError, and OSError where the file cannot be opened, or is none of ours.
    """
    while True:
        lock = path.open("a+b")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock.fileno(), HOLDER_BYTES, 0).decode(errors="replace").strip()
            lock.close()
            raise HeldElsewhereError(holder or "feed") from error
        if _is_at(lock, path):
            if not _HOLDER.fullmatch(os.pread(lock.fileno(), HOLDER_BYTES + 1, 0)):
                lock.close()
                raise OSError(errno.EEXIST, "another file has the name of the lock", str(path))
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), work.encode())
            return lock
        # Whoever held it has removed it meanwhile: a lock on a removed file keeps nobody out.
        lock.close()


def _is_at(lock: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
