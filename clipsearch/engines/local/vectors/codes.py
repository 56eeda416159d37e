"""One bit a dimension: about how near vectors are, 64 bytes of each looked at instead of 2,048.

A vector's code are the signs of `rotation(x - centre)`; a query's distance to it is the number of
signs that differ from those of `rotation(q)`. The centre is about the mean of the index's vectors:
embeddings of one encoder lie in a narrow cone, and without it most signs would tell no more than
that. Of those that are near by signs alone, the signs are weighed by the query's own values in 16
steps, which tells three times as well who is nearest. Who is, is told by the vectors themselves.

After Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for
Approximate Nearest Neighbor Search", SIGMOD 2024 (arXiv:2405.12497).

In a file codes lie in pages of PAGE, one after another; behind them the CRC-32 of each, in as many
bytes as whole codes have, so that many pages are compared as if they were one table of codes.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors.kernels import Slots, Vectors, Words, differing

PAGE = 2048
_PAGE_SHIFT = PAGE.bit_length() - 1
WORD_BITS = 64
STEP_BITS = 4
_BITS = (1 << np.arange(STEP_BITS)).astype(np.uint8)
_WEIGHTS = (1 << np.arange(STEP_BITS)).astype(np.int32)
# Pages compared at once: what is counted meanwhile stays in the processor's second cache.
_PAGES_AT_ONCE = 32

Distances = npt.NDArray[np.uint16]


@lru_cache(maxsize=4)
def rotation(dimension: int) -> npt.NDArray[np.float32]:
    """Return an orthogonal, random float32[d, d], the same everywhere."""
    # The stream of RandomState never changes (NEP 19); of the newer generators it may.
    gaussian = np.random.RandomState(1).standard_normal((dimension, dimension))
    q, r = np.linalg.qr(gaussian)
    turned: npt.NDArray[np.float32] = (q * np.sign(np.diag(r))).astype(np.float32)
    turned.setflags(write=False)
    return turned


def words_of(dimension: int) -> int:
    """Return how many 64-bit words a code has."""
    return -(-dimension // WORD_BITS)


def page_rows(dimension: int) -> int:
    """Return how many codes a page has room for, checksums included."""
    return PAGE + -(-4 * PAGE // (8 * words_of(dimension)))


def page_bytes(dimension: int) -> int:
    """Return the bytes of a page, checksums included."""
    return page_rows(dimension) * 8 * words_of(dimension)


def page_bytes_in_columns(dimension: int) -> int:
    """Return the bytes of a page as earlier versions laid it out, checksums included."""
    return PAGE * (8 * words_of(dimension) + 4)


def encode(vectors: Vectors, centre: Vectors) -> Words:
    """Return the codes of float32[n, d]: uint64[n, words]."""
    return _packed((vectors - centre) @ rotation(vectors.shape[1]) > 0)


def sums_of(codes: Words) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each code."""
    return np.array([zlib.crc32(code) for code in codes], np.uint32)


def _packed(bits: npt.NDArray[np.bool_]) -> Words:
    padding = -bits.shape[1] % WORD_BITS
    if padding:
        bits = np.pad(bits, ((0, 0), (0, padding)))
    packed = np.packbits(bits, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True, slots=True)
class Question:
    """A query as codes are compared with it.

    Attributes:
        signs: uint64[words].
        planes: uint64[STEP_BITS + 1, words]: the bits of each value in steps, from the lowest on,
            and a code without any.
        step, low: A value is `low + step * its number of steps`.
    """

    signs: Words
    planes: Words
    step: float
    low: float

    @classmethod
    def of(cls, vector: Vectors) -> "Question":
        """Prepare the question that float32[d] asks."""
        turned = vector @ rotation(len(vector))
        largest = float(np.abs(turned).max()) or 1.0
        levels = (1 << STEP_BITS) - 1
        steps = np.rint((turned + largest) * (levels / (2 * largest))).astype(np.uint8)
        bits = np.zeros((STEP_BITS + 2, len(turned)), np.bool_)
        np.not_equal(steps & _BITS[:, None], 0, out=bits[:STEP_BITS])
        np.greater(turned, 0, out=bits[STEP_BITS + 1])
        packed = _packed(bits)
        return cls(packed[-1], packed[:-1], 2 * largest / levels, -largest)


class Codes:
    """The codes of a block of vectors, as they lie in its file."""

    def __init__(self, data: npt.NDArray[np.uint8], dimension: int) -> None:
        """Of whole pages, mapped or in memory."""
        words, size, rows = words_of(dimension), page_bytes(dimension), page_rows(dimension)
        pages = len(data) // size
        self._page_rows = rows
        self._rows: Words = data[: pages * size].view(np.uint64).reshape(-1, words)
        self._pages: Words = self._rows.reshape(pages, rows, words)[:, :PAGE]
        self._sums = np.ndarray((pages, PAGE), np.uint32, data.data, 8 * words * PAGE, (size, 4))

    @classmethod
    def empty(cls, count: int, dimension: int) -> "Codes":
        """Make empty codes in memory, for at least `count` vectors."""
        return cls(np.zeros(-(-count // PAGE) * page_bytes(dimension), np.uint8), dimension)

    @classmethod
    def from_columns(cls, data: npt.NDArray[np.uint8], dimension: int) -> "Codes":
        """Copy pages of an earlier version, where the first word of all codes came first."""
        words, size = words_of(dimension), page_bytes_in_columns(dimension)
        pages = len(data) // size
        columns: Words = np.ndarray(
            (pages, words, PAGE), np.uint64, data.data, 0, (size, 8 * PAGE, 8)
        )
        codes = cls.empty(pages * PAGE, dimension)
        codes._pages[:] = columns.transpose(0, 2, 1)
        codes._sums[:] = np.ndarray(
            (pages, PAGE), np.uint32, data.data, 8 * words * PAGE, (size, 4)
        )
        return codes

    def put(self, places: Slots, codes: Words) -> None:
        """Set the codes at these places, where the bytes may be written."""
        page, offset = np.divmod(places, PAGE)
        self._pages[page, offset] = codes
        self._sums[page, offset] = sums_of(codes)

    def are_whole(self) -> bool:
        """Return whether all codes are as they were written, or never were."""
        for codes, sums in zip(self._pages, self._sums, strict=True):
            changed = np.flatnonzero(sums_of(codes) != sums)
            if codes[changed].any() or sums[changed].any():
                return False
        return True

    def distances(self, question: Question, out: Distances) -> None:
        """Count the signs that differ, of as many codes as `out` has places."""
        count, rows = len(out), self._page_rows
        for first in range(0, -(-count // PAGE), _PAGES_AT_ONCE):
            part = self._rows[first * rows : (first + _PAGES_AT_ONCE) * rows]
            counted = differing(question.signs[None], part).reshape(-1, rows)[:, :PAGE]
            start = first * PAGE
            whole, left = divmod(min(count - start, counted.size), PAGE)
            end = start + whole * PAGE
            out[start:end].reshape(whole, PAGE)[:] = counted[:whole]
            if left:
                out[end : end + left] = counted[whole, :left]

    def estimates(self, question: Question, places: Slots) -> npt.NDArray[np.float32]:
        """Return a float32 a place that rises with the inner product, about linearly."""
        # Shifted, since a division takes the time of fetching a code.
        rows = places + (places >> _PAGE_SHIFT) * (self._page_rows - PAGE)
        counted = differing(question.planes, self._rows.take(rows, axis=0, mode="clip"))
        ones = counted[STEP_BITS]
        # Of a and b, the bits that both have are half of those of a, those of b, less what differs.
        steps = _WEIGHTS.sum() * ones - _WEIGHTS @ counted[:STEP_BITS]
        steps += int(_WEIGHTS @ np.bitwise_count(question.planes[:STEP_BITS]).sum(axis=1))
        found: npt.NDArray[np.float32] = steps.astype(np.float32)
        found *= np.float32(question.step / 2)
        found += np.float32(question.low) * ones
        return found
