"""Several segments into one, without the rows that are gone: what documents say is not read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.metadata import ABSENT, Mask, columns_as_arrays
from clipsearch.engines.local.segments.postings import Ints, arrays_of
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.segment import Segment, assembled
from clipsearch.engines.local.segments.words import Words, merged_words

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """A segment that is to be merged.

    Attributes:
        segment: The segment.
        kept: Its rows that are not gone.
        slots: Of its rows' vectors as they are now.
        words: Of its rows, as they are written.
    """

    segment: Segment
    kept: Mask
    slots: Ints
    words: Words


def merged(sources: Sequence[Source]) -> Sections:
    """Return the sections of one segment with all rows that are kept, by id."""
    ids, hashes = [], []
    for source in sources:
        rows = np.flatnonzero(source.kept).tolist()
        held = source.segment.ids.all()
        ids += [held[row] for row in rows]
        sections, kept = source.segment.sections, source.kept
        by_row = np.empty(source.segment.rows, np.uint64)
        by_row[sections.array("hash_rows")] = sections.array("hashes")
        hashes.append(by_row[kept])
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    new_row = np.empty(len(ids), np.int64)
    new_row[order] = np.arange(len(ids))

    def in_order(parts: list[Array]) -> Array:
        joined: Array = np.concatenate(parts)[order]
        return joined

    return assembled(
        [ids[place] for place in order.tolist()],
        in_order(hashes),
        in_order([source.segment.keys[source.kept] for source in sources]),
        in_order([source.slots[source.kept] for source in sources]),
        _postings(sources, new_row),
        merged_words(
            zip([each.words for each in sources], _new_rows(sources, new_row), strict=True)
        ),
        *_columns(sources, order),
    )


def _new_rows(sources: Sequence[Source], new_row: Codes) -> Iterator[Codes]:
    """Yield the new row of each row of each source, -1 where it is gone."""
    base = 0
    for source in sources:
        rows = np.full(source.segment.rows, -1, np.int64)
        count = int(source.kept.sum())
        rows[source.kept] = new_row[base : base + count]
        base += count
        yield rows


def _postings(sources: Sequence[Source], new_row: Codes) -> dict[str, Array]:
    held = [source.segment.postings.terms.all() for source in sources]
    number = {term: place for place, term in enumerate(sorted(set().union(*held)))}
    terms, rows, frequencies, lengths = [], [], [], []
    for source, texts, place in zip(sources, held, _new_rows(sources, new_row), strict=True):
        sections, kept = source.segment.sections, source.kept
        new_number = np.array([number[text] for text in texts], np.int64)
        term = np.repeat(new_number, np.diff(sections.array("term_starts")))
        row = place[sections.array("rows")]
        live = row >= 0
        terms.append(term[live])
        rows.append(row[live])
        pairs = sections.array("pairs")[live]
        frequencies.append(sections.array("pair_table")[:, 0].astype(np.int64)[pairs])
        lengths.append(sections.array("lengths")[kept])
    by_row = np.empty(len(new_row), np.int64)
    by_row[new_row] = np.concatenate(lengths)
    all_terms, all_rows = np.concatenate(terms), np.concatenate(rows)
    order = np.argsort(all_terms * max(len(new_row), 1) + all_rows)
    used, renumbered = np.unique(all_terms[order], return_inverse=True)
    texts = list(number)
    return arrays_of(
        [texts[place] for place in used.tolist()],
        renumbered,
        all_rows[order],
        np.concatenate(frequencies)[order],
        by_row,
    )


def _columns(sources: Sequence[Source], order: Codes) -> tuple[dict[str, Array], dict[str, Any]]:
    tags = {}
    for name in dict.fromkeys(name for each in sources for name in each.segment.metadata.tag_names):
        coded = _tag(sources, name)
        if (coded[0] != ABSENT).any():
            tags[name] = (coded[0][order], coded[1])
    numbers = {}
    for name in dict.fromkeys(n for each in sources for n in each.segment.metadata.number_names):
        parts = []
        for source in sources:
            held = source.segment.metadata.number(name)
            count = int(source.kept.sum())
            parts.append(np.full(count, np.nan) if held is None else held[source.kept])
        values = np.concatenate(parts)
        if not np.isnan(values).all():
            numbers[name] = values[order]
    codes, sets = _tag(sources, None)
    looks = np.concatenate([each.segment.metadata.looks[each.kept] for each in sources])
    return columns_as_arrays(tags, numbers, (codes[order], sets), looks[order])


def _tag(sources: Sequence[Source], name: str | None) -> tuple[Codes, list[str]]:
    """Return a tag column's codes, or the data sets', over all sources, and its values in use."""
    known: dict[str, int] = {}
    parts = []
    for source in sources:
        metadata = source.segment.metadata
        column = metadata.data_sets() if name is None else metadata.tag(name)
        if column is None:
            parts.append(np.full(int(source.kept.sum()), ABSENT, np.int64))
            continue
        codes = column.codes[source.kept]
        new = np.zeros(len(column.values) + 1, np.int64)
        for code in np.unique(codes).tolist():
            if code != ABSENT:
                new[code] = known.setdefault(column.values[code - 1], len(known) + 1)
        parts.append(new[codes])
    return np.concatenate(parts), list(known)
