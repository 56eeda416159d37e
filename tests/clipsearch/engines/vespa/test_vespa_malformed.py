"""Answers that are not as Vespa's are: each is one sentence of ours, whatever stands in it."""

import contextlib
import copy
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import VALUES, deep, places

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa.answers import (
    SearchAnswer,
    failure_sentence,
    is_missing,
    parse_document,
    parse_search,
    vespa_message,
)
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import Client, ConnectionSettings, Reply
from clipsearch.engines.vespa.index_info import read_info
from finetune.errors import EngineError

TARGET = "http://vespa.example:8080"
RECORDED = Path(__file__).resolve().parents[3] / "recorded"


def recorded_bodies() -> list[tuple[int, Any]]:
    found = []
    for name in ("http-document-and-search.json", "http-faults.json"):
        for record in json.loads((RECORDED / name).read_text(encoding="utf-8")):
            response = record.get("response")
            if response and isinstance(response["body"], dict):
                found.append((response["status"], response["body"]))
    return found


BODIES = recorded_bodies()


def json_text(value: Any) -> str:
    """As JSON, also where it is deeper than the stack of this test leaves room for."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * limit)
    try:
        return json.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


@st.composite
def changed_answers(draw: st.DrawFn) -> tuple[int, Any]:
    """A recorded answer in which something is something else, or gone."""
    status, body = draw(st.sampled_from(BODIES))
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(places(body))))
        if not way:
            return status, draw(VALUES)
        holder = body
        for key in way[:-1]:
            holder = holder[key]
        if draw(st.booleans()) or isinstance(holder, list):
            holder[way[-1]] = draw(VALUES)
        else:
            del holder[way[-1]]
    return status, body


def assert_one_sentence(error: EngineError) -> None:
    sentence = str(error)
    assert sentence and "\n" not in sentence and len(sentence) < 3_000
    sentence.encode()


def assert_sound(answer: SearchAnswer) -> None:
    assert type(answer.total) is int and 0 <= answer.total < 2**63
    for hit in answer.hits:
        assert math.isfinite(hit.score)
        for part in (hit.bm25, hit.cosine):
            assert part is None or math.isfinite(part)
        document = hit.document
        json.dumps([document.id, document.path, document.captions, dict(document.tags)]).encode()
        "".join([document.id, document.path, *document.captions, *document.tags.values()]).encode()
        assert all(math.isfinite(value) for value in document.numbers.values())
    for counts in answer.facets.values():
        assert all(isinstance(value, str) and type(count) is int for value, count in counts)
    assert answer.partial is None or answer.partial.encode()


@settings(max_examples=200, deadline=None)
@given(answer=changed_answers() | st.tuples(st.sampled_from([200, 400, 503]), VALUES))
def test_any_answer_of_a_search_is_read_or_refused(answer: tuple[int, Any]) -> None:
    try:
        assert_sound(parse_search(*answer, TARGET))
    except EngineError as error:
        assert_one_sentence(error)
        assert str(error).startswith(TARGET)


@settings(max_examples=150, deadline=None)
@given(answer=changed_answers() | st.tuples(st.just(200), VALUES))
def test_any_document_is_read_or_refused(answer: tuple[int, Any]) -> None:
    status, body = answer
    failure_sentence(status, body, TARGET).encode()
    vespa_message(body).encode()
    is_missing(status, body)
    if not isinstance(body, dict):
        return  # a 200 of another kind never comes so far
    try:
        document = parse_document(body)
    except EngineError as error:
        assert_one_sentence(error)
        return
    assert document.id
    "".join([document.id, *document.captions, *document.tags, *document.tags.values()]).encode()
    assert all(type(value) is float and math.isfinite(value) for value in document.numbers.values())
    if document.embedding is not None:
        assert document.embedding.ndim == 1 and np.isfinite(document.embedding).all()


def hit(**changed: Any) -> Any:
    fields = {"id": "a.jpg", "captions": ["a dog"], "tags": {"a": "b"}, "numbers": {"year": 2000.0}}
    found = {"id": "index:images/0/1", "relevance": 1.5, "fields": fields | changed}
    return {"root": {"fields": {"totalCount": 1}, "children": [found]}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"captions": "a dog"}, "a document's captions is not an array"),
        ({"captions": [{"a": 1}]}, "a caption is not text"),
        ({"tags": ["b"]}, "a document's tags is not an object"),
        ({"tags": {"a": 1}}, "a tag is not text"),
        ({"numbers": {"year": "2000"}}, "a number of a document is not a finite number"),
        ({"numbers": {"year": True}}, "a number of a document is not a finite number"),
        ({"numbers": {"year": 10**400}}, "a number of a document is not a finite number"),
        ({"matchfeatures": {"lexical": math.inf}}, "a hit's lexical is not a finite number"),
        ({"id": 7}, "a hit's id is not text"),
        ({"path": deep()}, "a document's path is not text"),
        ({"embedding": {"values": [[1.0], [2.0, 3.0]]}}, "an embedding is not an array"),
        ({"embedding": {"values": [1e300]}}, "an embedding is not an array"),
    ],
)
def test_what_is_wrong_is_named(changed: Any, said: str) -> None:
    parse_search(200, hit(), TARGET)
    with pytest.raises(EngineError, match=said):
        parse_search(200, hit(**changed), TARGET)


@pytest.mark.parametrize("body", [{"root": {}}, {"root": {"children": []}}, {}, {"root": []}])
def test_an_answer_without_a_total_is_not_an_empty_one(body: Any) -> None:
    with pytest.raises(EngineError):
        parse_search(200, body, TARGET)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"root":' * 100_000,
        b'{"a": ' + b"1" * 5_000 + b"}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"\xff\xfe{}",
        b"{} {}",
        b"",
    ],
    ids=[
        "deep array",
        "deep object",
        "a number of 5,000 digits",
        "NaN",
        "Infinity",
        "bytes",
        "two",
        "none",
    ],
)
def test_what_is_no_json_of_vespas_is_none(data: bytes) -> None:
    assert Reply(200, data).json() is None


class Replaying:
    """A transport that gives its answers in order; the last one again and again."""

    def __init__(self, *bodies: Any, status: int = 200) -> None:
        self.bodies, self.status = list(bodies), status

    def send(self, *arguments: Any) -> Reply:
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        return Reply(self.status, json_text(body).encode())

    def close(self) -> None:
        pass


def client(*bodies: Any) -> Client:
    impatient = ConnectionSettings(connections=1, search_patience=0.0, feed_patience=0.0)
    return Client(TARGET, Replaying(*bodies), impatient)


def page(*documents: Any, **more: Any) -> Any:
    return {"pathId": "/document/v1/images/image/docid", "documents": list(documents), **more}


ENTRY = {"id": "id:images:image::a.jpg", "fields": {"id": "a.jpg"}}


@settings(max_examples=60, deadline=None)
@given(first=VALUES, second=VALUES)
def test_any_page_of_a_visit_is_read_or_refused(first: Any, second: Any) -> None:
    for body in (first, page(first, continuation="x"), page(ENTRY, continuation=first), {}):
        engine = VespaEngine(client(body, second), IndexInfo(dimension=8))
        try:
            assert all(document.id for document in engine.visit())
        except EngineError as error:
            assert_one_sentence(error)


def test_a_visit_ends_only_where_vespa_says_so() -> None:
    info = IndexInfo(dimension=8)
    whole = VespaEngine(client(page(ENTRY, continuation="x"), page()), info)
    assert [document.id for document in whole.visit()] == ["a.jpg"]
    for bodies in (({},), (page(ENTRY, continuation="x"), {"pathId": "x"})):
        with pytest.raises(EngineError, match="without any documents"):
            list(VespaEngine(client(*bodies), info).visit())
    with pytest.raises(EngineError, match="came to the same place again"):
        list(VespaEngine(client(page(ENTRY, continuation="x")), info).visit())


INFO_NAMES = ["format_version", *(one.name for one in dataclasses.fields(IndexInfo))]
KNOWN = {"format_version": 2, "dimension": 8, "tag_columns": ["class"]}


def info_text(pair: tuple[str, Any]) -> str:
    return json_text(KNOWN | {pair[0]: pair[1]})


@settings(max_examples=150, deadline=None)
@given(
    content=st.one_of(
        VALUES.map(json_text),
        st.tuples(st.sampled_from(INFO_NAMES), VALUES).map(info_text),
        st.just("[" * 100_000),
        VALUES,
    )
)
def test_anything_that_an_index_says_of_itself_is_read_or_refused(content: Any) -> None:
    body = {"id": "id:images:index_info::index", "fields": {"content": content}}
    try:
        info = read_info(client(body))
    except EngineError as error:
        assert_one_sentence(error)
        return
    assert info is not None and type(info.dimension) is int and type(info.language) is str
    assert all(type(column) is str for column in info.tag_columns + info.number_columns)


@settings(max_examples=60, deadline=None)
@given(body=VALUES)
def test_any_answer_to_a_search_of_the_engine_is_read_or_refused(body: Any) -> None:
    for answer in (body, {"root": body}):
        engine = VespaEngine(client(answer), IndexInfo(dimension=8))
        for ask in (
            engine.count,
            lambda engine=engine: engine.search(EngineQuery("bm25", tokens=("dog",))),
            lambda engine=engine: engine.get(["a.jpg"]),
        ):
            with contextlib.suppress(EngineError):
                ask()
