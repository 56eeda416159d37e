"""Tags and numbers of all documents by column: what filters test and facets count.

A tag column is a list of its distinct values and a code for each row; a filter then compares
each value once, whatever the number of rows. No value of a user ever becomes part of a query
language.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document
from clipsearch.engine import Filter, NumberFilter, TagFilter
from clipsearch.engines.facet_counts import Counts, counts_by_tag
from clipsearch.engines.local.arrays import map_array
from clipsearch.folding import fold

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]

_ABSENT = -1


@dataclass(frozen=True, slots=True)
class TagColumn:
    """One tag of every row: `values[codes[row]]`, or nothing where the code is -1."""

    values: list[str]
    codes: Codes

    def matching(self, wanted: Iterable[str]) -> Mask:
        """Rows whose whole value is one of `wanted`, whatever case and Unicode form."""
        folded = {fold(value) for value in wanted}
        # The last place stands for absent, which code -1 points at.
        hits = np.zeros(len(self.values) + 1, bool)
        hits[[code for code, value in enumerate(self.values) if fold(value) in folded]] = True
        return hits[self.codes]

    def counts(self, matches: Mask | None) -> Counts:
        """(value, rows) of the matching rows; see `counts_by_tag`."""
        codes = self.codes if matches is None else self.codes[matches]
        counted = np.bincount(codes[codes != _ABSENT], minlength=len(self.values))
        found = np.flatnonzero(counted)
        return counts_by_tag((self.values[code], int(counted[code])) for code in found)


@dataclass(frozen=True)
class Metadata:
    """Every tag and number column, read when first asked for.

    Attributes:
        rows: Documents.
        tags: Column to its values and codes.
        numbers: Column to float64[rows], NaN where a document has none.
        folder: Where columns that are not in the mappings yet are read from.
        tag_places, number_places: Column to its place in the folder.
    """

    rows: int
    tags: dict[str, TagColumn] = field(default_factory=dict)
    numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    folder: Path | None = None
    tag_places: Mapping[str, int] = field(default_factory=dict)
    number_places: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def build(cls, documents: Iterable[Document], rows: int) -> "Metadata":
        """From the documents in the order of the rows."""
        codes: dict[str, Codes] = {}
        values: dict[str, dict[str, int]] = {}
        numbers: dict[str, npt.NDArray[np.float64]] = {}
        for row, document in enumerate(documents):
            for column, value in document.tags.items():
                if column not in codes:
                    codes[column] = np.full(rows, _ABSENT, np.int32)
                    values[column] = {}
                known = values[column]
                codes[column][row] = known.setdefault(value, len(known))
            for column, number in document.numbers.items():
                if column not in numbers:
                    numbers[column] = np.full(rows, np.nan)
                numbers[column][row] = number
        tags = {column: TagColumn(list(values[column]), codes[column]) for column in codes}
        return cls(rows, tags, numbers)

    def save(self, folder: Path) -> None:
        """Write all columns into `folder`; columns are named by place, for any name is allowed."""
        for place, tag in enumerate(self.tags.values()):
            np.save(folder / f"tag-{place}.npy", tag.codes)
            text = json.dumps(tag.values, ensure_ascii=False)
            (folder / f"tag-{place}.json").write_text(text, encoding="utf-8")
        for place, number in enumerate(self.numbers.values()):
            np.save(folder / f"number-{place}.npy", number)
        names = {"tags": list(self.tags), "numbers": list(self.numbers)}
        text = json.dumps(names, ensure_ascii=False)
        (folder / "columns.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, rows: int) -> "Metadata":
        """What `save` wrote; the columns themselves are read when first asked for."""
        names = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        return cls(
            rows,
            folder=folder,
            tag_places={name: place for place, name in enumerate(names["tags"])},
            number_places={name: place for place, name in enumerate(names["numbers"])},
        )

    def tag(self, column: str) -> TagColumn | None:
        """The column, or None where no document has it."""
        if column not in self.tags and self.folder is not None and column in self.tag_places:
            stem = self.folder / f"tag-{self.tag_places[column]}"
            values = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            codes = map_array(stem.with_suffix(".npy"))
            self.tags[column] = TagColumn(values, codes)
        return self.tags.get(column)

    def number(self, column: str) -> npt.NDArray[np.float64] | None:
        """The column, or None where no document has it."""
        if column not in self.numbers and self.folder is not None and column in self.number_places:
            path = self.folder / f"number-{self.number_places[column]}.npy"
            self.numbers[column] = map_array(path)
        return self.numbers.get(column)

    def passing(self, filters: Iterable[Filter]) -> Mask:
        """Rows for which every filter holds."""
        mask = np.ones(self.rows, bool)
        for condition in filters:
            if isinstance(condition, TagFilter):
                mask &= self._tag_mask(condition)
            else:
                mask &= self._number_mask(condition)
        return mask

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
