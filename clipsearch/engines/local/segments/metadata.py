"""Tags and numbers of a segment's documents by column: what filters test and facets count.

A tag column is a list of its distinct values and a code for each row; a filter then compares
each value once, whatever the number of rows. No value of a user ever becomes part of a query
language.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, look_of
from clipsearch.engine import Filter, NumberFilter, TagFilter
from clipsearch.engines.local.segments.postings import smallest
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.strings import Strings, strings_as_arrays
from clipsearch.folding import fold

Mask = npt.NDArray[np.bool_]

ABSENT = 0
LOOKS = "looks"


class TagColumn:
    """One tag of every row: `values[codes[row] - 1]`, or nothing where the code is 0."""

    def __init__(self, sections: Sections, name: str) -> None:
        self.values = [text.decode() for text in Strings(sections, name).all()]
        self.codes = sections.array(f"{name}/codes")

    def matching(self, wanted: Iterable[str]) -> Mask:
        """Return the rows whose whole value is one of `wanted`, in any case and Unicode form."""
        folded = {fold(value) for value in wanted}
        hits = np.array([False, *(fold(value) in folded for value in self.values)])
        return hits[self.codes]

    def counts(self, rows: npt.NDArray[np.integer] | Mask | None) -> dict[str, int]:
        """Return the number of rows of each value, among those of `rows`."""
        codes = self.codes if rows is None else self.codes[rows]
        counted = np.bincount(codes, minlength=len(self.values) + 1)[1:]
        return {self.values[place]: int(counted[place]) for place in np.flatnonzero(counted)}


class Metadata:
    """Every tag and number column of a segment, each read when it is first asked for."""

    def __init__(self, sections: Sections, rows: int) -> None:
        self.rows = rows
        self._sections = sections
        self._tags: dict[str, TagColumn] = {}
        self.tag_names = tuple(sections.facts["tags"])
        self.number_names = tuple(sections.facts["numbers"])

    def tag(self, column: str) -> TagColumn | None:
        """Return the column, or None where no document has it."""
        if column not in self.tag_names:
            return None
        return self._column(f"tag/{self.tag_names.index(column)}")

    def data_sets(self) -> TagColumn:
        """Return the data set of every row."""
        return self._column("data_set")

    def number(self, column: str) -> npt.NDArray[np.float64] | None:
        """Return float64 of every row, NaN where it has no number; None for an unknown column."""
        if column not in self.number_names:
            return None
        return self._sections.array(f"number/{self.number_names.index(column)}")

    @property
    def looks(self) -> npt.NDArray[np.uint64]:
        """Return a number of every row that only near duplicates share; 0 where it is unknown."""
        if LOOKS not in self._sections:
            return np.zeros(self.rows, np.uint64)  # an earlier version wrote it
        return self._sections.array(LOOKS)

    def passing(self, filters: Iterable[Filter]) -> Mask:
        """Return the rows for which every filter holds."""
        mask = np.ones(self.rows, bool)
        for condition in filters:
            if isinstance(condition, TagFilter):
                mask &= self._tag_mask(condition)
            else:
                mask &= self._number_mask(condition)
        return mask

    def _column(self, name: str) -> TagColumn:
        known = self._tags.get(name)
        if known is None:
            known = self._tags[name] = TagColumn(self._sections, name)
        return known

    def _tag_mask(self, condition: TagFilter) -> Mask:
        column = self.tag(condition.column)
        matches = np.zeros(self.rows, bool) if column is None else column.matching(condition.values)
        return ~matches if condition.exclude else matches

    def _number_mask(self, condition: NumberFilter) -> Mask:
        column = self.number(condition.column)
        if column is None:
            return np.zeros(self.rows, bool)
        mask = ~np.isnan(column)
        if condition.low is not None:
            low = condition.low
            mask &= column > low if condition.low_open else column >= low
        if condition.high is not None:
            high = condition.high
            mask &= column < high if condition.high_open else column <= high
        return mask


def metadata_of(documents: Sequence[Document]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and facts of `Metadata` for documents in the order of the rows."""
    rows = len(documents)
    tags: dict[str, tuple[npt.NDArray[np.int64], dict[str, int]]] = {}
    numbers: dict[str, npt.NDArray[np.float64]] = {}
    sets: dict[str, int] = {}
    set_codes = [sets.setdefault(each.data_set, len(sets) + 1) for each in documents]
    for row, document in enumerate(documents):
        for column, value in document.tags.items():
            if column not in tags:
                tags[column] = (np.full(rows, ABSENT, np.int64), {})
            codes, known = tags[column]
            codes[row] = known.setdefault(value, len(known) + 1)
        for column, number in document.numbers.items():
            if column not in numbers:
                numbers[column] = np.full(rows, np.nan)
            numbers[column][row] = number
    looks = [look_number(look_of(each)) for each in documents]
    coded = {column: (codes, list(known)) for column, (codes, known) in tags.items()}
    return columns_as_arrays(
        coded,
        numbers,
        (np.array(set_codes, np.int64), list(sets)),
        np.array(looks, np.uint64),
    )


def look_number(look: str) -> int:
    """Return the number that stands for a look, the same in every process; never 0."""
    digest = hashlib.blake2b(look.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def columns_as_arrays(
    tags: Mapping[str, tuple[npt.NDArray[np.integer], Sequence[str]]],
    numbers: Mapping[str, npt.NDArray[np.float64]],
    data_sets: tuple[npt.NDArray[np.integer], Sequence[str]],
    looks: npt.NDArray[np.uint64],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and facts of `Metadata` for codes and values by column."""
    arrays: dict[str, Array] = {}
    counts: dict[str, int] = {}
    named = {f"tag/{place}": each for place, each in enumerate(tags.values())}
    for name, (codes, values) in {**named, "data_set": data_sets}.items():
        arrays |= strings_as_arrays(name, [value.encode() for value in values])
        arrays[f"{name}/codes"] = codes.astype(smallest(len(values) + 1))
        counts[name] = len(values)
    arrays |= {f"number/{place}": each for place, each in enumerate(numbers.values())}
    arrays[LOOKS] = looks
    return arrays, {"tags": list(tags), "numbers": list(numbers), "counts": counts}
