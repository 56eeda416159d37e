"""Vectors by slot, in files of BLOCK: written once, mapped, and given back when they are free.

    vectors-NUMBER.f32      float32[used, d]
    codes-NUMBER.signs      their codes, in pages (`codes`)

A slot is a place among all vectors of the index: `place of its block * BLOCK + place in it`. A
vector never changes while its document has it. The slot of one that is gone is written again by a
later commit; whoever still reads the version before finds out that it is gone (`engine`).

Earlier versions laid codes out otherwise, in codes-NUMBER.bits: those are copied into memory, until
the next feed writes them anew.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors.codes import (
    PAGE,
    Codes,
    encode,
    page_bytes,
    page_bytes_in_columns,
)
from clipsearch.engines.local.vectors.kernels import Slots, Vectors, products_at
from finetune.errors import EngineError

BLOCK = 65_536
_ENCODED_AT_ONCE = 8192
MOST_PIECES = 16
"""Of a block, before its file is mapped anew as one."""


@dataclass(frozen=True, slots=True)
class Block:
    """A file of vectors and one of codes.

    Attributes:
        place: Its slots begin at `place * BLOCK`.
        number: In the name of the file of vectors; never given twice.
        codes: In the name of the file of codes; never given twice.
        used: Slots that were ever written.
    """

    place: int
    number: int
    codes: int
    used: int

    @property
    def first(self) -> int:
        """Its first slot."""
        return self.place * BLOCK


def vectors_path(folder: Path, number: int) -> Path:
    """Return the path of the file of vectors of this number."""
    return folder / f"vectors-{number:06}.f32"


def codes_path(folder: Path, number: int) -> Path:
    """Return the path of the file of codes of this number."""
    return folder / f"codes-{number:06}.signs"


def earlier_codes(folder: Path, block: Block, dimension: int) -> Path | None:
    """Return the file of codes as earlier versions laid them out, where there is no other.

    None where it is gone or cut.
    """
    if not lacks_codes(folder, block, dimension):
        return None
    path = folder / f"codes-{block.codes:06}.bits"
    size = -(-block.used // PAGE) * page_bytes_in_columns(dimension)
    return path if _has_bytes(path, size) else None


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """A block as it is read: its vectors and their codes, at the slot `first` and after.

    Attributes:
        first: Its first slot.
        pieces: float32[n, d] each, one after another: what the file had when it was mapped first,
            and what came later.
        codes: Of all of them.
    """

    first: int
    pieces: tuple[Vectors, ...]
    codes: Codes

    @property
    def count(self) -> int:
        """Slots that were ever written."""
        return sum(map(len, self.pieces))

    @property
    def end(self) -> int:
        """After its last slot that was written."""
        return self.first + self.count

    def runs(self) -> Iterator[tuple[int, Vectors]]:
        """Yield (first slot, vectors float32[n, d]) of each piece."""
        start = self.first
        for piece in self.pieces:
            yield start, piece
            start += len(piece)

    def at(self, slots: Slots) -> Vectors:
        """Return the vectors of these slots, all of which it has, float32[n, d]."""
        if len(self.pieces) == 1:
            return self.pieces[0].take(slots - self.first, axis=0)
        found = np.empty((len(slots), self.pieces[0].shape[1]), np.float32)
        for start, piece in self.runs():
            inside = np.flatnonzero((slots >= start) & (slots < start + len(piece)))
            found[inside] = piece.take(slots[inside] - start, axis=0)
        return found

    def products_at(self, slots: Slots, vector: Vectors) -> Vectors:
        """Return the products of these slots, all of which it has, and float32[d]."""
        if len(self.pieces) == 1:
            return products_at(self.pieces[0], slots - self.first, vector)
        found = np.empty(len(slots), np.float32)
        for start, piece in self.runs():
            inside = np.flatnonzero((slots >= start) & (slots < start + len(piece)))
            found[inside] = products_at(piece, slots[inside] - start, vector)
        return found


class VectorStore:
    """The vectors of one version of the index, by slot."""

    def __init__(self, blocks: Sequence[HeldBlock], dimension: int, centre: Vectors) -> None:
        self.blocks = tuple(blocks)
        self.dimension = dimension
        self.centre = centre
        self.size = max((block.end for block in blocks), default=0)

    @classmethod
    def of(cls, vectors: Vectors) -> "VectorStore":
        """Make one in memory of float32[n, d], in slots from 0 on."""
        centre = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], np.float32)
        blocks = []
        for first in range(0, len(vectors), BLOCK):
            part = vectors[first : first + BLOCK]
            blocks.append(HeldBlock(first, (part,), codes_of(part, centre)))
        return cls(blocks, vectors.shape[1], centre)

    def at(self, slot: int) -> Vectors:
        """Return the vector of a slot, float32[d]."""
        for block in self.blocks:
            for start, vectors in block.runs():
                if start <= slot < start + len(vectors):
                    found: Vectors = vectors[slot - start]
                    return found
        raise EngineError(f"no vector is in slot {slot}")

    def gathered(self, slots: Slots) -> Vectors:
        """Return the vectors of these slots, float32[n, d]."""
        found = np.empty((len(slots), self.dimension), np.float32)
        for block, at in self.by_block(slots):
            found[at] = block.at(slots[at])
        return found

    def cosines(self, vector: Vectors, slots: Slots) -> Vectors:
        """Return the vector's cosines to these slots, float32[n]; equal ones for equal vectors."""
        found = np.empty(len(slots), np.float32)
        for block, at in self.by_block(slots):
            found[at] = block.products_at(slots[at], vector)
        return found

    def products(self, vector: Vectors, out: Vectors) -> None:
        """Fill float32[size] with the cosine of every slot, to about 1e-6; the rest is left."""
        for block in self.blocks:
            for start, vectors in block.runs():
                np.dot(vectors, vector, out=out[start : start + len(vectors)])

    def by_block(self, slots: Slots) -> list[tuple[HeldBlock, Slots | slice]]:
        """Return each block that has any of the slots, with the places of these in `slots`."""
        if len(self.blocks) == 1 and self.blocks[0].first == 0:
            return [(self.blocks[0], slice(None))] if len(slots) else []
        if (slots[1:] >= slots[:-1]).all():
            edges = np.searchsorted(slots, [(block.first, block.end) for block in self.blocks])
            return [
                (block, slice(start, end))
                for block, (start, end) in zip(self.blocks, edges.tolist(), strict=True)
                if start < end
            ]
        places = slots // BLOCK
        found: list[tuple[HeldBlock, Slots | slice]] = []
        for block in self.blocks:
            at = np.flatnonzero(places == block.first // BLOCK)
            if len(at):
                found.append((block, at))
        return found


class VectorFiles:
    """Maps the files of blocks, of one that has grown only what came.

    Mapped anew, every page would have to be found again by the queries that come next.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder = folder
        self._dimension = dimension
        self._vectors: dict[int, tuple[Vectors, ...]] = {}
        self._codes: dict[int, tuple[int, Codes]] = {}
        # Of earlier files, by the number of a file that is not there yet.
        self._copies: dict[int, tuple[int, Codes]] = {}

    def held(self, blocks: Sequence[Block], centre: Vectors) -> VectorStore:
        """Open what lies in these blocks. Raises EngineError, naming the file, where one is cut."""
        held = []
        for block in blocks:
            if block.used:
                vectors = self._of_vectors(block)
                codes = self._of_codes(block, vectors, centre)
                held.append(HeldBlock(block.first, vectors, codes))
        self._vectors = {
            number: each
            for number, each in self._vectors.items()
            if any(block.number == number for block in blocks)
        }
        self._codes = {
            number: each
            for number, each in self._codes.items()
            if any(block.codes == number for block in blocks)
        }
        self._copies = {
            number: each
            for number, each in self._copies.items()
            if number not in self._codes and any(block.codes == number for block in blocks)
        }
        return VectorStore(held, self._dimension, centre)

    def _of_vectors(self, block: Block) -> tuple[Vectors, ...]:
        pieces = self._vectors.get(block.number, ())
        mapped = sum(map(len, pieces))
        if mapped < block.used:
            if len(pieces) == MOST_PIECES:
                pieces, mapped = (), 0
            row = 4 * self._dimension
            path = vectors_path(self._folder, block.number)
            raw = _mapped(path, block.used * row, mapped * row)
            vectors = raw[: (block.used - mapped) * row].view(np.float32)
            vectors = vectors.reshape(-1, self._dimension)
            pieces = self._vectors[block.number] = (*pieces, vectors)
        used, left = [], block.used
        for piece in pieces:
            if left > 0:
                used.append(piece[:left])
            left -= len(piece)
        return tuple(used)

    def _of_codes(self, block: Block, vectors: tuple[Vectors, ...], centre: Vectors) -> Codes:
        """Return the codes of the file, worked out anew where that is gone or cut."""
        pages = -(-block.used // PAGE)
        known = self._codes.get(block.codes)
        if known is None or known[0] < pages:
            if lacks_codes(self._folder, block, self._dimension):
                return self._without_file(block, vectors, centre)
            size = pages * page_bytes(self._dimension)
            raw = _mapped(codes_path(self._folder, block.codes), size)
            known = self._codes[block.codes] = (pages, Codes(raw[:size], self._dimension))
        return known[1]

    def _without_file(self, block: Block, vectors: tuple[Vectors, ...], centre: Vectors) -> Codes:
        pages = -(-block.used // PAGE)
        known = self._copies.get(block.codes)
        if known is not None and known[0] >= pages:
            return known[1]
        earlier = earlier_codes(self._folder, block, self._dimension)
        if earlier is None:
            return codes_of(np.concatenate(vectors), centre)
        raw = _mapped(earlier, pages * page_bytes_in_columns(self._dimension))
        codes = Codes.from_columns(raw, self._dimension)
        self._copies[block.codes] = (pages, codes)
        return codes


def lacks_codes(folder: Path, block: Block, dimension: int) -> bool:
    """Return whether the file of codes is gone or cut."""
    size = -(-block.used // PAGE) * page_bytes(dimension)
    return not _has_bytes(codes_path(folder, block.codes), size)


def _has_bytes(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size >= size
    except FileNotFoundError:
        return False


def codes_of(vectors: Vectors, centre: Vectors) -> Codes:
    """Return the codes of float32[n, d], in memory."""
    codes = Codes.empty(len(vectors), vectors.shape[1])
    for start in range(0, len(vectors), _ENCODED_AT_ONCE):
        part = vectors[start : start + _ENCODED_AT_ONCE]
        codes.put(np.arange(start, start + len(part)), encode(part, centre))
    return codes


def _mapped(path: Path, size: int, start: int = 0) -> npt.NDArray[np.uint8]:
    """Map the bytes of a file from `start` on. Raises EngineError where it has not `size` bytes."""
    try:
        if path.stat().st_size < size:
            raise EngineError(
                f"{path}: is cut short; feed a new index from the manifest, and then remove this"
                f" one"
            )
        return np.asarray(np.memmap(path, np.uint8, mode="r", offset=start))
    except FileNotFoundError as error:
        raise EngineError(
            f"{path}: is missing; feed a new index from the manifest, and then remove this one"
        ) from error


def write_vectors(folder: Path, block: Block, places: Slots, vectors: Vectors) -> None:
    """Write float32[n, d] at these places of the block, and flush them to the disk."""
    row = vectors.shape[1] * 4
    data = np.ascontiguousarray(vectors, np.float32)
    with _opened(vectors_path(folder, block.number)) as file:
        for start, end in _runs(places):
            file.seek(int(places[start]) * row)
            file.write(data[start:end].data.cast("B"))
        _flushed(file)


def write_codes(
    folder: Path, block: Block, places: Slots, vectors: Vectors, centre: Vectors
) -> None:
    """Write the codes of float32[n, d] at these places of the block, and flush them."""
    dimension = vectors.shape[1]
    size = page_bytes(dimension)
    codes = encode(vectors, centre)
    with _opened(codes_path(folder, block.codes)) as file:
        for page in np.unique(places // PAGE).tolist():
            at = np.flatnonzero(places // PAGE == page)
            file.seek(page * size)
            data = np.frombuffer(file.read(size).ljust(size, b"\0"), np.uint8).copy()
            Codes(data, dimension).put(places[at] - page * PAGE, codes[at])
            file.seek(page * size)
            file.write(data.data)
        _flushed(file)


def _opened(path: Path) -> BinaryIO:
    return path.open("r+b" if path.exists() else "w+b")


def _flushed(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _runs(places: Slots) -> list[tuple[int, int]]:
    """Return where runs of places, one after another, begin and end."""
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    edges = [0, *cuts.tolist(), len(places)]
    return [(start, end) for start, end in itertools.pairwise(edges) if end > start]
