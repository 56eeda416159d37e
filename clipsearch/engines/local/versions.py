"""The versions of an index on the disk, each loaded with no more than what changed since the last.

A segment whose file is gone or cut is laid out anew in memory, from the documents in the store: it
holds nothing that these do not. One with other bytes than were written is refused by name.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.engines.local.collection import Collection, Ints, Part
from clipsearch.engines.local.segments.sections import BrokenSegmentError, Sections
from clipsearch.engines.local.segments.segment import Row, Segment, sections_of
from clipsearch.engines.local.store import SegmentFile, State, Store, Stored
from clipsearch.engines.local.vectors.blocks import VectorFiles
from finetune.errors import EngineError

_ATTEMPTS = 8
_DOCUMENTS_AT_ONCE = 2000
LOST = -1


class Versions:
    """Loads the version that the store has, one after another. One thread at a time."""

    def __init__(self, folder: Path, store: Store, dimension: int, language: str) -> None:
        self._folder = folder
        self._store = store
        self._language = language
        self._files = VectorFiles(folder, dimension)
        self._segments: dict[int, Segment] = {}
        self._gone: dict[int, tuple[Ints, Ints]] = {}
        self._held: Collection | None = None
        self.state: State | None = None

    def current(self) -> Collection:
        """Return the version of the last commit. Raises EngineError."""
        for attempt in range(_ATTEMPTS):
            if self._held is not None and self._held.version == self._store.commits():
                return self._held
            state = self._store.state()
            try:
                self._held, self.state = self._loaded(state), state
                return self._held
            except (EngineError, _ChangedError):
                # A merge may have removed the files of a version while it was loaded.
                if attempt == _ATTEMPTS - 1 or self._store.commits() == state.commits:
                    raise
        raise EngineError(f"{self._folder}: changes faster than it can be read; try again")

    def lost(self, state: State) -> list[int]:
        """Return the numbers of segments whose files are gone, cut, or cannot be read."""
        return [each.number for each in state.segments if self._opened(each) is None]

    def _loaded(self, state: State) -> Collection:
        found = [(each, self._opened(each)) for each in state.segments]
        if any(segment is None for _, segment in found):
            if self._store.commits() != state.commits:
                raise _ChangedError
            found = [(each, segment) for each, segment in found if segment is not None]
        parts = [self._part(each.number, segment, state) for each, segment in found if segment]
        vectors = self._files.held(state.blocks, state.centre)
        if len(parts) < len(state.segments):
            parts += self._laid_out_anew(parts)
        self._segments = {
            part.segment.number: part.segment for part in parts if part.segment.number >= 0
        }
        used = {number for numbers in state.gone.values() for number in numbers}
        self._gone = {number: each for number, each in self._gone.items() if number in used}
        return Collection.laid_out(state.commits, parts, vectors, state.depths, self._held)

    def _opened(self, file: SegmentFile) -> Segment | None:
        known = self._segments.get(file.number)
        if known is not None:
            return known
        path = file.path(self._folder)
        try:
            return Segment(Sections.open(path, file.size), file.number)
        except BrokenSegmentError:
            try:
                if path.stat().st_size == file.size:
                    raise
            except OSError:
                pass
            return None

    def _part(self, number: int, segment: Segment, state: State) -> Part:
        deletions = [self._deletion(each) for each in state.gone.get(number, ())]
        nothing = np.zeros(0, np.int32)
        gone = np.concatenate([rows for rows, _ in deletions]) if deletions else nothing
        terms = np.concatenate([held for _, held in deletions]) if deletions else nothing
        moved = state.moved.get(number, 0)
        slots = segment.slots.astype(np.int32, copy=False)
        if moved:
            known = self._held_part(segment, moved)
            slots = self._moved(moved) if known is None else known.slots
        return Part(segment, gone, terms, slots, moved)

    def _held_part(self, segment: Segment, moved: int) -> Part | None:
        parts = () if self._held is None else self._held.parts
        return next((p for p in parts if p.segment is segment and p.moved == moved), None)

    def _deletion(self, number: int) -> tuple[Ints, Ints]:
        if number not in self._gone:
            found = self._store.gone(number)
            if found is None:
                raise _ChangedError
            self._gone[number] = found
        return self._gone[number]

    def _moved(self, number: int) -> Ints:
        found = self._store.moved(number)
        if found is None:
            raise _ChangedError
        return found

    def _laid_out_anew(self, parts: Sequence[Part]) -> list[Part]:
        """Lay out a segment in memory of the documents that none of `parts` holds."""
        held = [part.segment.keys[part.kept] for part in parts]
        known = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
        rows: list[Row] = []
        last = -1
        while found := self._store.all_after(last, _DOCUMENTS_AT_ONCE):
            last = found[-1].key
            keys = np.array([each.key for each in found])
            at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
            is_known = known[at] == keys if len(known) else np.zeros(len(keys), bool)
            rows += [
                row_of(each)
                for each, skipped in zip(found, is_known.tolist(), strict=True)
                if not skipped
            ]
        return [Part.of(Segment(sections_of(rows, self._language), LOST))] if rows else []


class _ChangedError(Exception):
    """The index was changed while it was read."""


def row_of(stored: Stored) -> Row:
    """Return the document as it stands in a segment."""
    return Row(stored.document(), stored.key, stored.slot)
