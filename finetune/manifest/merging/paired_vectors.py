"""Ready-made vectors in a .npy file beside the manifest, read a block at a time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.errors import ManifestError

BLOCK_BYTES = 8 << 20


class PairedVectors:
    """The rows of `name.npy` beside the file `name.csv`, quick in their order.

    Only a block is held in memory, and none is mapped.
    """

    def __init__(self, path: Path, vectors: npt.NDArray[np.floating]) -> None:
        self._path = path
        self._mapped = vectors
        row_bytes = max(1, vectors.shape[1] * max(vectors.itemsize, 4))
        self._rows_at_once = max(1, BLOCK_BYTES // row_bytes)
        self._start = 0
        self._block = np.empty((0, vectors.shape[1]), np.float32)

    @classmethod
    def beside(cls, manifest: Path) -> "PairedVectors | None":
        """Open those of a manifest; None without any. Raises ManifestError for a damaged file."""
        npy = manifest.with_suffix(".npy") if manifest.is_file() else None
        return cls.of(npy) if npy is not None and npy.is_file() else None

    @classmethod
    def of(cls, npy: Path) -> "PairedVectors":
        """Open a file of vectors. Raises ManifestError for a damaged one."""
        try:
            vectors = np.load(npy, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ManifestError(f"{npy}: damaged, no valid npy file: {error}") from error
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
            shape = (
                f"{vectors.dtype}{list(vectors.shape)}" if isinstance(vectors, np.ndarray) else npy
            )
            raise ManifestError(
                f"{npy}: holds {shape}; needed are floats of shape [rows, dimension]"
            )
        return cls(npy, vectors)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._mapped)

    def row(self, number: int) -> npt.NDArray[np.float32]:
        """Return a row, float32[d], read only."""
        if not self._start <= number < self._start + len(self._block):
            self._start = number - number % self._rows_at_once
            self._block = self._read(self._start, self._rows_at_once)
            self._block.flags.writeable = False
        row: npt.NDArray[np.float32] = self._block[number - self._start]
        return row

    def block(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """Return rows that follow each other, float32[n, d]."""
        return self._read(first, count)

    def _read(self, start: int, most: int) -> npt.NDArray[np.float32]:
        mapped = self._mapped
        count = min(most, len(mapped) - start)
        if not isinstance(mapped, np.memmap) or not mapped.flags.c_contiguous:
            return np.array(mapped[start : start + count], np.float32)
        width = mapped.shape[1]
        # Mapped pages would count as memory of the process, all of them in the end.
        values = np.fromfile(
            self._path,
            mapped.dtype,
            count * width,
            offset=mapped.offset + start * width * mapped.itemsize,
        )
        if values.size < count * width:
            raise ManifestError(f"{self._path}: was cut while it was read")
        return values.reshape(count, width).astype(np.float32, copy=False)
