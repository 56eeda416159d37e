"""A segment: some documents of the index, by id, as they were when it was written.

Rows are in the order of ids. Of each document it has the id, its key in the store, the slot of its
vector, words, tags and numbers; captions and the rest lie in the store. A segment never changes: a
document that is written anew stands in another one, and its row here counts as gone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, look_of
from clipsearch.engines.local.segments.cut import CutCaptions
from clipsearch.engines.local.segments.metadata import Metadata, metadata_of
from clipsearch.engines.local.segments.postings import Ints, Postings, postings_of
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.strings import Strings, strings_as_arrays
from clipsearch.engines.local.segments.words import NAME, word_arrays, words_in

Hashes = npt.NDArray[np.uint64]
Column = TypeVar("Column")


@dataclass(frozen=True, slots=True)
class Row:
    """A document that is to stand in a segment.

    Attributes:
        document: Without need of its embedding.
        key: Its number in the store.
        slot: Of its vector.
    """

    document: Document
    key: int
    slot: int


class Segment:
    """Read from `Sections`, in a file or in memory."""

    def __init__(self, sections: Sections, number: int) -> None:
        """Read the sections as segment `number`, unique in the index; below 0 for one in memory."""
        self.number = number
        self.sections = sections
        self.rows = int(sections.facts["rows"])
        self.tokens = int(sections.facts["tokens"])
        self.ids = Strings(sections, "ids")
        self.postings = Postings(sections)
        self.metadata = Metadata(sections, self.rows)
        self.words = words_in(sections)

    @cached_property
    def keys(self) -> Ints:
        """The store's number of each row."""
        return self.sections.array("keys")

    @cached_property
    def slots(self) -> Ints:
        """Of each row's vector, int32, as it was when the segment was written."""
        return self.sections.array("slots")

    def find(self, hashes: Hashes, ids: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return the row of each id, -1 where it has none; `hashes` are those of `id_hashes`."""
        held = self.sections.array("hashes")
        found = np.full(len(ids), -1, np.int64)
        places = np.searchsorted(held, hashes)
        order = self.sections.array("hash_rows")
        inside = np.flatnonzero(places < len(held))
        for at in inside[held[places[inside]] == hashes[inside]].tolist():
            place = int(places[at])
            while place < len(held) and held[place] == hashes[at]:
                if self.ids[int(order[place])] == ids[at]:
                    found[at] = order[place]
                    break
                place += 1
        return found


def id_hashes(ids: Sequence[bytes]) -> Hashes:
    """Return the uint64 of each id, the same in every process."""
    digests = b"".join([hashlib.blake2b(each, digest_size=8).digest() for each in ids])
    return np.frombuffer(digests, "<u8")


@dataclass(frozen=True, slots=True)
class Rows:
    """The documents of a segment, a column a field; in any order, but the same in each.

    Attributes:
        ids, captions, tags, numbers, data_sets: Of the documents.
        looks: As `clipsearch.documents.look_of`.
        keys, slots: As in `Row`.
    """

    ids: Sequence[str]
    captions: Sequence[Sequence[str]]
    tags: Sequence[Mapping[str, str]]
    numbers: Sequence[Mapping[str, float]]
    data_sets: Sequence[str]
    looks: Sequence[str]
    keys: Ints
    slots: Ints

    def sections(self, language: str) -> Sections:
        """Return the sections of a segment of these documents, whose ids are distinct.

        `language` is that of the captions.
        """
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)

        def ordered(column: Sequence[Column]) -> list[Column]:
            return [column[place] for place in order]

        ids = [id.encode() for id in ordered(self.ids)]
        columns, facts = metadata_of(
            ordered(self.tags),
            ordered(self.numbers),
            ordered(self.data_sets),
            ordered(self.looks),
        )
        places = np.array(order, np.intp)
        cut = CutCaptions.of(ordered(self.captions))
        return assembled(
            ids,
            id_hashes(ids),
            self.keys[places],
            self.slots[places],
            postings_of(cut, language),
            word_arrays(cut),
            columns,
            facts,
        )


def sections_of(rows: Sequence[Row], language: str) -> Sections:
    """Return the sections of a segment of these documents, whose ids are distinct."""
    documents = [row.document for row in rows]
    return Rows(
        [each.id for each in documents],
        [each.captions for each in documents],
        [each.tags for each in documents],
        [each.numbers for each in documents],
        [each.data_set for each in documents],
        list(map(look_of, documents)),
        np.array([row.key for row in rows], np.int64),
        np.array([row.slot for row in rows], np.int64),
    ).sections(language)


def assembled(
    ids: Sequence[bytes],
    hashes: Hashes,
    keys: Ints,
    slots: Ints,
    postings: dict[str, Array],
    words: dict[str, Array],
    columns: dict[str, Array],
    facts: dict[str, Any],
) -> Sections:
    """Assemble a segment's sections from its parts, all in the order of `ids`, which ascend."""
    by_hash = np.argsort(hashes, kind="stable")
    arrays = {
        **strings_as_arrays("ids", ids),
        "hashes": hashes[by_hash],
        "hash_rows": by_hash.astype(np.int32),
        "keys": keys.astype(np.int64),
        "slots": slots.astype(np.int32),
        **postings,
        **words,
        **columns,
    }
    counts = facts["counts"] | {
        "ids": len(ids),
        "terms": len(postings["terms/starts"]) - 1,
        NAME: len(words["word_starts"]) - 1,
    }
    total = int(postings["lengths"].sum(dtype=np.int64))
    return Sections(arrays, facts | {"rows": len(ids), "tokens": total, "counts": counts})
