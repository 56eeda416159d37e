import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.folding import fold


@pytest.mark.parametrize(
    "same",
    [
        ("Beach", "BEACH", "beach"),
        ("caf\u00e9", "cafe\u0301", "CAF\u00c9", "CAFE\u0301"),
        ("Stra\u00dfe", "STRASSE", "strasse"),
        ("\u039f\u03b4\u03cc\u03c2", "\u039f\u0394\u039f\u0301\u03a3", "\u03bf\u03b4\u03cc\u03c3"),
        ("\u1fb3", "\u03b1\u0345", "\u0391\u0345", "\u1fbc"),
        ("\uac00", "\u1100\u1161"),
        ("\u212b", "\u00c5", "A\u030a", "\u00e5"),
    ],
)
def test_one_word_in_all_its_spellings(same: tuple[str, ...]) -> None:
    assert len({fold(text) for text in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "b"), ("e", "\u00e9"), ("a b", "ab"), ("a", "a "), ("\u00bd", "1/2"), ("\uff21", "a")],
)
def test_what_differs_in_more_stays_apart(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(text=st.text())
def test_case_and_form_make_no_difference(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert unicodedata.is_normalized("NFC", folded)
    for form in ("NFC", "NFD"):
        assert fold(unicodedata.normalize(form, text)) == folded
    assert fold(text.lower()) == folded or "\u0130" in text


@given(text=st.text(st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_is_the_long_one(text: str) -> None:
    assert fold(text) == fold(text + "\u00e9")[: len(text)]
