"""Facets count together what filters find together: every spelling of one tag."""

from collections.abc import Iterable, Mapping

from clipsearch.folding import fold

Counts = tuple[tuple[str, int], ...]


def counts_by_tag(spellings: Mapping[str, int] | Iterable[tuple[str, int]]) -> Counts:
    """Return (value, documents) from each spelling's counts, most frequent first, then by value.

    "Beach" and "beach" are one tag (`clipsearch.folding`); it is shown in its most frequent
    spelling, of equally frequent ones in the first by code points.
    """
    pairs = spellings.items() if isinstance(spellings, Mapping) else spellings
    totals: dict[str, int] = {}
    shown: dict[str, tuple[int, str]] = {}
    for value, count in pairs:
        tag = fold(value)
        totals[tag] = totals.get(tag, 0) + count
        shown[tag] = min(shown.get(tag, (-count, value)), (-count, value))
    counted = ((shown[tag][1], total) for tag, total in totals.items())
    return tuple(sorted(counted, key=lambda pair: (-pair[1], pair[0])))
