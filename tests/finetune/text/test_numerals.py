"""Which texts are numbers without loss, against exact decimal arithmetic."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.text.numerals import (
    exact_number,
    number_text,
    read_number,
    value_text,
    whole_or_float,
    without_point_zero,
)

NUMBERS = {
    "0.1": 0.1,
    "1e-05": 1e-05,
    "1.5E+20": 1.5e20,
    "19.90": 19.9,
    "1.0": 1.0,
    ".5": 0.5,
    "-0": 0.0,
    " 7 ": 7.0,
    "9007199254740992": 9007199254740992.0,
    "1152921504606846976": 2.0**60,
    "0.10000000000000001": 0.1,  # as C and R print 0.1 in full
    "1e+22": 1e22,
}
CODES = {
    "02134": 2134.0,
    "00": 0.0,
    "12E4": 120000.0,
    "1e5": 100000.0,
    "+49301234567": 49301234567.0,
    "5.": 5.0,
    "0.1000000000000000056": 0.1,
}
NO_NUMBERS = (
    *("9007199254740993", "1234567890123456789", "1e400", "9" * 400, "nan", "inf", "-inf"),
    *("1_000", "1,5", "0x10", "\u0661\u0662", "1 2", "", "-", ".", "e5", "1e", "--1", "12-3"),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_without_loss(text: str) -> None:
    assert exact_number(text) == read_number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", CODES)
def test_codes_are_numbers_only_where_a_person_says_so(text: str) -> None:
    assert exact_number(text) is None
    assert read_number(text) == CODES[text]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_no_double_is_equal_to_is_no_number_for_anybody(text: str) -> None:
    assert exact_number(text) is None
    assert read_number(text) is None


def test_typed_values() -> None:
    assert exact_number(2**53) == 2.0**53
    assert exact_number(2**53 + 1) is None
    assert exact_number(10**400) is None
    assert exact_number(0.1) == 0.1
    assert exact_number(math.nan) is None
    assert exact_number(math.inf) is None
    assert exact_number(None) is None
    assert read_number(2**53 + 1) is None


@given(st.integers(-(2**70), 2**70))
def test_a_whole_number_is_one_exactly_where_a_double_has_its_value(value: int) -> None:
    exact = int(float(value)) == value
    assert (exact_number(str(value)) is not None) == exact
    assert (exact_number(value) is not None) == exact


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_comes_back_from_its_text(value: float) -> None:
    for text in (number_text(value), repr(value), f"{value:.17g}"):
        assert exact_number(text) == value
    assert Decimal(number_text(value)) in (Decimal(value), Decimal(repr(value)))
    assert whole_or_float(value) == value


@given(st.from_regex(r"-?[0-9]{0,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_no_two_texts_of_different_numbers_are_one(text: str) -> None:
    number = exact_number(text)
    if number is not None:
        in_full = (Decimal(number), Decimal(repr(number)), Decimal(f"{number:.17g}"))
        assert Decimal(text) in in_full
        assert not text.lstrip("-").startswith("0") or text.lstrip("-")[1:2] in ("", ".", "e", "E")


def test_text_in_full() -> None:
    assert number_text(4006381333931.0) == "4006381333931"
    assert number_text(1e20) == "1" + "0" * 20
    assert number_text(-0.0) == "0"
    assert number_text(1e300) == "1e+300"
    assert number_text(19.99) == "19.99"
    assert value_text(2010.0) == "2010"
    assert value_text("2010.0") == "2010.0"
    assert value_text(2**60 + 1) == str(2**60 + 1)


def test_whole_numbers_that_a_data_frame_wrote_as_floats() -> None:
    assert without_point_zero("101.0") == "101"
    assert without_point_zero("-3.0") == "-3"
    for text in ("101", "101.5", "101.00", "007.0", "1e5.0", ".0", "a.0"):
        assert without_point_zero(text) is None
