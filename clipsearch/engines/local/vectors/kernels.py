"""What is asked of many codes or vectors in one call: by faiss once it is loaded, else by NumPy.

On one core faiss takes a quarter of NumPy's time to compare 200,000 codes of 512 bits, and two
thirds of it for the products of a thousand vectors here and there; it leaves the interpreter to
other threads meanwhile. Codes are counted alike by both, products to the last bits.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]
Slots = npt.NDArray[np.int64]

# What NumPy writes meanwhile stays in the processor's second cache.
_ROWS_AT_ONCE = 4096
# The counts of so many words fit a byte, and bytes are summed quickly.
_WORDS_IN_BYTE = 3


def differing(asked: Words, codes: Words) -> Counts:
    """Count the bits that differ between uint64[m, words] and uint64[n, words]: int32[m, n]."""
    library = _faiss()
    if library is None:
        return _differing_by_columns(asked, codes)
    found = np.empty((len(asked), len(codes)), np.int32)
    # Held by a name, since a pointer holds nothing.
    asked, codes = np.ascontiguousarray(asked), np.ascontiguousarray(codes)
    if found.size:
        library.hammings(
            library.swig_ptr(asked.view(np.uint8)),
            library.swig_ptr(codes.view(np.uint8)),
            len(asked),
            len(codes),
            8 * codes.shape[1],
            library.swig_ptr(found),
        )
    return found


def _differing_by_columns(asked: Words, codes: Words) -> Counts:
    """Count as `differing` does, in NumPy."""
    found = np.zeros((len(asked), len(codes)), np.int32)
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        columns = np.ascontiguousarray(codes[start : start + _ROWS_AT_ONCE].T)
        for code, counts in zip(asked, found[:, start : start + _ROWS_AT_ONCE], strict=True):
            _add_differing(code, columns, counts)
    return found


def _add_differing(code: Words, columns: Words, counts: Counts) -> None:
    """Add to int32[n] how many bits differ between uint64[words] and uint64[words, n]."""
    bits = np.empty(columns.shape[1], np.uint64)
    ones, few = np.empty(len(bits), np.uint8), np.empty(len(bits), np.uint8)
    for first in range(0, len(columns), _WORDS_IN_BYTE):
        np.bitwise_xor(columns[first], code[first], out=bits)
        np.bitwise_count(bits, out=few)
        for word in range(first + 1, min(first + _WORDS_IN_BYTE, len(columns))):
            np.bitwise_xor(columns[word], code[word], out=bits)
            np.add(few, np.bitwise_count(bits, out=ones), out=few)
        np.add(counts, few, out=counts)


def products_at(vectors: Vectors, places: Slots, vector: Vectors) -> Vectors:
    """Return the inner product of float32[d] and each of these rows of float32[n, d].

    It is the same for equal rows, wherever they stand. Raises IndexError where a row is not there.
    """
    if places.size and (int(places.min()) < 0 or int(places.max()) >= len(vectors)):
        raise IndexError(f"rows from 0 to {len(vectors) - 1}, not {places.min()}, {places.max()}")
    library = _faiss()
    found = np.empty(len(places), np.float32)
    if library is None:
        # Not BLAS, which sums a row otherwise where it stands elsewhere.
        return np.einsum("ij,j->i", vectors.take(places, axis=0), vector, out=found)
    if not found.size:
        return found
    # Held by a name, since a pointer holds nothing.
    vectors, vector = np.ascontiguousarray(vectors), np.ascontiguousarray(vector)
    places = np.ascontiguousarray(places)
    with _one_thread(library):
        library.fvec_inner_products_by_idx(
            library.swig_ptr(found),
            library.swig_ptr(vector),
            library.swig_ptr(vectors),
            library.swig_ptr(places),
            vectors.shape[1],
            1,
            len(places),
        )
    return found


@contextmanager
def _one_thread(library: Any) -> Iterator[None]:
    """Let faiss start no threads, which would only wait for the one that has a row to compare.

    The number is of the thread that calls, and torch's as well where both have one OpenMP.
    """
    threads = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(threads)


@cache
def load() -> Any | None:
    """Import faiss, and use it from now on; None where it is not installed.

    That takes as long as thirty comparisons of 200,000 codes by NumPy, so that a process which asks
    a single question does without it.
    """
    # Its OpenMP and torch's end a process that has both on macOS, where it may be for another tool.
    if sys.platform != "linux":
        return None
    # Not at the top, as above. A broken one raises what it likes.
    try:
        import faiss
    except Exception:
        return None
    return faiss


def _faiss() -> Any | None:
    return load() if load.cache_info().currsize else None
