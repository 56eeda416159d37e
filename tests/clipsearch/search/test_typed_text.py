"""What people type into a search box: operators where they are meant, plain text elsewhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.search.parts import Part
from clipsearch.search.query_terms import QueryTerms, query_terms
from clipsearch.search.typed_text import read_typed
from clipsearch.terms import Term, Terms
from clipsearch.text import tokens, words


def terms(text: str, *, plain: bool = False, weight: float = 1.0) -> QueryTerms:
    return query_terms([Part("text", text, weight)], "en", plain=plain)


def phrase(*stems: str) -> Term:
    return Term(stems)


def beginning(text: str) -> Term:
    return Term((text,), is_prefix=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"two dogs" beach', QueryTerms(("beach",), Terms(optional=(phrase("two", "dog"),)))),
        ("“two dogs”", QueryTerms((), Terms(optional=(phrase("two", "dog"),)))),
        ('"dogs"', QueryTerms(("dog",))),
        ("red -cats", QueryTerms(("red",), Terms(excluded=(phrase("cat"),)))),
        ('-"a cat"', QueryTerms((), Terms(excluded=(phrase("a", "cat"),)))),
        ("+red dogs", QueryTerms(("dog",), Terms(required=((phrase("red"),),)))),
        ('+"red dogs"', QueryTerms((), Terms(required=((phrase("red", "dog"),),)))),
        ("Butterfl* red", QueryTerms(("red",), Terms(optional=(beginning("butterfl"),)))),
        ("+Café*", QueryTerms((), Terms(required=((beginning("cafe"),),)))),
        ("-circ*", QueryTerms((), Terms(excluded=(beginning("circ"),)))),
        ("(circ*),", QueryTerms((), Terms(optional=(beginning("circ"),)))),
        ("x-ra*", QueryTerms(("x",), Terms(optional=(beginning("ra"),)))),
        ("+x-ray", QueryTerms((), Terms(required=((phrase("x", "ray"),),)))),
        ("-x-ray", QueryTerms((), Terms(excluded=(phrase("x", "ray"),)))),
        ("-x-ra*", QueryTerms((), Terms(excluded=(phrase("x", "ra"),)))),
        ("-🎄 red", QueryTerms(("red",), Terms(excluded=(phrase("🎄"),)))),
        ('"red"-cat', QueryTerms(("red", "cat"))),
        ('""', QueryTerms()),
        ('red "!!!"', QueryTerms(("red",))),
        ("dog dog +dog", QueryTerms(("dog", "dog"), Terms(required=((phrase("dog"),),)))),
    ],
)
def test_operators(text: str, found: QueryTerms) -> None:
    assert terms(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "an x-ray of a hand",
        "C++ and C#",
        "24*7",
        "**bold** text",
        "a - b + c * d",
        "-",
        "+ -",
        "--verbose ++count",
        '27" wide, 5" deep',
        'an "unbalanced quotation',
        "red -",
        "+*",
        "a*b*",
        "- dog",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert terms(text) == QueryTerms(tuple(tokens(text)))
    assert read_typed(text).plain == text


def test_an_encoder_is_given_the_text_without_operators() -> None:
    typed = read_typed('red  "two dogs", -cat +Beach! circ* -"a b" x-ray')
    assert typed.plain == "red two dogs, Beach! circ x-ray"
    assert read_typed("-cat").plain == ""
    assert read_typed(" two\n dogs ").plain == " two\n dogs "


def test_plain_and_negative_texts_are_taken_as_they_stand() -> None:
    text = '"two dogs" -cat +red circ*'
    assert terms(text, plain=True) == QueryTerms(tuple(tokens(text)))
    assert terms(text, weight=-1) == QueryTerms()


def test_what_is_marked_in_captions() -> None:
    found = terms('red "two dogs" -cat +beach circ*')
    assert found.marked == {"red", "two", "dog", "beach"}
    assert found.marked_prefixes == ("circ",)


@given(st.text(alphabet='ab -+*"“”é🎄\n\t.x', max_size=24))
def test_whatever_is_typed_is_read(text: str) -> None:
    typed = read_typed(text)
    kept = [piece.text for piece in typed.pieces if piece.sign != "-"]
    # No letter is lost but what is left out, and none is added.
    assert words(" ".join(kept)) == words(typed.plain)
    assert sorted(re.findall("[abxé]", "".join(piece.text for piece in typed.pieces))) == sorted(
        re.findall("[abxé]", text)
    )
    terms(text)
