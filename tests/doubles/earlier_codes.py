"""Codes as the versions before laid them out: a column of words after another, then checksums."""

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors.codes import PAGE


def in_columns(codes: npt.NDArray[np.uint64]) -> bytes:
    """Write uint64[n, words] in pages of PAGE, the last one padded with codes of 0."""
    count = len(codes)
    padded = np.pad(codes, ((0, -count % PAGE), (0, 0)))
    sums = [zlib.crc32(code) if place < count else 0 for place, code in enumerate(padded)]
    kept: npt.NDArray[Any] = np.array(sums, np.uint32)
    return b"".join(
        padded[start : start + PAGE].T.tobytes() + kept[start : start + PAGE].tobytes()
        for start in range(0, len(padded), PAGE)
    )
