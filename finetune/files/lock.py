"""The one lock: a file that one process holds at a time, and which says what that process is doing.

The lock is the kernel's (`flock`), so it goes with the process, also by kill -9; the file may stay.
On NFS it holds between machines where both ends are Linux, which passes it on to the server.

`filelock` has the same call, but not what stands around it here. Its `FileLock` takes whatever file
has the name, and empties it in versions before 3.21; it takes a lock on a file that was removed
meanwhile, which keeps nobody out; and where the file system knows no `flock`, it makes a file that
kill -9 leaves behind as a lock. What remains of it, `lock_descriptor`, is this one call.
"""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import IO

HOLDER_BYTES = 64
_HOLDER = re.compile(rb"[a-z0-9]{0,%d}" % HOLDER_BYTES)
# What a lock of another's is refused with: the second on NFS and some older systems.
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class HeldElsewhereError(Exception):
    """Another process holds the file.

    Attributes:
        holder: What that process is doing ("feed"), or its number; "" where it does not say.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold(path: Path, holder: str) -> IO[bytes]:
    """Make the file if it is missing, and hold it until what is returned is closed.

    Args:
        path: Its folder must be there.
        holder: What this process is about to do, or its number, for the message of the next one:
            a word of small letters and digits.

    Raises HeldElsewhereError, and OSError where the file cannot be opened, or is none of ours.
    """
    while True:
        lock = path.open("a+b")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                _check_ours(lock, path)
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), holder.encode())
                return lock
        except OSError as error:
            found = os.pread(lock.fileno(), HOLDER_BYTES, 0)
            lock.close()
            if error.errno in _HELD:
                raise HeldElsewhereError(found.decode(errors="replace").strip()) from error
            raise
        # Whoever held it has removed it meanwhile: a lock on a removed file keeps nobody out.
        lock.close()


def _check_ours(lock: IO[bytes], path: Path) -> None:
    if not _HOLDER.fullmatch(os.pread(lock.fileno(), HOLDER_BYTES + 1, 0)):
        raise OSError(errno.EEXIST, "another file has the name of the lock", str(path))


def _is_at(lock: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
