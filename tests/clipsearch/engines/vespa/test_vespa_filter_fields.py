"""Keys of numbers and tags: a range passes all that it should, and columns stay apart."""

import json
import math
import re
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipsearch.engines.vespa.filter_fields import (
    MOST_COLUMNS,
    key_range,
    number_key,
    number_keys,
    places_of,
    tag_value,
    tag_values,
)
from clipsearch.filtering import NumberFilter

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
PLACES = st.integers(1, MOST_COLUMNS)
LARGEST, SMALLEST, SMALLEST_NORMAL = 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308
EDGES = [
    sign * value
    for sign in (1.0, -1.0)
    for value in (0.0, SMALLEST, SMALLEST_NORMAL, 1e-310, 0.1, 1.0, 2003.0, 2**53, 1e308, LARGEST)
]
EDGES += [math.nextafter(edge, math.inf) for edge in EDGES if edge < LARGEST]
EDGES += [math.nextafter(edge, -math.inf) for edge in EDGES if edge > -LARGEST]


def compared(value: float, condition: NumberFilter) -> bool:
    """What a condition means, by Python's own comparison."""
    low, high = condition.low, condition.high
    if low is not None and (value < low or (condition.low_open and value == low)):
        return False
    return high is None or value < high or (value == high and not condition.high_open)


def test_the_layout_is_the_one_that_was_tried(recorded: Path) -> None:
    """The ranges that a real Vespa was asked; size was its column 1 and year its column 2."""
    rows = map(json.loads, (recorded / "filters" / "answers.jsonl").open(encoding="utf-8"))
    seen = set()
    for row in rows:
        where = row["tight"]["where"]
        ranges = re.findall(r"range\(ranks, (\d+)L, (\d+)L\)", where)
        columns = re.findall(r'key contains "(\w+)", value >= (\S+), value <= (\S+)\)', where)
        for (least, greatest), (column, low, high) in zip(ranges, columns, strict=True):
            condition = NumberFilter(column, float(low), float(high))
            assert key_range({"size": 1, "year": 2}[column], condition) == (
                int(least),
                int(greatest),
            )
            seen.add((column, low, high))
    assert len(seen) == 3


@pytest.mark.parametrize("low", sorted(set(EDGES)))
def test_neighbours_of_an_edge_are_never_outside(low: float) -> None:
    for high in EDGES:
        for condition in (
            NumberFilter("n", low, high),
            NumberFilter("n", low, high, low_open=True, high_open=True),
            NumberFilter("n", low=low),
            NumberFilter("n", high=high),
        ):
            least, greatest = key_range(7, condition)
            for value in EDGES:
                if compared(value, condition):
                    assert least <= number_key(7, value) <= greatest, (value, condition)


def test_both_zeros_are_one_number() -> None:
    assert number_key(1, 0.0) == number_key(1, -0.0)
    assert number_key(1, SMALLEST) >= number_key(1, 0.0) >= number_key(1, -SMALLEST)


@given(place=PLACES, one=NUMBERS, other=NUMBERS)
@example(place=1, one=-0.0, other=0.0)
@example(place=MOST_COLUMNS, one=-LARGEST, other=LARGEST)
def test_keys_are_in_the_order_of_the_numbers(place: int, one: float, other: float) -> None:
    keys = [number_key(place, value) for value in sorted((one, other))]
    assert keys[0] <= keys[1]
    if one == other:
        assert keys[0] == keys[1]
    for key in keys:
        struct.pack(">q", key)  # fits a long
        assert key > 0


@given(
    place=PLACES,
    value=NUMBERS,
    low=st.none() | NUMBERS,
    high=st.none() | NUMBERS,
    low_open=st.booleans(),
    high_open=st.booleans(),
)
def test_a_range_only_widens(
    place: int, value: float, low: float | None, high: float | None, low_open: bool, high_open: bool
) -> None:
    condition = NumberFilter("n", low, high, low_open, high_open)
    least, greatest = key_range(place, condition)
    if compared(value, condition):
        assert least <= number_key(place, value) <= greatest
    elif low is not None and value < low and (low - value) > 2**-40 * max(abs(low), abs(value)):
        assert number_key(place, value) < least, "only a neighbour may pass too"


@given(one=PLACES, other=PLACES, value=NUMBERS, low=st.none() | NUMBERS, high=st.none() | NUMBERS)
def test_columns_stay_apart(
    one: int, other: int, value: float, low: float | None, high: float | None
) -> None:
    least, greatest = key_range(one, NumberFilter("n", low, high))
    if one != other:
        assert not least <= number_key(other, value) <= greatest


def test_columns_without_room_for_their_place_have_no_key() -> None:
    places = places_of([f"c{number}" for number in range(MOST_COLUMNS + 1)])
    numbers = {"c0": 1.0, f"c{MOST_COLUMNS - 1}": 2.0, f"c{MOST_COLUMNS}": 3.0, "unknown": 4.0}
    assert number_keys(numbers, places) == [number_key(1, 1.0), number_key(MOST_COLUMNS, 2.0)]


def test_tags_are_column_tab_and_folded_value() -> None:
    assert tag_values({"class": "BEACH", "Place": "Cafe\u0301"}) == [
        "class\tbeach",
        "Place\tcaf\u00e9",
    ]


@given(
    one=st.tuples(st.text("a\t\\", max_size=4), st.text("a\t\\", max_size=4)),
    other=st.tuples(st.text("a\t\\", max_size=4), st.text("a\t\\", max_size=4)),
)
def test_no_two_tags_share_an_entry(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (tag_value(*one) == tag_value(*other)) == (one == other)
