"""Letting go of what memory holds of a file, so that what is read next comes from the disk."""

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt


def let_go(path: Path, places: npt.NDArray[np.int64] | None = None, size: int = 0) -> None:
    """Have the next read come from the disk, not from memory, as far as the system lets go.

    `places` are those of records of `size` bytes, ascending; None is all of the file. What nobody
    wrote stays in memory, where a search looks for it.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    runs = [(0, 0)]  # from the beginning to the end
    if places is not None:
        held = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []
        ends = [(size * int(run[0]), size * (int(run[-1]) + 1)) for run in held]
        page = mmap.PAGESIZE  # only whole ones are let go
        runs = [(start - start % page, end - start + start % page + page) for start, end in ends]
    with contextlib.suppress(OSError), path.open("rb") as file:
        for start, length in runs:
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)
