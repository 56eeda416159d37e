"""One bit a dimension: about how near vectors are, 64 bytes of each looked at instead of 2,048.

A vector's code are the signs of `rotation(x - centre)`; a query's distance to it is the number of
signs that differ from those of `rotation(q)`. The centre is about the mean of the index's vectors:
embeddings of one encoder lie in a narrow cone, and without it most signs would tell no more than
that. Of those that are near by signs alone, the signs are weighed by the query's own values in 16
steps, which tells three times as well who is nearest. Who is, is told by the vectors themselves.

After Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for
Approximate Nearest Neighbor Search", SIGMOD 2024 (arXiv:2405.12497).

In a file codes lie in pages of PAGE: the first 64 signs of all, the next 64 of all, and so on, so
that a page is compared by whole columns; behind them the CRC-32 of each code.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 2048
_PAGE_SHIFT = PAGE.bit_length() - 1
WORD_BITS = 64
STEP_BITS = 4
_BITS = (1 << np.arange(STEP_BITS)).astype(np.uint8)
# Pages compared at once: what is written meanwhile stays in the processor's second cache.
_PAGES_AT_ONCE = 16
_WORDS_IN_BYTE = 3

Vectors = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]
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


def page_bytes(dimension: int) -> int:
    """Return the bytes of a page, checksums included."""
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
        planes: uint64[STEP_BITS, words]: the bits of each value in steps, from the lowest on.
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
        bits = np.empty((STEP_BITS + 1, len(turned)), np.bool_)
        np.not_equal(steps & _BITS[:, None], 0, out=bits[:STEP_BITS])
        np.greater(turned, 0, out=bits[STEP_BITS])
        packed = _packed(bits)
        return cls(packed[STEP_BITS], packed[:STEP_BITS], 2 * largest / levels, -largest)


class Codes:
    """The codes of a block of vectors, as they lie in its file."""

    def __init__(self, data: npt.NDArray[np.uint8], dimension: int) -> None:
        """Of whole pages, mapped or in memory."""
        words, size = words_of(dimension), page_bytes(dimension)
        pages = len(data) // size
        shape, strides = (pages, words, PAGE), (size, 8 * PAGE, 8)
        self._pages: Words = np.ndarray(shape, np.uint64, data.data, 0, strides)
        self._sums = np.ndarray((pages, PAGE), np.uint32, data.data, 8 * words * PAGE, (size, 4))
        self._flat: Words = data[: pages * size].view(np.uint64)

    @classmethod
    def empty(cls, count: int, dimension: int) -> "Codes":
        """Make empty codes in memory, for at least `count` vectors."""
        return cls(np.zeros(-(-count // PAGE) * page_bytes(dimension), np.uint8), dimension)

    def put(self, places: Slots, codes: Words) -> None:
        """Set the codes at these places, where the bytes may be written."""
        page, offset = np.divmod(places, PAGE)
        self._pages[page, :, offset] = codes
        self._sums[page, offset] = sums_of(codes)

    def are_whole(self) -> bool:
        """Return whether all codes are as they were written, or never were."""
        for codes, sums in zip(self._pages.transpose(0, 2, 1), self._sums, strict=True):
            changed = np.flatnonzero(sums_of(np.ascontiguousarray(codes)) != sums)
            if codes[changed].any() or sums[changed].any():
                return False
        return True

    def distances(self, question: Question, out: Distances) -> None:
        """Count the signs that differ, of as many codes as `out` has places."""
        count, words = len(out), len(question.signs)
        ends_of_bytes = {*range(_WORDS_IN_BYTE - 1, words, _WORDS_IN_BYTE), words - 1}
        shape = (0, PAGE)
        xor, count_ones, add = np.bitwise_xor, np.bitwise_count, np.add
        for first in range(0, -(-count // PAGE), _PAGES_AT_ONCE):
            part = self._pages[first : first + _PAGES_AT_ONCE]
            if len(part) != shape[0]:
                shape = (len(part), PAGE)
                bits, ones = np.empty(shape, np.uint64), np.empty(shape, np.uint8)
                few, total = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
            for word, signs in enumerate(question.signs):
                xor(part[:, word], signs, out=bits)
                # The sum of three words fits a byte, and bytes are summed twice as quickly.
                if word % _WORDS_IN_BYTE == 0:
                    count_ones(bits, out=few)
                else:
                    add(few, count_ones(bits, out=ones), out=few)
                if word in ends_of_bytes:
                    if word < _WORDS_IN_BYTE:
                        np.copyto(total, few)
                    else:
                        add(total, few, out=total)
            start = first * PAGE
            out[start : start + total.size] = total.reshape(-1)[: count - start]

    def estimates(self, question: Question, places: Slots) -> npt.NDArray[np.float32]:
        """Return a float32 a place that rises with the inner product, about linearly."""
        codes = self._gathered(places)
        ones = _summed(np.bitwise_count(codes))
        both, counted = np.empty_like(codes), np.empty(codes.shape, np.uint8)
        steps: npt.NDArray[Any] = np.zeros(len(places), _steps_kind(len(codes)))
        for low in range(STEP_BITS - 2, -1, -2):
            # Of two bits of each step a byte holds what a word counts: at most 3 WORD_BITS.
            np.bitwise_and(codes, question.planes[low + 1][:, None], out=both)
            two = np.bitwise_count(both)
            two += two
            np.bitwise_and(codes, question.planes[low][:, None], out=both)
            two += np.bitwise_count(both, out=counted)
            steps <<= 2
            steps += _summed(two)
        found: npt.NDArray[np.float32] = steps.astype(np.float32)
        found *= np.float32(question.step)
        found += np.float32(question.low) * ones
        return found

    def _gathered(self, places: Slots) -> Words:
        """Return the codes at these places, uint64[words, n]."""
        # Shifted, since a division takes the time of fetching a word.
        at = (places >> _PAGE_SHIFT) * (self._pages.strides[0] // 8) + (places & (PAGE - 1))
        codes = np.empty((self._pages.shape[1], len(places)), np.uint64)
        for word, found in enumerate(codes):
            self._flat[word * PAGE :].take(at, out=found, mode="clip")
        return codes


def _steps_kind(words: int) -> type[np.unsignedinteger]:
    most = WORD_BITS * words * ((1 << STEP_BITS) - 1)
    return np.uint16 if most < 1 << 16 else np.uint32


def _summed(counts: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Sum up uint8[words, n], of at most 340 words, by words: in as few calls as there may be."""
    total: npt.NDArray[Any] = counts
    while len(total) > 1:
        half = len(total) // 2
        together = np.add(total[:half], total[half : 2 * half], dtype=np.uint16)
        if len(total) % 2:
            together[0] += total[-1]
        total = together
    summed: npt.NDArray[np.uint16] = total[0].astype(np.uint16, copy=False)
    return summed
