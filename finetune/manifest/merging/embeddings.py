"""The ready-made embeddings of a manifest: in a .npy file beside it, or in a column of its own."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune.errors import ManifestError
from finetune.manifest.merging.paired_vectors import PairedVectors
from finetune.manifest.merging.spilled_vectors import SpilledVectors
from finetune.manifest.problems import LEFT_OUT, Problems

# So many times as many as are wanted are read rather than one after the other.
_MOST_READ = 4
_VALUE_BYTES = np.dtype(np.float32).itemsize


class Embeddings:
    """By the numbers of rows.

    Attributes:
        paired: Of the .npy file, which stand in the place of a column; None without one.
    """

    def __init__(self, paired: PairedVectors | None) -> None:
        self.paired = paired
        self._spilled: SpilledVectors | None = None
        self._dimension: int | None = None

    def why_not(self, embedding: bytes) -> str | None:
        """Return why an embedding cannot be kept beside those before; None where it can."""
        dimension = len(embedding) // _VALUE_BYTES
        if self._dimension is None:
            self._dimension = dimension
        if dimension == self._dimension:
            return None
        return f"the embedding has {dimension} values, the first one {self._dimension}"

    def keep(self, numbers: Sequence[int], embeddings: Sequence[bytes]) -> None:
        """Keep float32 values of a column as bytes; numbers ascend. Raises SpillError."""
        if self.paired is not None:
            return
        if self._spilled is None:
            self._spilled = SpilledVectors()
        self._spilled.put(numbers, embeddings)

    def row(self, number: int) -> npt.NDArray[np.float32]:
        """Return the embedding of a row that has one, float32[d], read only."""
        return self._held().row(number)

    def rows(self, numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return those of rows that have one, float32[n, d]; of rows close together at once."""
        wanted = np.array(numbers, np.int64)
        first = int(wanted.min())
        count = int(wanted.max()) + 1 - first
        if count > _MOST_READ * len(wanted):
            return np.stack([self.row(number) for number in numbers])
        block = self._held().block(first, count)
        if count == len(wanted) and (np.diff(wanted) == 1).all():
            return block
        chosen: npt.NDArray[np.float32] = block[wanted - first]
        return chosen

    def content_of(self, number: int) -> bytes:
        """Return the sha256 of an embedding as float32."""
        return hashlib.sha256(self.row(number).data).digest()

    def check_count(self, rows: int, problems: Problems) -> None:
        """Raise ManifestError unless there is a vector for each of so many rows."""
        if self.paired is None:
            return
        vectors = len(self.paired)
        # A bad row at the end has a vector too, and no number that we know of.
        unread = sum(problems.counts.get(kind, 0) for kind in ("bad row", "not utf-8"))
        unread += problems.notes.get(LEFT_OUT, 0)
        if not rows <= vectors <= rows + unread:
            raise ManifestError(
                f"the .npy file beside the manifest holds {vectors:,} vectors for {rows:,} rows; "
                "write one vector for each row, in the manifest's order"
            )

    def close(self) -> None:
        """Free the temporary disk space."""
        if self._spilled is not None:
            self._spilled.close()

    def _held(self) -> PairedVectors | SpilledVectors:
        held = self.paired or self._spilled
        assert held is not None
        return held
