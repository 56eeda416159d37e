"""Every answer that a real Vespa was recorded to give, read by the engine."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from vespa_replies import (
    SETTINGS,
    TARGET,
    Mock,
    by_name,
    engine_over,
    records,
    reply_of,
    unit_vector,
)

from clipsearch.documents import DOCUMENT_FORM, Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa.answers import (
    failure_sentence,
    is_missing,
    parse_document,
    parse_search,
)
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import Client, Reply
from clipsearch.engines.vespa.operations import hex_values, shown_fields
from clipsearch.engines.vespa.writer import FeedStoppedError
from clipsearch.operations import Delete, Operation, Update, Upsert
from finetune.errors import EngineError


def test_every_recorded_search_is_read(recorded: Path) -> None:
    seen = 0
    for record in records(recorded, "http-document-and-search.json", "http-faults.json"):
        if not record["request"]["path"].startswith("/search/"):
            continue
        seen += 1
        status, body = record["response"]["status"], record["response"]["body"]
        root = body["root"]
        if status != 200:
            with pytest.raises(EngineError) as caught:
                parse_search(status, body, TARGET)
            sentence = str(caught.value)
            assert "\n" not in sentence and sentence.startswith(TARGET)
            for error in root["errors"]:
                assert " ".join(error["message"].split()) in sentence
            continue
        answer = parse_search(status, body, TARGET)
        found = [one for one in root.get("children", []) if "group" not in one["id"]]
        assert answer.total == root["fields"]["totalCount"]
        if record["name"] == "search-unknown-summary-field":
            assert answer.hits == () and answer.partial is not None
            continue
        assert answer.partial is None
        assert [hit.score for hit in answer.hits] == [one["relevance"] for one in found]
        assert [hit.document.id for hit in answer.hits] == [one["fields"]["id"] for one in found]
        for hit, one in zip(answer.hits, found, strict=True):
            features = one["fields"].get("matchfeatures", {})
            assert hit.bm25 == features.get("lexical")
            assert hit.cosine == features.get("cosine")
            assert dict(hit.document.tags) == one["fields"].get("tags", {})
    assert seen > 50


def test_facets_are_read(recorded: Path) -> None:
    record = by_name(recorded, "search-facets-two")
    answer = parse_search(200, record["response"]["body"], TARGET)
    assert answer.facets == {
        "category": (("music", 7), ("nature", 6), ("medicine", 4)),
        "set": (("made", 25),),
    }
    assert answer.cut_facets == ("category",)
    assert [hit.document.id for hit in answer.hits] == ["made/0235.jpg"]


@pytest.mark.parametrize("name", ["get", "disk-limit-get", "searchnode-restarted-get"])
def test_a_document_is_read_whole(recorded: Path, name: str) -> None:
    record = by_name(recorded, name)
    fields = record["response"]["body"]["fields"]
    transport = Mock(reply_of(record))
    document = engine_over(transport).get([fields["id"]], embeddings=True)[0]
    assert document is not None and document.embedding is not None
    assert document.id == fields["id"] and document.path == fields["path"]
    assert list(document.captions) == fields["captions"]
    assert dict(document.tags) == fields["tags"] and dict(document.numbers) == fields["numbers"]
    assert document.embedding.dtype == np.float32
    assert np.array_equal(document.embedding, np.asarray(fields["embedding"]["values"], np.float32))


def test_a_missing_document_is_none(recorded: Path) -> None:
    assert engine_over(Mock(reply_of(by_name(recorded, "get-missing")))).get(["nothing-here"]) == [
        None
    ]


def test_an_address_that_is_not_vespas_is_an_error(recorded: Path) -> None:
    with pytest.raises(EngineError, match="port 8080"):
        engine_over(Mock(reply_of(by_name(recorded, "unknown-path")))).get(["x"])
    with pytest.raises(EngineError, match="port 8080"):
        engine_over(Mock(Reply(404, b"<html>nginx</html>", "text/html"))).count()


def test_a_visit_follows_continuations(recorded: Path) -> None:
    first, last = by_name(recorded, "visit"), by_name(recorded, "visit-next")
    ended = json.loads(json.dumps(last))
    del ended["response"]["body"]["continuation"]
    transport = Mock(reply_of(first), reply_of(ended))
    ids = [document.id for document in engine_over(transport).visit()]
    assert ids == [
        entry["fields"]["id"]
        for record in (first, last)
        for entry in record["response"]["body"]["documents"]
    ]
    ours, theirs = (
        parse_qs(urlsplit(path).query) for path in (transport.sent[1][1], last["request"]["path"])
    )
    assert ours["continuation"] == theirs["continuation"]
    assert ours["cluster"] == theirs["cluster"]
    # The recording is older than some fields.
    (asked,), (recorded,) = ours["fieldSet"], theirs["fieldSet"]
    assert asked == f"image:{','.join(shown_fields(DOCUMENT_FORM, embeddings=False))}"
    assert set(recorded.split(",")) <= set(asked.split(","))
    assert urlsplit(transport.sent[1][1]).path == urlsplit(last["request"]["path"]).path


def feed_one(operation: Operation, *replies: Reply) -> tuple[str | None, Mock]:
    transport = Mock(*replies)
    (outcome,) = engine_over(transport).feed([operation])
    assert outcome.operation is operation
    return outcome.error, transport


def test_a_put_is_the_recorded_one(recorded: Path) -> None:
    record = by_name(recorded, "put-hex-tensor")
    fields = record["request"]["body"]["fields"]
    values = np.frombuffer(bytes.fromhex(fields["embedding"]["values"]), ">f4")
    document = Document(
        id=fields["id"],
        captions=tuple(fields["captions"]),
        path=fields["path"],
        tags=fields["tags"],
        numbers=fields["numbers"],
        embedding=values.astype(np.float32),
        data_set="made",
        content="0f",
    )
    error, transport = feed_one(Upsert(document), reply_of(record))
    assert error is None
    ((method, path, body),) = transport.sent
    assert method == record["request"]["method"]
    assert urlsplit(path).path == record["request"]["path"]
    # The recording is older than the fields for filters, orders and groups.
    assert body["fields"].pop("tag_values") == [
        f"{column}\t{value}" for column, value in fields["tags"].items()
    ]
    assert len(body["fields"].pop("number_keys")) == len(fields["numbers"])
    captions = " ".join(fields["captions"]).lower()
    assert set(body["fields"].pop("words")) == set(re.findall(r"\w+", captions))
    assert body["fields"].pop("sortable") == {"cells": fields["numbers"]}
    assert body["fields"].pop("look") == fields["id"]
    assert (body["fields"].pop("data_set"), body["fields"].pop("content")) == ("made", "0f")
    assert body == record["request"]["body"]


def test_a_put_in_bfloat16_has_half_the_digits() -> None:
    """Vespa takes hex only in the precision of its field."""
    torch = pytest.importorskip("torch")
    vector = unit_vector()
    special = [1.0, -0.0, 1e-40, 1.00390625, 1.01171875, 3.3895314e38]  # ties go to the even one
    vector[: len(special)] = special
    wanted = torch.from_numpy(vector).to(torch.bfloat16).view(torch.int16).numpy().astype(">i2")
    assert hex_values(vector, "bfloat16") == wanted.tobytes().hex()
    transport = Mock(acknowledgement("http/one"))
    half = IndexInfo(dimension=64, precision="bfloat16")
    list(VespaEngine(Client(TARGET, transport, SETTINGS), half).feed([upsert()]))
    (_, _, body) = transport.sent[0]
    assert len(body["fields"]["embedding"]["values"]) == 64 * 4


def test_an_update_is_the_recorded_one_and_looks_first(recorded: Path) -> None:
    record = by_name(recorded, "update-captions")
    change = Update("http/one", captions=("new words entirely",))
    found = Reply(200, b'{"id": "id:images:image::http/one", "fields": {"id": "http/one"}}')
    error, transport = feed_one(change, found, reply_of(record))
    assert error is None
    (_, look, _), (method, path, body) = transport.sent
    assert urlsplit(look).path == urlsplit(path).path == record["request"]["path"]
    assert body["fields"].pop("words") == {"assign": ["new", "words", "entirely"]}
    assert (method, body) == (record["request"]["method"], record["request"]["body"])


def test_an_update_of_a_missing_document_is_an_error(recorded: Path) -> None:
    """Vespa itself answers 200 and does nothing (the record update-missing)."""
    assert by_name(recorded, "update-missing")["response"]["status"] == 200
    error, transport = feed_one(
        Update("nothing-here", path="x"), reply_of(by_name(recorded, "get-missing"))
    )
    assert error == "nothing-here: no such document; nothing was updated"
    assert [method for method, _, _ in transport.sent] == ["GET"]


@pytest.mark.parametrize("name", ["delete", "delete-again"])
def test_a_delete_is_the_recorded_one(recorded: Path, name: str) -> None:
    record = by_name(recorded, name)
    error, transport = feed_one(Delete("http/one"), reply_of(record))
    assert error is None
    ((method, path, body),) = transport.sent
    assert (method, urlsplit(path).path, body) == ("DELETE", record["request"]["path"], None)


def upsert(id_: str = "http/one") -> Upsert:
    return Upsert(Document(id_, ("a caption",), "x.jpg", embedding=unit_vector()))


def acknowledgement(id_: str) -> Reply:
    return Reply(200, json.dumps({"pathId": "/", "id": f"id:images:image::{id_}"}).encode())


def test_every_recorded_write_error_becomes_a_sentence(recorded: Path) -> None:
    seen = set()
    for record in records(recorded, "http-document-and-search.json", "http-faults.json"):
        request, status = record["request"], record["response"]["status"]
        if request["method"] == "GET" or not request["path"].startswith("/document/"):
            continue
        seen.add(status)
        if status == 200:
            path = unquote(urlsplit(request["path"]).path)
            head, _, id_ = path.partition("/docid/")
            if head == "/document/v1/images/image":
                assert feed_one(upsert(id_), reply_of(record))[0] is None
            else:  # what Vespa did elsewhere, it did not do here
                with pytest.raises(FeedStoppedError, match="does not name the document"):
                    feed_one(upsert(id_), reply_of(record))
            continue
        message = record["response"]["body"]["message"]
        stops = status in (504, 507) or "is not defined" in message or "does not exist" in message
        if stops:
            with pytest.raises(FeedStoppedError) as caught:
                feed_one(upsert(), reply_of(record))
            sentence = str(caught.value)
        else:
            sentence = feed_one(upsert(), reply_of(record))[0] or ""
            assert sentence.startswith("http/one: ")
        assert "\n" not in sentence and "ReturnCode" not in sentence
        # Vespa's own words are kept, without the wrapping of its message bus.
        core = " ".join(message.split())
        core = core.split("ReturnCode(", 1)[-1].split(", ", 1)[-1] if "ReturnCode" in core else core
        assert core.split(")")[0][:60] in sentence
    assert seen == {200, 400, 412, 504, 507}


def test_a_full_disk_stops_the_feed_with_vespas_own_sentence(recorded: Path) -> None:
    with pytest.raises(FeedStoppedError) as caught:
        feed_one(upsert(), reply_of(by_name(recorded, "disk-limit-put")))
    assert str(caught.value) == (
        f"{TARGET}: External feed is blocked due to resource exhaustion: in content cluster"
        " 'images': disk on node 0 [localhost] is 71.6% full (the configured limit is 2.0%)."
        " See https://docs.vespa.ai/en/writing/feed-block.html"
    )


@pytest.mark.parametrize("name", ["searchnode-frozen-search", "searchnode-killed-search"])
def test_a_dead_content_node_is_never_an_empty_answer(recorded: Path, name: str) -> None:
    """It answers with coverage 100 and full, but without documents, nodes and hits."""
    body = by_name(recorded, name)["response"]["body"]
    assert body["root"]["coverage"]["coverage"] == 100 and body["root"]["coverage"]["full"]
    for status in (503, 200):
        with pytest.raises(EngineError, match="Connection failure on nodes"):
            parse_search(status, body, TARGET)
    del body["root"]["errors"]
    with pytest.raises(EngineError, match="no content node answered"):
        parse_search(200, body, TARGET)


def _search_answer(recorded: Path) -> Any:
    return by_name(recorded, "search")["response"]["body"]


def test_a_partial_answer_says_so(recorded: Path) -> None:
    query = EngineQuery("bm25", tokens=("red",))

    def partial_of(change: dict[str, Any], errors: Any = None) -> str | None:
        body = _search_answer(recorded)
        body["root"]["coverage"].update(change)
        if errors:
            body["root"]["errors"] = errors
        page = engine_over(Mock(Reply(200, json.dumps(body).encode()))).search(query)
        assert len(page.hits) == 2
        return page.partial

    assert partial_of({}) is None
    low = {"coverage": 50, "full": False, "degraded": {"timeout": True, "match-phase": False}}
    assert partial_of(low) == (
        "only 50 % of the documents were searched: time ran out before all matches were looked at"
    )
    assert partial_of({"coverage": 50}) == "only 50 % of the documents were searched"
    assert partial_of({"full": False}) is not None
    assert partial_of({"nodes": 0, "documents": 0}) == "no content node answered"
    assert partial_of({"results": 2, "resultsFull": 1}) is not None
    timed_out = [{"code": 12, "summary": "Timed out", "message": "slow"}]
    assert partial_of({}, timed_out) == "Vespa reported Timed out: slow"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("anntimeout", "the nearest were looked for only in part, since time ran out"),
        ("ann-timeout", "the nearest were looked for only in part, since time ran out"),
        ("timeout", "time ran out before all matches were looked at"),
        ("adaptive-timeout", "the slowest content nodes were not waited for"),
        ("match-phase", "of many matches only the most promising were looked at"),
        ("non-ideal-state", "a content node is down, or documents are on their way between nodes"),
        ("some-new-reason", "Vespa gives some-new-reason as the reason"),
    ],
)
def test_why_an_answer_is_degraded_is_said_in_words(
    recorded: Path, name: str, words: str, full: bool
) -> None:
    """A search for the nearest that time cut short comes with coverage 100."""
    body = _search_answer(recorded)
    degraded = {"timeout": False, "match-phase": False, name: True}
    body["root"]["coverage"].update(coverage=100, full=full, degraded=degraded)
    assert parse_search(200, body, TARGET).partial == words
    body["root"]["coverage"]["coverage"] = 63
    partial = parse_search(200, body, TARGET).partial
    assert partial == f"only 63 % of the documents were searched: {words}"


def test_a_count_is_never_partial(recorded: Path) -> None:
    body = by_name(recorded, "search-all")["response"]["body"]
    assert engine_over(Mock(Reply(200, json.dumps(body).encode()))).count() == 610
    body["root"]["coverage"].update(coverage=50, full=False)
    with pytest.raises(EngineError, match="only 50 %"):
        engine_over(Mock(Reply(200, json.dumps(body).encode()))).count()


def test_highlight_marks_are_taken_out() -> None:
    entry = {"fields": {"id": "x", "captions": ["a \x1fred\x1f circle", "<hi>kept</hi>"]}}
    assert parse_document(entry).captions == ("a red circle", "<hi>kept</hi>")


def test_access_refused_names_the_mend() -> None:
    assert "VESPA_CLOUD_SECRET_TOKEN" in failure_sentence(401, {"message": "no"}, TARGET)
    assert not is_missing(404, None)
