"""The two fields beside the maps of tags and numbers that make a filter tight.

`nearestNeighbor` looks for the nearest among what a pre-filter lets pass. Of a `sameElement` on a
map Vespa knows beforehand only that each of its conditions holds for some entry, and of a negated
one nothing at all; what fails in the end is dropped, and its places among the nearest stay empty.
So each tag is one text once more, column and value together, and each number one integer:

    tag_values   "class<TAB>beach"    the value as `clipsearch.folding` folds it
    number_keys  the column's place in 10 bits, over the upper 53 bits of the value in an order
                 that integers share with doubles

The lowest 11 bits of a value are lost, so neighbouring numbers may share a key. A range of keys
therefore passes all that it should and perhaps a neighbour more: the exact `sameElement` beside it
decides.
"""

import struct
from collections.abc import Mapping, Sequence

from clipsearch.filtering import NumberFilter
from clipsearch.folding import fold

TAG_VALUES = "tag_values"
NUMBER_KEYS = "number_keys"
FILTER_FORM = 2
"""Of documents that have these fields, from this one on (`IndexInfo.document_form`)."""

# Places are from 1 to this; a column beyond it has no keys, and its filters are asked exactly.
MOST_COLUMNS = 1023
_VALUE_BITS = 53
_LOST_BITS = 11
_SIGN = 1 << 63
_ALL = (1 << 64) - 1
_GREATEST_VALUE = (1 << _VALUE_BITS) - 1

# A tab ends the column, so a tab in its name is written in two characters.
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t"})


def tag_value(column: str, value: str) -> str:
    """Return the entry of `tag_values` for one tag."""
    return f"{column.translate(_ESCAPED)}\t{fold(value)}"


def tag_values(tags: Mapping[str, str]) -> list[str]:
    """Return the field `tag_values` of a document, in the order of its tags."""
    return [tag_value(column, value) for column, value in tags.items()]


def number_key(place: int, value: float) -> int:
    """Return a finite number's entry of `number_keys` in column `place`, 1 to MOST_COLUMNS.

    Of two values in one column, the greater never has the smaller key.
    """
    # -0.0 is equal to 0.0, but not in its bits; adding 0.0 makes it that.
    bits = int.from_bytes(struct.pack(">d", value + 0.0), "big")
    ordered = bits ^ _ALL if bits & _SIGN else bits | _SIGN
    return place << _VALUE_BITS | ordered >> _LOST_BITS


def number_keys(numbers: Mapping[str, float], places: Mapping[str, int]) -> list[int]:
    """Return the field `number_keys` of a document.

    Columns without a place that fits have no entry.
    """
    return [
        number_key(places[column], value)
        for column, value in numbers.items()
        if 0 < places.get(column, 0) <= MOST_COLUMNS
    ]


def key_range(place: int, condition: NumberFilter) -> tuple[int, int]:
    """Return the least and the greatest key that a number which passes `condition` may have."""
    low, high = condition.low, condition.high
    least = place << _VALUE_BITS
    return (
        least if low is None else number_key(place, low),
        least | _GREATEST_VALUE if high is None else number_key(place, high),
    )


def places_of(column_order: Sequence[str]) -> dict[str, int]:
    """Return the place of each column, from 1, in `IndexInfo.column_order`."""
    return {column: place for place, column in enumerate(column_order, start=1)}
