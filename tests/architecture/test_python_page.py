"""docs/reference/python.md says what the docstrings say, of all that is public."""

import inspect
import pydoc
import re
from dataclasses import fields

import python_page
from python_page import PAGE, Told, made, signature

import clipsearch
from clipsearch.feed.options import FeedOptions
from clipsearch.search.options import QueryOptions


def test_the_page_is_up_to_date() -> None:
    assert made() == PAGE.read_text(encoding="utf-8"), "run: make python"


def test_no_public_name_is_left_out_and_no_option_without_its_meaning() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in set(clipsearch.__all__) - {"__version__"}:
        assert f"\n### {name}\n" in text or re.search(rf"`(clipsearch\.)?{name}`", text), name
    for thing in (FeedOptions, QueryOptions):
        meanings = python_page.meanings_of(thing)
        assert all(len(meanings[each.name]) > 5 for each in fields(thing))
    for method in ("query", "similar", "locate", "get", "suggest", "list"):
        assert f"\n#### Search.{method}\n" in text


def test_help_of_feed_is_its_page_and_its_signature() -> None:
    shown = pydoc.render_doc(clipsearch.feed, renderer=pydoc.plaintext)
    assert "Bring an index to what" in shown and "quiet: bool = False" in shown


def test_a_docstring_is_taken_apart_and_a_signature_is_as_written() -> None:
    def example(self: object, a: "str | None", b: int = 3, *, c: "list[str]" = ()) -> "set[int]":
        """Do it.

        More of it.

        Args:
            a: First, over
                two lines.
            b, c: Others.

        Raises:
            ValueError: never.
        """

    told = Told.of(example)
    assert told.text == ["Do it.", "More of it."]
    assert told.sections == {
        "Arguments": {"a": "First, over two lines.", "b, c": "Others."},
        "Raises": {"ValueError": "never."},
    }
    expected = "example(a: str | None, b: int = 3, *, c: list[str] = ()) -> set[int]"
    assert signature(example, "example") == expected
    assert inspect.getdoc(example) is not None
