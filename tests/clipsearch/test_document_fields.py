"""Fields of documents, updates and index infos: written, read and hashed as declared once."""

import hashlib
import importlib.resources
import json
import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import DOCUMENT_FORM, PARTS, Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.store import texts_of
from clipsearch.engines.vespa.answers import parse_document
from clipsearch.engines.vespa.operations import hit_fields, put_fields, shown_fields, update_fields
from clipsearch.engines.vespa.queries import LATER_FIELDS
from clipsearch.feed.ledger.entry import hash_of_fields, hashed_fields, hashes_before
from clipsearch.feed_facts import DataSet, OpenFeed
from clipsearch.operations import Update

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
DOCUMENTS = st.builds(
    Document,
    id=TEXT.filter(bool),
    captions=st.lists(TEXT, max_size=3).map(tuple),
    path=TEXT,
    tags=st.dictionaries(TEXT, TEXT, max_size=3),
    numbers=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    data_set=TEXT,
    content=TEXT,
    look=st.sampled_from(["", "0123456789", "look"]),
)
FULL = Document(
    "a.jpg",
    ("two dogs", "a beach"),
    "photos/a.jpg",
    {"class": "beach"},
    {"year": 2010.0, "f": 0.5},
    np.array([1, 0, 0, 0], np.float32),
    data_set="photos",
    content="0f",
    look="0123456789",
)


def test_each_field_but_id_and_embedding_is_a_part() -> None:
    assert {one.name for one in fields(Document)} == {"id", "embedding", *PARTS}
    assert all(1 <= known.form <= DOCUMENT_FORM for known in PARTS.values())


def test_the_schema_has_a_field_for_each_part() -> None:
    schema = importlib.resources.files("vespa_app") / "schemas" / "image.sd"
    text = schema.read_text(encoding="utf-8")
    for name in ("id", "embedding", *PARTS):
        assert f"\n        field {name} type " in text, name
    for name in LATER_FIELDS:
        field = text.partition(f"\n        field {name} type ")[2].partition("\n        }")[0]
        assert re.search(r"indexing: .*\battribute\b", field), (
            f"{name}: a deploy is asked for by it"
        )


@given(DOCUMENTS)
def test_what_is_written_is_read_again(document: Document) -> None:
    assert Document.from_json(json.loads(json.dumps(document.to_json()))) == document


def test_an_earlier_row_is_read_without_what_it_lacks() -> None:
    row = {"id": "a", "captions": ["b"], "path": "c", "tags": {"d": "e"}, "numbers": {"f": 1.0}}
    assert Document.from_json(row) == Document("a", ("b",), "c", {"d": "e"}, {"f": 1.0})


@given(DOCUMENTS)
def test_what_vespa_is_given_is_read_again(document: Document) -> None:
    numbered = {column: place for place, column in enumerate(document.numbers, 1)}
    whole = replace(document, embedding=np.array([1, 0], np.float32))
    stored = put_fields(whole, places=numbered)["fields"]
    asked = {name: stored[name] for name in shown_fields(DOCUMENT_FORM, embeddings=False)}
    assert parse_document({"fields": json.loads(json.dumps(asked))}) == document


def test_hits_show_what_searches_ask_for() -> None:
    assert set(FULL.to_show(as_hit=True)) == set(hit_fields(DOCUMENT_FORM))
    assert FULL.to_show() == {
        "id": "a.jpg",
        "captions": ["two dogs", "a beach"],
        "path": "photos/a.jpg",
        "tags": {"class": "beach"},
        "numbers": {"year": 2010, "f": 0.5},
        "data_set": "photos",
        "embedding": [1.0, 0.0, 0.0, 0.0],
    }
    less = replace(FULL, data_set="", embedding=None).to_show()
    assert set(less) == {"id", "captions", "path", "tags", "numbers"}


def test_hashes_are_those_of_the_ledgers_that_are_there() -> None:
    first = [["two dogs", "a beach"], "photos/a.jpg", [["class", "beach"]]]
    first += [[["f", 0.5], ["year", 2010.0]]]
    for parts, found in (
        (first, hashes_before(FULL)[1]),
        ([*first, "photos"], hashes_before(FULL)[0]),
    ):
        assert found == hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    compact = json.dumps([*first, "photos"], separators=(",", ":")).encode()
    assert hash_of_fields(FULL) == hashlib.sha256(compact).hexdigest()


def test_columns_are_hashed_as_documents_and_are_them_again() -> None:
    documents = [FULL, replace(FULL, id="b.jpg", captions=("é",), tags={}, numbers={"x": 1.0})]
    columns = DocumentColumns.of(documents)
    found = [hashlib.sha256(each).hexdigest() for each in hashed_fields(columns.parts)]
    assert found == list(map(hash_of_fields, documents))
    assert [as_json(each) for each in columns] == [as_json(each) for each in documents]
    assert [each.id for each in columns.rows(np.array([1]))] == ["b.jpg"]
    assert list(map(orjson.loads, texts_of(columns))) == [each.to_json() for each in documents]


def as_json(document: Document) -> dict[str, Any]:
    return document.to_json() | {"embedding": document.embedding.tolist()}  # type: ignore[union-attr]


def test_an_update_holds_what_is_named_and_nothing_else() -> None:
    change = Update("a.jpg", captions=("new",), tags=None, numbers={})
    assert change.parts == {"captions": ("new",), "numbers": {}}
    assert change.applied_to(FULL) == replace(FULL, captions=("new",), numbers={})
    fields = {"captions", "words", "numbers", "number_keys", "sortable"}
    assert set(update_fields(change, {})["fields"]) == fields
    with pytest.raises(TypeError, match="no part 'colour': only captions, path, "):
        Update("a.jpg", colour="red")


def test_what_an_index_knows_is_read_again() -> None:
    info = IndexInfo(
        4,
        number_columns=("year",),
        images_root=None,
        data_sets=(DataSet("photos", "/a/photos.csv", "/b/photos.csv", None, "p/"),),
        open_feeds=(OpenFeed("t", 1.5),),
    )
    stored = json.loads(json.dumps(info.to_json()))
    assert IndexInfo.from_json(stored) == IndexInfo.from_json(info.to_json()) == info
    assert IndexInfo.from_json(stored | {"of a later version": 1}) == info
    for name, wrong in (
        ("dimension", "4"),
        ("number_columns", "year"),
        ("data_sets", [{"name": 1, "manifest": "", "resolved": ""}]),
        ("open_feeds", [{"token": "t"}]),
        ("open_feeds", ["t"]),
    ):
        with pytest.raises(TypeError):
            IndexInfo.from_json(stored | {name: wrong})
