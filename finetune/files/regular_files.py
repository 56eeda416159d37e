"""Opening files that someone else named: regular files alone, so that no read waits for ever.

A pipe or a device in a folder of images would be read without an end, and a file of the kernel
(/proc, /sys) may be without one.
"""

import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

_KERNEL_FOLDERS = ("/proc", "/sys")
# Nothing waits while a pipe is opened, and no terminal becomes this process's own.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class NotRegularError(OSError):
    """It is no regular file; `strerror` says what it is ("is a pipe, not a file")."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    What it is, is looked at again after opening, so that no exchange in between goes unnoticed.

    Raises OSError where it is missing or unreadable, and NotRegularError where it is something
    else (a folder, a pipe, a device, a file of the kernel).
    """
    # Opening alone has effects on some devices.
    _check(os.stat(path), path)  # noqa: PTH116 - a Path a file is slow
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, limit: int) -> bytes:
    """Return all bytes of a regular file, as many as it had when it was opened.

    Raises OSError as `open_regular` does, and where it has more than `limit` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            reason = f"has {size / 2**20:,.0f} MiB, above the limit of {limit / 2**20:,.0f} MiB"
            raise OSError(errno.EFBIG, reason, str(path))
        return file.read(size)


def what_it_is(status: os.stat_result) -> str | None:
    """Return what a file is that is no regular one, in words; None for a regular one."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        if status.st_dev in _kernel_devices():
            return "is a file of the kernel (/proc, /sys), which may have no end"
        return None
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    if stat.S_ISFIFO(mode):
        return "is a pipe, not a file"
    if stat.S_ISSOCK(mode):
        return "is a socket, not a file"
    return "is a device, not a file"


def what_lies_at(path: Path) -> str | None:
    """Return in words why a path cannot be read as a regular file.

    None where nothing lies there.
    """
    try:
        return what_it_is(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _check(status: os.stat_result, path: str | Path) -> None:
    reason = what_it_is(status)
    if reason is not None:
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise NotRegularError(number, reason, str(path))


@cache
def _kernel_devices() -> frozenset[int]:
    found = set()
    root = os.stat("/").st_dev  # noqa: PTH116
    for folder in _KERNEL_FOLDERS:
        try:
            found.add(os.stat(folder).st_dev)  # noqa: PTH116
        except OSError:
            continue
    return frozenset(found - {root})
