"""Captions as the text tower reads them: token ids, cut at its limit. Imports numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from finetune.arrays import Int64


@dataclass(frozen=True, slots=True)
class TokenizedCaptions:
    """Token ids of all captions, one after the other.

    Attributes:
        tokens: int32[total].
        starts: int64[t + 1]; caption i is tokens[starts[i]:starts[i + 1]].
        pad_token_id: Fills shorter captions of a batch.
        pad_to: Length to which every batch is filled; None is the batch's longest caption.
        cut: Captions that were longer than the model takes.
    """

    tokens: npt.NDArray[np.int32]
    starts: Int64
    pad_token_id: int
    pad_to: int | None = None
    cut: int = 0

    def keys(self) -> Int64:
        """Return int64[t], equal for captions of equal tokens.

        The model cannot tell such captions apart.
        """
        numbers: dict[bytes, int] = {}
        bounds = (self.starts * self.tokens.itemsize).tolist()
        raw = self.tokens.tobytes()
        keys = [numbers.setdefault(raw[start:end], len(numbers)) for start, end in pairwise(bounds)]
        return np.array(keys, np.int64)

    def padded(self, captions: Int64) -> tuple[Int64, Int64]:
        """Return token ids and attention mask (1 is a token), int64[len(captions), longest]."""
        starts = self.starts[captions]
        lengths = self.starts[captions + 1] - starts
        width = int(lengths.max()) if self.pad_to is None else self.pad_to
        columns = np.arange(width)
        mask = columns < lengths[:, None]
        positions = np.where(mask, starts[:, None] + columns, 0)
        ids = np.where(mask, self.tokens[positions], self.pad_token_id)
        return ids.astype(np.int64), mask.astype(np.int64)


def tokenized(
    rows: Sequence[Sequence[int]], *, pad_token_id: int, pad_to: int | None = None, cut: int = 0
) -> TokenizedCaptions:
    """Return TokenizedCaptions from the token ids of each caption."""
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    flat = np.fromiter((token for row in rows for token in row), np.int32, int(starts[-1]))
    return TokenizedCaptions(flat, starts, pad_token_id, pad_to, cut)
