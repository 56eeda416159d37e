"""Digests of records: what tells whether a record is as it was, without reading it."""

import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROW_BYTES = 16
Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Digests:
    """Of all records of a manifest, in their order.

    Attributes:
        numbers: int64[n], by which `Manifest.numbered_records` finds them.
        ids: uint64[n], a hash of each record's id.
        rows: uint64[n, 2], a hash of all that the manifest says of each record, of its embedding,
            and of size, times and inode of its image.
    """

    numbers: Numbers
    ids: Hashes
    rows: Hashes


class RecordDigests:
    """Gathers `Digests` while records are read, in 32 bytes a record."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._ids = bytearray()
        self._rows = bytearray()

    def add(
        self,
        number: int,
        id: str,
        split: str,
        packed: bytes,
        content: bytes | None,
        status: os.stat_result | None,
    ) -> None:
        """Take in a record.

        Args:
            number: Its own.
            id, split: Its own.
            packed: All else that the manifest says, always as the same bytes.
            content: Of its embedding; None without one.
            status: Of its image; None where that was not found.
        """
        name = id.encode()
        parts = (name, split.encode(), _stamp(status), content or b"", packed)
        row = hashlib.sha256(b"\0".join(parts)).digest()
        self._numbers.append(number)
        self._ids += _hash_of_name(name)
        self._rows += row[:ROW_BYTES]

    def add_all(
        self,
        numbers: Sequence[int],
        ids: Sequence[str],
        splits: Sequence[str],
        packed: Sequence[bytes],
        contents: Sequence[bytes | None],
        statuses: Sequence[os.stat_result | None],
    ) -> None:
        """Take in records, each as `add` does."""
        names = [id.encode() for id in ids]
        sha256 = hashlib.sha256
        rows = [
            sha256(
                b"\0".join((name, split.encode(), _stamp(status), content or b"", rest))
            ).digest()[:ROW_BYTES]
            for name, split, status, content, rest in zip(
                names, splits, statuses, contents, packed, strict=True
            )
        ]
        self._numbers.extend(numbers)
        self._ids += b"".join(map(_hash_of_name, names))
        self._rows += b"".join(rows)

    def finished(self) -> Digests:
        """Return the digests of all records that were taken in."""
        return Digests(
            np.array(self._numbers, np.int64),
            np.frombuffer(bytes(self._ids), np.uint64),
            np.frombuffer(bytes(self._rows), np.uint64).reshape(-1, 2),
        )


def _stamp(status: os.stat_result | None) -> bytes:
    if status is None:
        return b""
    return b"%d %d %d %d" % (
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
    )  # fmt: skip


def hash_of_id(id: str) -> bytes:
    """Return 8 bytes of a hash of an id."""
    return _hash_of_name(id.encode())


def _hash_of_name(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=8).digest()
