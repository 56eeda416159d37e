"""A file of named arrays, mapped or read: each part is compared with its checksum first.

    magic, padded to 64 bytes
    the arrays, each from a multiple of 64 bytes on
    uint32 for each PART_BYTES of what stands before: its CRC-32
    the directory: JSON with type, shape and place of each array, and facts
    the end: place, length and CRC-32 of the directory

A file is written once and never changed. What is read of it is compared with its checksum when it
is read for the first time by a process, 64 KiB at a time: a flipped byte is named, never used.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from finetune.errors import EngineError

MAGIC = b"clipsearch segment 1\n"
PART_BYTES = 1 << 16
READ_BYTES = 1 << 20
"""A file up to so long is read rather than mapped.

Small ones are soon merged and removed, and whoever gives up the last map of a removed file does the
file system's work: milliseconds of the query that comes after a change.
"""
_ALIGNMENT = 64
_END = struct.Struct("<QII")

Array = npt.NDArray[Any]


class BrokenSegmentError(EngineError):
    """A file of a segment is missing, cut short, or not as it was written."""

    def __init__(self, path: Path | None, what: str) -> None:
        super().__init__(
            f"{path}: {what}; remove it and run the feed again: it is laid out anew from the"
            f" documents, which are whole"
        )


def _bytes_of(path: Path, size: int) -> npt.NDArray[np.uint8]:
    if size <= READ_BYTES:
        return np.fromfile(path, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


class Sections:
    """Named arrays, in memory or in a file."""

    def __init__(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """In memory; `open` maps a file."""
        self.facts = facts
        self._arrays = dict(arrays)
        self._places: Mapping[str, int] = {}
        self._path: Path | None = None
        self._bytes: npt.NDArray[np.uint8] | None = None
        self._sums: npt.NDArray[np.uint32] | None = None
        self._checked: npt.NDArray[np.bool_] = np.zeros(0, bool)

    @classmethod
    def open(cls, path: Path, size: int) -> "Sections":
        """Map the file, which must have `size` bytes.

        Raises BrokenSegmentError where it is missing, of another size, or its directory broken.
        """
        try:
            if path.stat().st_size != size:
                raise BrokenSegmentError(path, f"is not of {size:,} bytes, as it was written")
            mapped = _bytes_of(path, size)
        except (OSError, ValueError) as error:
            raise BrokenSegmentError(path, f"is missing, or cannot be read ({error})") from error
        try:
            return cls._of_bytes(path, mapped)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise BrokenSegmentError(path, "is not as it was written") from error

    @classmethod
    def _of_bytes(cls, path: Path, mapped: npt.NDArray[np.uint8]) -> "Sections":
        start, length, digest = _END.unpack(mapped[-_END.size :].tobytes())
        stored = mapped[start : start + length].tobytes()
        if zlib.crc32(stored) != digest or mapped[: len(MAGIC)].tobytes() != MAGIC:
            raise ValueError("checksum of the directory")
        directory = json.loads(stored)
        arrays, places = {}, {}
        for name, (kind, shape, place) in directory["arrays"].items():
            dtype = np.dtype(kind)
            count = math.prod(shape)
            raw = mapped[place : place + count * dtype.itemsize]
            arrays[name] = raw.view(dtype).reshape(shape)
            places[name] = place
        self = cls(arrays, directory["facts"])
        sums_at, sums_digest = directory["sums"], directory["sums_crc"]
        raw_sums = mapped[sums_at:start]
        if zlib.crc32(raw_sums.data) != sums_digest:
            raise ValueError("checksum of the checksums")
        self._places, self._path, self._bytes = places, path, mapped[:sums_at]
        self._sums = raw_sums.view(np.uint32)
        self._checked = np.zeros(len(self._sums), bool)
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._path

    def array(self, name: str) -> Array:
        """Read the whole array. Raises BrokenSegmentError where it is not as it was written."""
        return self.part(name, 0, len(self._arrays[name]))

    def part(self, name: str, start: int, end: int) -> Array:
        """Read `array(name)[start:end]`, comparing the checksums of this part alone."""
        array = self._arrays[name]
        if self._path is not None and end > start:
            item = array.nbytes // len(array)
            place = self._places[name]
            self._check(place + start * item, place + end * item)
        return array[start:end]

    def items(self) -> Mapping[str, Array]:
        """Read all arrays, comparing them with their checksums."""
        return {name: self.array(name) for name in self._arrays}

    def check_all(self) -> None:
        """Compare all that the file holds. Raises BrokenSegmentError."""
        if self._bytes is not None:
            self._checked[:] = False
            self._check(0, len(self._bytes))

    def _check(self, start: int, end: int) -> None:
        first, last = start // PART_BYTES, -(-end // PART_BYTES)
        if self._checked[first:last].all():
            return
        assert self._bytes is not None and self._sums is not None
        for number in range(first, last):
            if self._checked[number]:
                continue
            part = self._bytes[number * PART_BYTES : (number + 1) * PART_BYTES]
            if zlib.crc32(part.data) != self._sums[number]:
                raise BrokenSegmentError(self._path, "is not as it was written")
            self._checked[number] = True


def write_sections(path: Path, sections: Sections) -> int:
    """Write the arrays and facts into a new file, flushed to the disk; its size in bytes.

    Raises OSError, and then leaves no file.
    """
    try:
        with path.open("wb") as file:
            size = _write(file, sections)
            file.flush()
            os.fsync(file.fileno())
        return size
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, sections: Sections) -> int:
    out = _Summed(file)
    out.write(MAGIC.ljust(_ALIGNMENT, b"\0"))
    listed = {}
    for name, array in sections.items().items():
        out.write(bytes(-out.size % _ALIGNMENT))
        listed[name] = (array.dtype.str, array.shape, out.size)
        out.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    out.write(bytes(-out.size % _ALIGNMENT))
    sums = np.array(out.sums(), np.uint32).tobytes()
    directory = json.dumps(
        {
            "arrays": listed,
            "facts": sections.facts,
            "sums": out.size,
            "sums_crc": zlib.crc32(sums),
        },
        ensure_ascii=False,
    ).encode()
    file.write(sums)
    file.write(directory)
    start = out.size + len(sums)
    file.write(_END.pack(start, len(directory), zlib.crc32(directory)))
    return start + len(directory) + _END.size


class _Summed:
    """Writes bytes, and keeps the CRC-32 of each part of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._done: list[int] = []
        self._sum = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        view, place = memoryview(data), 0
        while place < len(view):
            step = min(len(view) - place, PART_BYTES - self.size % PART_BYTES)
            self._sum = zlib.crc32(view[place : place + step], self._sum)
            self.size += step
            place += step
            if self.size % PART_BYTES == 0:
                self._done.append(self._sum)
                self._sum = 0

    def sums(self) -> list[int]:
        return [*self._done, self._sum] if self.size % PART_BYTES else self._done
