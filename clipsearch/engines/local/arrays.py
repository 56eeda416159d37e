"""Numpy files mapped into memory: opened at once, read as needed, shared between processes."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

ZEROS_AT_ONCE = 1 << 20


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file, read only. Raises OSError or ValueError for a broken file."""
    # A plain view, for the subclass memmap makes every small operation slower.
    return np.asarray(np.load(path, mmap_mode="r"))


def create_array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A new .npy file of float32 zeros, mapped for writing.

    Raises OSError where the disk has no room for it: writing to a mapped page without would kill
    the process with a bus error instead.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    size = 4 * int(np.prod(shape, dtype=np.int64))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        _reserve(file, size)
    if not size:  # nothing cannot be mapped
        return np.zeros(shape, np.float32)
    array: npt.NDArray[np.float32] = np.load(path, mmap_mode="r+")
    return array


def _reserve(file: BinaryIO, size: int) -> None:
    """Add `size` zeros at the end of the file, with their place on the disk."""
    if size and hasattr(os, "posix_fallocate"):
        file.flush()
        os.posix_fallocate(file.fileno(), file.tell(), size)
        return
    while size:  # macOS
        part = min(size, ZEROS_AT_ONCE)
        file.write(bytes(part))
        size -= part
