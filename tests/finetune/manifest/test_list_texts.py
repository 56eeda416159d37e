"""Lists of texts in one field, against those who write them: Python, JSON, NumPy and pandas."""

import ast
import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_manifests import captions, kinds, pictures, problems, read, write_csv

from finetune.manifest.fields.list_texts import listed_texts

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5)


@given(texts)
def test_what_python_and_json_write_is_read(values: list[str]) -> None:
    assert listed_texts(repr(values)) == tuple(values)
    assert listed_texts(json.dumps(values)) == tuple(values)
    assert listed_texts(json.dumps(values, ensure_ascii=False)) == tuple(values)
    if values:
        assert listed_texts(repr(tuple(values))) == tuple(values)


@given(st.lists(st.text("ab'\" ,", min_size=1, max_size=20), min_size=1, max_size=5))
def test_what_numpy_writes_is_read(values: list[str]) -> None:
    assert listed_texts(str(np.array(values, dtype=object))) == tuple(values)


@given(st.text("[]()'\"\\, ax0unN\n", max_size=30))
def test_nothing_is_read_that_python_and_json_would_not(text: str) -> None:
    found = listed_texts(text)
    if found is None or not (text.strip().startswith("[") and "," in text):
        return
    try:
        read = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return  # NumPy's
    if all(isinstance(each, str) for each in read) and len(read) == len(found):
        assert found == tuple(read)


OTHERS = {
    "missing ones": ("[None, 'a', nan, null]", ("a",)),
    "a set": ("{'a', 'b'}", ("a", "b")),
    "python 2": ("[u'a', u'b']", ("a", "b")),
    "empty": ("[]", ()),
    "blanks": ("  [ 'a' ,  'b' ]  ", ("a", "b")),
    "lines": ("['a'\n 'b']", ("a", "b")),
}
NO_LISTS = (
    *("", "[", "[]]", "a", "[a]", "[3]", "[1, 2]", "['a'", "'a', 'b'", "['a''b']", "['a' b]"),
    *("('a')", "{}", "{'a': 'b'}", "[['a']]", "['tis the season]", "['a' ... 'z']", "['\\x']"),
    *("['a', 3]", "[b'a']", "[Nonesuch]", "[" * 100_000, "[" * 50_000 + "]" * 50_000),
)


@pytest.mark.parametrize("case", OTHERS)
def test_other_lists(case: str) -> None:
    text, expected = OTHERS[case]
    assert listed_texts(text) == expected


@pytest.mark.parametrize("text", NO_LISTS, ids=lambda text: text[:20])
def test_no_lists(text: str) -> None:
    assert listed_texts(text) is None


def test_a_long_list_takes_time_by_its_length() -> None:
    many = [f"caption number {number}" for number in range(100_000)]
    assert listed_texts(repr(many)) == tuple(many)
    assert listed_texts(repr(many)[:-1] + ", 3]") is None


def test_captions_and_tags_as_pandas_writes_lists(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    expected = {
        "a.png": ("a red kite", "the kite over a field"),
        "b.png": ("a dog's bowl", "bowl of water"),
        "c.png": ("[untitled]",),
    }
    values = [list(each) for each in expected.values()]
    for name, column in (
        ("lists", values),
        ("arrays", [np.array(each, object) for each in values]),
    ):
        frame = pd.DataFrame({"image": list(expected), "captions": column, "class": column})
        path = tmp_path / f"{name}.csv"
        frame.to_csv(path, index=False)
        manifest, records = read(path)
        assert captions(records) == expected
        assert records[0].metadata["class"] == "a red kite; the kite over a field"
        assert not manifest.problems.notes


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = write_csv(tmp_path / "m.csv", ("image", "captions"), ("a.png", "['a' ... 'z']"))
    manifest, (record,) = read(path)
    assert record.captions == ("['a' ... 'z']",)
    assert [each.kind for each in problems(manifest)] == ["unread list"]
    assert not manifest.problems


def test_one_caption_in_brackets_stays(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = write_csv(
        tmp_path / "m.csv", ("image", "caption"), ("a.png", "['x']"), ("b.png", "['x', 'y']")
    )
    assert captions(read(path)[1]) == {"a.png": ("['x']",), "b.png": ("x", "y")}


def test_vectors_as_numpy_writes_them(tmp_path: Path) -> None:
    vector = np.linspace(0, 1, 40, dtype=np.float32)
    path = write_csv(
        tmp_path / "m.csv",
        ("id", "caption", "embedding"),
        ("a", "x", str(vector)),
        ("b", "y", "[[1]"),
    )
    manifest, (record,) = read(path)
    assert record.embedding is not None
    np.testing.assert_allclose(record.embedding, vector, atol=1e-6)
    assert kinds(manifest) == {"bad row": 1}
    write_csv(path, ("id", "caption", "embedding"), ("a", "x", "[1]"), ("b", "y", "[" * 20_000))
    assert [record.id for record in read(path)[1]] == ["a"]


def test_blanks_round_fields_are_cut(tmp_path: Path) -> None:
    pictures(tmp_path, "0.png", "1.png", "2.png")
    path = tmp_path / "m.csv"
    path.write_text(
        "image, caption, class, year\n"
        "0.png, one tile, beach, 2010\n"
        '1.png, "two tiles, or three", "beach" ,2011 \n'
        '2.png,three tiles," beach ",\t2012\n'
    )
    path.write_text(path.read_text().replace('"beach" ,', '"beach",'))
    manifest, records = read(path)
    assert [record.metadata["class"] for record in records] == ["beach"] * 3
    assert records[1].captions == ("two tiles, or three",)
    assert manifest.columns() == {"class": "tag", "year": "number"}
    assert not manifest.problems
    assert not manifest.problems.notes
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"image": "0.png", "caption": "x", "class": " beach ", "places": [" a ", "b"]})
    )
    (record,) = read(tmp_path / "m.jsonl")[1]
    assert dict(record.metadata) == {"class": "beach", "places": "a; b"}


def test_blanks_behind_a_closing_quotation_mark(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = tmp_path / "m.csv"
    path.write_text('image,caption,class\n"a.png" , "one, or two" ,"beach" \nb.png,three,sea\n')
    manifest, records = read(path)
    assert captions(records) == {"a.png": ("one, or two",), "b.png": ("three",)}
    assert [record.metadata["class"] for record in records] == ["beach", "sea"]
    assert not manifest.problems
    assert manifest.problems.notes == {"stray quote": 1}


def test_a_field_of_a_million_characters(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    long = "word, " * 170_000 + "end"
    path = write_csv(tmp_path / "m.csv", ("image", "caption"), ("a.png", long), ("b.png", "short"))
    before = csv.field_size_limit()
    manifest, records = read(path)
    assert captions(records) == {"a.png": (long,), "b.png": ("short",)}
    assert not manifest.problems
    assert not manifest.problems.notes
    assert csv.field_size_limit() == before
