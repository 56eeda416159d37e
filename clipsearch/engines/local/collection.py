"""One version of the index, as it is searched: its segments one after another, and its vectors.

A row is a place in that sequence. Counts, document frequencies and the average length are those of
all documents that are not gone, summed up from the segments: a ranking does not depend on how
documents are spread over these.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document
from clipsearch.engines.facet_counts import Counts, counts_by_tag
from clipsearch.engines.local.segments.metadata import Mask
from clipsearch.engines.local.segments.segment import Row, Segment, id_hashes, sections_of
from clipsearch.engines.local.vectors.blocks import VectorStore
from clipsearch.engines.local.vectors.depth import Depths
from clipsearch.filtering import Filter
from clipsearch.ranking import RowNumbers, inverse_document_frequency

Ints = npt.NDArray[np.int32]
NOBODY = -1


@dataclass(frozen=True)
class Part:
    """A segment in a version of the index.

    Attributes:
        segment: The segment.
        gone: Its rows that are gone.
        gone_terms: The terms of these, a number for each match.
        slots: Of its rows' vectors.
        moved: The number of the move that these slots come from; 0 where they are its own.
    """

    segment: Segment
    gone: Ints
    gone_terms: Ints
    slots: Ints
    moved: int = 0

    @classmethod
    def of(cls, segment: Segment) -> "Part":
        """Make the part of a segment of which nothing is gone."""
        nothing = np.zeros(0, np.int32)
        return cls(segment, nothing, nothing, segment.slots.astype(np.int32, copy=False))

    @property
    def rows(self) -> int:
        """With those that are gone."""
        return self.segment.rows

    @property
    def live(self) -> int:
        """Without them."""
        return self.rows - len(self.gone)

    @cached_property
    def tokens(self) -> int:
        """Of all rows that are not gone."""
        if not len(self.gone):
            return self.segment.tokens
        return self.segment.tokens - int(self.segment.postings.lengths[self.gone].sum())

    @cached_property
    def kept(self) -> Mask:
        """Of each row, whether it is not gone."""
        mask = np.ones(self.rows, bool)
        mask[self.gone] = False
        return mask

    def matching(self, term: int) -> int:
        """Count the rows that hold the term and are not gone."""
        found = self.segment.postings.matching(term)
        return found - (int(self._gone_matches[term]) if len(self.gone_terms) else 0)

    @cached_property
    def _gone_matches(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.gone_terms, minlength=len(self.segment.postings.terms))


@dataclass(frozen=True)
class Collection:
    """A version of the index.

    Attributes:
        version: The commits of the store.
        parts: Its segments.
        vectors: By slot.
        slots: int32[rows], of each row's vector.
        row_of_slot: int32[vectors.size]: the row whose vector it is, NOBODY where none has it.
        depths: How many vectors are compared exactly; None compares all.
    """

    version: int
    parts: tuple[Part, ...]
    vectors: VectorStore
    slots: Ints
    row_of_slot: Ints
    depths: Depths | None = None
    _impacts: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, documents: Sequence[Document], language: str = "en", dimension: int = 0
    ) -> "Collection":
        """Make one in memory of documents with embeddings; rows are in the order of ids."""
        rows = [Row(document, place, place) for place, document in enumerate(documents)]
        embeddings = [each.embedding for each in documents if each.embedding is not None]
        stacked = np.stack(embeddings) if embeddings else np.zeros((0, dimension))
        vectors = VectorStore.of(stacked.astype(np.float32))
        return cls.laid_out(0, (Part.of(Segment(sections_of(rows, language), -1)),), vectors, None)

    @classmethod
    def laid_out(
        cls,
        version: int,
        parts: Sequence[Part],
        vectors: VectorStore,
        depths: Depths | None,
        before: "Collection | None" = None,
    ) -> "Collection":
        """Give each part its rows; what is as in the version `before` is taken over from it."""
        same = 0
        if before is not None:
            for part, earlier in zip(parts, before.parts, strict=False):
                if part.segment is not earlier.segment or part.moved != earlier.moved:
                    break
                same += 1
        row_of_slot = np.full(vectors.size, NOBODY, np.int32)
        first = 0
        if same and before is not None:
            first = sum(part.rows for part in parts[:same])
            kept = min(len(before.row_of_slot), vectors.size)
            row_of_slot[:kept] = before.row_of_slot[:kept]
            row_of_slot[row_of_slot >= first] = NOBODY
            _let_go(row_of_slot, parts[:same], before.parts)
        slots = [] if before is None or not same else [before.slots[:first]]
        base = first
        for part in parts[same:]:
            slots.append(part.slots)
            rows = np.arange(part.rows, dtype=np.int32)
            rows = rows[part.kept] if len(part.gone) else rows
            row_of_slot[part.slots[rows]] = rows + base
            base += part.rows
        joined = np.concatenate(slots) if slots else np.zeros(0, np.int32)
        return cls(version, tuple(parts), vectors, joined, row_of_slot, depths)

    @cached_property
    def bases(self) -> tuple[int, ...]:
        """The first row of each part, and the number of all rows."""
        found = [0]
        for part in self.parts:
            found.append(found[-1] + part.rows)
        return tuple(found)

    @property
    def rows(self) -> int:
        """Of all parts, with those that are gone."""
        return self.bases[-1]

    @cached_property
    def documents(self) -> int:
        """That are not gone."""
        return sum(part.live for part in self.parts)

    @cached_property
    def average_length(self) -> float:
        """Tokens of a document, over all documents, those without a caption included."""
        total = sum(part.tokens for part in self.parts)
        return total / self.documents if total else 1.0

    def bm25(self, query: Iterable[str]) -> npt.NDArray[np.float32]:
        """Return the bm25 of each row, float32[rows], above 0 exactly where a token matches."""
        scores = np.zeros(self.rows, np.float32)
        for token, repeats in Counter(query).items():
            found = [(place, part.segment.postings.find(token)) for place, part in self._numbered]
            held = [(place, term) for place, term in found if term is not None]
            matching = sum(self.parts[place].matching(term) for place, term in held)
            if matching <= 0:
                continue
            weight = np.float32(repeats * inverse_document_frequency(self.documents, matching))
            for place, term in held:
                rows, pairs = self.parts[place].segment.postings.of_term(term)
                worth = (self._impacts_of(place) * weight).take(pairs)
                own = scores[self.bases[place] : self.bases[place + 1]]
                # A third of the time of `own[rows] += worth`, which would do as well.
                np.add.at(own, rows, worth)
        for place, part in self._numbered:
            if len(part.gone):
                scores[self.bases[place] + part.gone] = 0
        return scores

    def holding(self, token: str) -> int:
        """Count the documents that hold the token, without reading where."""
        found = ((part, part.segment.postings.find(token)) for part in self.parts)
        return sum(part.matching(term) for part, term in found if term is not None)

    def lengths(self, rows: RowNumbers) -> npt.NDArray[np.int64]:
        """Return the tokens of rows, of all captions together."""
        found = np.empty(len(rows), np.int64)
        of_part = np.searchsorted(self.bases, rows, side="right") - 1
        for place in np.unique(of_part).tolist():
            own = np.flatnonzero(of_part == place)
            lengths = self.parts[place].segment.postings.lengths
            found[own] = lengths[rows[own] - self.bases[place]]
        return found

    def find(self, ids: Sequence[str]) -> RowNumbers:
        """Return the row of each id, NOBODY where there is none."""
        # A lone surrogate is in no id, and nothing else becomes a question mark of its own.
        names = [each.encode("utf-8", "surrogatepass") for each in ids]
        hashes = id_hashes(names)
        found = np.full(len(names), NOBODY, np.int64)
        for place, part in self._numbered:
            rows = part.segment.find(hashes, names)
            held = np.flatnonzero(rows >= 0)
            own = rows[held] + self.bases[place]
            live = part.kept[rows[held]] if len(part.gone) else np.ones(len(held), bool)
            found[held[live]] = own[live]
        return found

    def ids(self, rows: RowNumbers) -> list[bytes]:
        """Return the ids of rows, in UTF-8."""
        return [self.parts[place].segment.ids[row] for place, row in self._places(rows)]

    def keys(self, rows: RowNumbers) -> list[int]:
        """Return the store's keys of rows."""
        return [int(self.parts[place].segment.keys[row]) for place, row in self._places(rows)]

    def all_keys(self) -> npt.NDArray[np.int64]:
        """Return the store's keys of all documents."""
        keys = [
            part.segment.keys[part.kept] if len(part.gone) else part.segment.keys
            for part in self.parts
        ]
        return np.concatenate(keys) if keys else np.zeros(0, np.int64)

    def passing(self, filters: Sequence[Filter]) -> Mask:
        """Return which rows are not gone and pass every filter, bool[rows]."""
        mask = np.concatenate(
            [part.segment.metadata.passing(filters) for part in self.parts] or [np.zeros(0, bool)]
        )
        for place, part in self._numbered:
            mask[self.bases[place] + part.gone] = False
        return mask

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return the number of each row, float64[rows], NaN where it has none."""
        held = [
            np.full(part.rows, np.nan) if values is None else values
            for part in self.parts
            for values in [part.segment.metadata.number(column)]
        ]
        return np.concatenate(held) if held else np.zeros(0)

    def looks(self, rows: RowNumbers) -> npt.NDArray[np.uint64]:
        """Return a number of each row that only near duplicates share; 0 where it is unknown."""
        held = [part.segment.metadata.looks for part in self.parts]
        return np.concatenate([*held, np.zeros(0, np.uint64)])[rows]

    def facets(self, column: str, matches: Mask | None) -> Counts:
        """Return the tag's values and their numbers of rows, among `matches` or all documents."""
        summed: Counter[str] = Counter()
        for place, part in self._numbered:
            tags = part.segment.metadata.tag(column)
            if tags is None:
                continue
            summed.update(tags.counts(self._among(place, matches)))
        return counts_by_tag(summed)

    def data_sets(self) -> Mapping[str, int]:
        """Return the number of documents of each data set."""
        summed: Counter[str] = Counter()
        for place, part in self._numbered:
            summed.update(part.segment.metadata.data_sets().counts(self._among(place, None)))
        return summed

    def _among(self, place: int, matches: Mask | None) -> Mask | None:
        part = self.parts[place]
        if matches is not None:
            return matches[self.bases[place] : self.bases[place + 1]]
        return part.kept if len(part.gone) else None

    @cached_property
    def _numbered(self) -> tuple[tuple[int, Part], ...]:
        return tuple(enumerate(self.parts))

    def _places(self, rows: RowNumbers) -> Iterable[tuple[int, int]]:
        """Yield (part, row in it) of each row."""
        places = np.searchsorted(self.bases, rows, side="right") - 1
        return zip(places.tolist(), (rows - np.array(self.bases)[places]).tolist(), strict=True)

    def _impacts_of(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._impacts:
            impacts = self.parts[place].segment.postings.impacts(self.average_length)
            self._impacts[place] = impacts
        return self._impacts[place]


def _let_go(row_of_slot: Ints, parts: Sequence[Part], before: Sequence[Part]) -> None:
    """Take the vectors from rows that went since; `before` begins with the same segments."""
    base = 0
    for part, earlier in zip(parts, before, strict=False):
        if len(part.gone) != len(earlier.gone):
            # Deletions are only ever added, but several may be joined: each is looked at.
            slots, rows = part.slots[part.gone], part.gone + base
            # The file of a vector that is gone may be given up by now, and its slot with it.
            there = slots < len(row_of_slot)
            slots, rows = slots[there], rows[there]
            row_of_slot[slots[row_of_slot[slots] == rows]] = NOBODY
        base += part.rows
