"""What the end of a feed does, so that the index stays quick and small whatever was fed.

Each step is a commit of its own, and costs what was changed, now and then with what it joins:

1. Segments of about one size are merged (`due`): each document is written about as often as the
   index is larger than SMALL by factors of FACTOR.
2. Files of vectors with many free slots are given up, and their vectors move to free slots.
3. The centre of the codes, and how deep they are looked at, are measured once the index has grown
   by half or has as many new vectors.
4. What was written is read back from the disk.
"""

import contextlib
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.collection import NOBODY, Collection, Part
from clipsearch.engines.local.segments.merging import Source, merged
from clipsearch.engines.local.segments.sections import Sections, write_sections
from clipsearch.engines.local.store import (
    SegmentFile,
    State,
    Store,
    clear_errors,
    depths_as_text,
    put_block,
    put_facts,
    segment_path,
)
from clipsearch.engines.local.vectors.blocks import (
    BLOCK,
    Block,
    VectorStore,
    codes_path,
    lacks_codes,
    vectors_path,
    write_codes,
    write_vectors,
)
from clipsearch.engines.local.vectors.depth import measure
from clipsearch.engines.local.versions import LOST, Versions
from clipsearch.engines.local.words.written import Captions, written_words
from clipsearch.engines.local.writing.letting_go import let_go
from clipsearch.engines.local.writing.placing import Placing
from finetune.errors import EngineError

SMALL = 2048
"""Rows of segments that are merged at every end of a feed: at most so many are written again."""
FACTOR = 4
MOST_SEGMENTS = 24
"""So many, and a long feed merges while it is under way."""
MOST_GONE = 0.25
"""Of a segment's rows that are gone, and it is written anew."""
MOST_DELETIONS = 16
"""Of one segment, and they are joined."""
MOST_FREE = 0.07
"""Of all slots, and files of vectors are given up."""
LEAST_FREE = 64
LEAST_FOR_CODES = 8192
"""Below so many documents every vector is compared."""
MOST_DRIFT = 0.05
"""Of the centre from the mean, in the vectors' variance about that, and codes are made anew."""
SAMPLE = 8192
VECTORS_AT_ONCE = 8192

_VECTORS = re.compile(r"vectors-(?P<number>[0-9]{6,})\.f32")
_CODES = re.compile(r"codes-(?P<number>[0-9]{6,})\.signs")
_EARLIER_CODES = re.compile(r"codes-(?P<number>[0-9]{6,})\.bits")
_SEGMENT = re.compile(r"segment-(?P<number>[0-9]{6,})\.seg")


class Upkeep:
    """The steps, for the one that holds the lock of the index."""

    def __init__(self, folder: Path, store: Store, versions: Versions) -> None:
        self._folder = folder
        self._store = store
        self._versions = versions

    def is_whole(self, state: State) -> bool:
        """Return whether every file is there that can be laid out anew, and none is cut."""
        return not self._versions.lost(state) and not self._without_codes(state)

    def repair(self) -> None:
        """Write what was laid out anew in memory, since its file is gone or cut."""
        collection, state = self._now()
        for block in self._without_codes(state):
            _encode_anew(self._folder, block, collection.vectors, state.centre)
        lost = self._versions.lost(state)
        if not lost:
            return
        parts = [part for part in collection.parts if part.segment.number == LOST]
        self._replace_segments(lost, parts, state)

    def finish(self, written: Mapping[int, int]) -> None:
        """Take all steps.

        `written` are the slots that the feed wrote, and the CRC-32 of each vector.

        Raises EngineError where the disk is full, or gives back something else than was written;
        all documents are kept.
        """
        with clear_errors(self._folder):
            before = {each.number for each in self._now()[1].segments}
            self.merge()
            self._join_deletions()
            self._read_back(written)
            self._give_up_blocks()
            self._measure()
            _, state = self._now()
            self._check([each for each in state.segments if each.number not in before])
            if state.finished != state.commits:
                with self._store.writing() as connection:
                    put_facts(connection, finished=state.commits + 1)
            self.remove_strays()

    def merge(self, most: int = 0) -> None:
        """Merge segments until none is due; only where there are more than `most`."""
        while True:
            collection, state = self._now()
            parts = due(collection.parts) if len(collection.parts) > most else []
            if not parts:
                return
            self._replace_segments([part.segment.number for part in parts], parts, state)

    def remove_strays(self) -> None:
        """Remove files that the index does not name: a merge is done with them, or a feed died."""
        _, state = self._now()
        for path in stray_files(self._folder, state):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _without_codes(self, state: State) -> list[Block]:
        dimension = len(state.centre)
        return [block for block in state.blocks if lacks_codes(self._folder, block, dimension)]

    def _now(self) -> tuple[Collection, State]:
        collection = self._versions.current()
        assert self._versions.state is not None
        return collection, self._versions.state

    def _replace_segments(
        self, numbers: Sequence[int], parts: Sequence[Part], state: State
    ) -> None:
        """Put one segment of what `parts` hold in place of those of these numbers."""
        number, size, rows = state.next_number, 0, sum(part.live for part in parts)
        if rows:
            words = [written_words(part, self._captions(part)) for part in parts]
            sources = [
                Source(part.segment, part.kept, part.slots, own)
                for part, own in zip(parts, words, strict=True)
            ]
            sections = merged(sources)
            size = write_sections(segment_path(self._folder, number), sections)
        with self._store.writing() as connection:
            gone = [(each,) for each in numbers]
            connection.executemany("DELETE FROM segments WHERE number = ?", gone)
            connection.executemany("DELETE FROM gone WHERE segment = ?", gone)
            connection.executemany("DELETE FROM moved WHERE segment = ?", gone)
            if rows:
                connection.execute("INSERT INTO segments VALUES (?, ?, ?)", (number, size, rows))
            put_facts(connection, next_number=number + 1)

    def _captions(self, part: Part) -> Captions:
        def captions(rows: Sequence[int]) -> list[tuple[str, ...]]:
            keys = part.segment.keys[np.array(rows, np.int64)].tolist()
            _, stored = self._store.fetch(keys)
            return [stored[key].document().captions for key in keys]

        return captions

    def _join_deletions(self) -> None:
        _, state = self._now()
        many = {s: each for s, each in state.gone.items() if len(each) > MOST_DELETIONS}
        if not many:
            return
        number = state.next_number
        with self._store.writing() as connection:
            for segment, deletions in many.items():
                held = [self._store.gone(each) for each in deletions]
                rows = np.concatenate([each[0] for each in held if each is not None])
                terms = np.concatenate([each[1] for each in held if each is not None])
                connection.execute("DELETE FROM gone WHERE segment = ?", (segment,))
                connection.execute(
                    "INSERT INTO gone VALUES (?, ?, ?, ?)",
                    (number, segment, rows.tobytes(), terms.tobytes()),
                )
                number += 1
            put_facts(connection, next_number=number)

    def _give_up_blocks(self) -> None:
        """Move vectors out of the emptiest files, where many slots are free."""
        collection, state = self._now()
        victims = to_give_up(state.blocks, collection)
        if not victims:
            return
        placing = Placing.of(state, collection, {block.place for block in victims})
        old = np.concatenate(
            [
                block.first + np.flatnonzero(_rows_of(collection, block) != NOBODY)
                for block in victims
            ]
        )
        new = placing.take(len(old))
        for block, at, places in placing.by_block(new):
            for start in range(0, len(at), VECTORS_AT_ONCE):
                part = slice(start, start + VECTORS_AT_ONCE)
                vectors = collection.vectors.gathered(old[at[part]])
                write_vectors(self._folder, block, places[part], vectors)
                write_codes(self._folder, block, places[part], vectors, state.centre)
        rows = collection.row_of_slot[old].astype(np.int64)
        keys = collection.keys(rows)
        number = placing.next_number
        slots = collection.slots.copy()
        slots[rows] = new
        touched = np.unique(np.searchsorted(np.array(collection.bases), rows, side="right") - 1)
        with self._store.writing() as connection:
            connection.executemany(
                "UPDATE documents SET slot = ? WHERE key = ?",
                zip(new.tolist(), keys, strict=True),
            )
            for place in touched.tolist():
                own = slots[collection.bases[place] : collection.bases[place + 1]]
                connection.execute(
                    "INSERT OR REPLACE INTO moved VALUES (?, ?, ?)",
                    (collection.parts[place].segment.number, number, own.tobytes()),
                )
                number += 1
            connection.executemany(
                "DELETE FROM blocks WHERE place = ?", [(block.place,) for block in victims]
            )
            for block in placing.changed():
                put_block(connection, block)
            put_facts(connection, next_number=number)

    def _measure(self) -> None:
        collection, state = self._now()
        count = collection.documents
        if count < LEAST_FOR_CODES:
            if state.depths is not None:
                with self._store.writing() as connection:
                    put_facts(connection, depths=depths_as_text(None))
            return
        if state.depths is not None and state.depths.still_hold(count, state.written):
            return
        live = collection.row_of_slot != NOBODY
        self._centre(collection, state, np.flatnonzero(live))
        collection, state = self._now()
        depths = measure(collection.vectors, live, state.written)
        with self._store.writing() as connection:
            put_facts(connection, depths=depths_as_text(depths))

    def _centre(self, collection: Collection, state: State, live: npt.NDArray[np.int64]) -> None:
        """Make all codes anew where their centre is far from the mean by now."""
        step = max(1, len(live) // SAMPLE)
        sample = collection.vectors.gathered(live[::step])
        mean = sample.mean(axis=0)
        variance = float(np.square(sample - mean).sum(axis=1).mean())
        if float(np.square(mean - state.centre).sum()) <= MOST_DRIFT * variance:
            return
        number = state.next_number
        blocks = []
        for place, block in enumerate(state.blocks):
            renewed = Block(block.place, block.number, number + place, block.used)
            _encode_anew(self._folder, renewed, collection.vectors, mean)
            blocks.append(renewed)
        with self._store.writing() as connection:
            for block in blocks:
                put_block(connection, block)
            put_facts(
                connection,
                next_number=number + len(blocks),
                centre=mean.astype(np.float32).tobytes(),
            )

    def _read_back(self, written: Mapping[int, int]) -> None:
        """Compare the vectors of a feed with their checksums, as the disk gives them back."""
        collection, state = self._now()
        slots = np.array(sorted(written), np.int64)
        size = 4 * collection.vectors.dimension
        for block in state.blocks:
            first, end = np.searchsorted(slots, [block.first, block.first + BLOCK]).tolist()
            let_go(vectors_path(self._folder, block.number), slots[first:end] - block.first, size)
        for slot, total in written.items():
            if slot >= len(collection.row_of_slot) or collection.row_of_slot[slot] == NOBODY:
                continue  # written anew since, or given up
            if zlib.crc32(collection.vectors.at(slot).data) != total:
                raise EngineError(_gives_back(self._folder, f"another vector in slot {slot}"))

    def _check(self, files: Sequence[SegmentFile]) -> None:
        for each in files:
            path = each.path(self._folder)
            let_go(path)
            try:
                Sections.open(path, each.size).check_all()
            except EngineError as error:
                raise EngineError(_gives_back(path, "something else than was written")) from error


def due(parts: Sequence[Part]) -> list[Part]:
    """Return the segments that are to be one, in the index's order; none where all may stay."""
    tiers: dict[int, list[Part]] = {}
    for part in parts:
        tiers.setdefault(_tier(part.live), []).append(part)
    for tier, held in sorted(tiers.items()):
        if len(held) >= (2 if tier == 0 else FACTOR):
            return held
    for part in parts:
        if len(part.gone) > MOST_GONE * part.rows:
            return [part]
    return []


def _tier(rows: int) -> int:
    tier = 0
    while rows >= SMALL * FACTOR**tier:
        tier += 1
    return tier


def to_give_up(blocks: Sequence[Block], collection: Collection) -> list[Block]:
    """Return the files of vectors to empty: the emptiest, as far as others have room."""
    used = sum(block.used for block in blocks)
    free = used - collection.documents
    if free <= max(LEAST_FREE, MOST_FREE * used):
        return []
    live = {block: int(np.count_nonzero(_rows_of(collection, block) != NOBODY)) for block in blocks}
    ordered = sorted(blocks, key=lambda block: live[block] / max(block.used, 1))
    room = free
    victims: list[Block] = []
    for block in ordered:
        room -= block.used - live[block]
        if victims and live[block] > room:
            break
        room -= live[block]
        victims.append(block)
    return victims


def stray_files(folder: Path, state: State | None) -> list[Path]:
    """Return the files of vectors, codes and segments that the index does not name.

    Without an index, these are all of them.
    """
    blocks, segments = ((), ()) if state is None else (state.blocks, state.segments)
    named: tuple[tuple[re.Pattern[str], set[int]], ...] = (
        (_VECTORS, {block.number for block in blocks}),
        (_CODES, {block.codes for block in blocks}),
        (_EARLIER_CODES, set()),
        (_SEGMENT, {segment.number for segment in segments}),
    )
    found = []
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        for pattern, numbers in named:
            held = pattern.fullmatch(path.name)
            if held is not None and int(held["number"]) not in numbers:
                found.append(path)
    return found


def _rows_of(collection: Collection, block: Block) -> npt.NDArray[np.int32]:
    return collection.row_of_slot[block.first : block.first + block.used]


def _encode_anew(
    folder: Path, block: Block, vectors: VectorStore, centre: npt.NDArray[np.float32]
) -> None:
    codes_path(folder, block.codes).unlink(missing_ok=True)
    for start in range(0, block.used, VECTORS_AT_ONCE):
        places = np.arange(start, min(start + VECTORS_AT_ONCE, block.used))
        write_codes(folder, block, places, vectors.gathered(places + block.first), centre)


def _gives_back(path: Path, what: str) -> str:
    return (
        f"{path}: the disk gives back {what}; all documents are kept: look after the disk, then run"
        f" the same command again"
    )
