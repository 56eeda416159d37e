"""Tags and numbers of a segment's documents by column: what filters test and facets count.

A tag column is a list of its distinct values and a code for each row; a filter then compares
each value once, whatever the number of rows. No value of a user ever becomes part of a query
language.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.postings import smallest
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.strings import Strings, strings_as_arrays
from clipsearch.filtering import LATITUDE, LONGITUDE, Filter, NearFilter, NumberFilter, TagFilter
from clipsearch.folding import fold
from clipsearch.geography import are_near

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
            elif isinstance(condition, NearFilter):
                mask &= self._near_mask(condition)
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

    def _near_mask(self, condition: NearFilter) -> Mask:
        latitudes, longitudes = self.number(LATITUDE), self.number(LONGITUDE)
        if latitudes is None or longitudes is None:
            return np.zeros(self.rows, bool)
        return are_near(latitudes, longitudes, condition)

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


def metadata_of(
    tags: Sequence[Mapping[str, str]],
    numbers: Sequence[Mapping[str, float]],
    data_sets: Sequence[str],
    looks: Sequence[str],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and facts of `Metadata` for those of documents in the order of the rows.

    `looks` are those of `clipsearch.documents.look_of`.
    """
    coded = {
        column: _coded([each.get(column) for each in tags])
        for column in dict.fromkeys(chain.from_iterable(tags))
    }
    values = {
        column: np.array([each.get(column, math.nan) for each in numbers], np.float64)
        for column in dict.fromkeys(chain.from_iterable(numbers))
    }
    numbered = np.array(list(map(look_number, looks)), np.uint64)
    return columns_as_arrays(coded, values, _coded(data_sets), numbered)


def _coded(values: Sequence[str | None]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a code for each value, ABSENT for None, and the values by code, as they come."""
    known: dict[str | None, int] = dict.fromkeys(values, ABSENT)
    known.pop(None, None)
    codes = {value: code for code, value in enumerate(known, ABSENT + 1)}
    found = np.array([codes.get(value, ABSENT) for value in values], np.int64)
    return found, [value for value in codes if value is not None]


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
