"""Embeddings of a manifest's own column, in a temporary file without a name."""

import os
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class SpillError(Exception):
    """The temporary folder cannot hold the embeddings."""


class SpilledVectors:
    """float32[d] by the number of their row; all of one dimension.

    The file lies where SQLite's temporary files do.
    """

    def __init__(self) -> None:
        folder = os.environ.get("SQLITE_TMPDIR")
        # Not buffered: what was put is read back by its place.
        try:
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
        except OSError as error:
            raise SpillError(str(error)) from error
        self._row = 0

    def put(self, numbers: Sequence[int], vectors: Sequence[bytes]) -> None:
        """Keep the bytes of vectors, whose numbers ascend. Raises SpillError."""
        self._row = len(vectors[0])
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            self._write(numbers[0], b"".join(vectors))
            return
        for number, vector in zip(numbers, vectors, strict=True):
            self._write(number, vector)

    def row(self, number: int) -> npt.NDArray[np.float32]:
        """Return a vector, float32[d], read only."""
        found: npt.NDArray[np.float32] = self._read(number, 1)[0]
        return found

    def block(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """Return vectors that follow each other, float32[n, d], read only."""
        return self._read(first, count)

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()

    def _write(self, number: int, data: bytes) -> None:
        view, place = memoryview(data), number * self._row
        while view:
            try:
                written = os.pwrite(self._file.fileno(), view, place)
            except OSError as error:
                raise SpillError(str(error)) from error
            view, place = view[written:], place + written

    def _read(self, number: int, count: int) -> npt.NDArray[np.float32]:
        data = bytearray(count * self._row)
        view, place = memoryview(data), number * self._row
        while view:
            read = os.preadv(self._file.fileno(), [view], place)
            if not read:
                raise EOFError("the temporary file of embeddings was cut")
            view, place = view[read:], place + read
        found = np.frombuffer(data, np.float32).reshape(count, -1)
        found.flags.writeable = False
        return found
