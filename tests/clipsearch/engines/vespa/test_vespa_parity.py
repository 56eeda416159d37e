"""The Vespa engine gives the pages that a real Vespa ranked, in every mode."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vespa_recorded import (
    INFO,
    RankedCase,
    assert_same_pages,
    load_cases,
    load_documents,
    many_queries,
    tied_groups,
)
from vespa_stub import StubVespa

from clipsearch.documents import Document
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import (
    Body,
    Client,
    ConnectionSettings,
    Reply,
    connect,
)
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.operations import Upsert

# Forms that were recorded to learn from, and that clipsearch does not send.
OTHER_FORMS = ("bm25-weakand", "vector-ann")
RECORDED_FILTER = 'tags contains sameElement(key contains "category", value contains "food-drink")'


class Replayed:
    """A transport that answers every search for hits with one recorded ranking."""

    def __init__(self, documents: dict[str, Document]) -> None:
        self.documents = documents
        self.case: RankedCase | None = None
        self.sent: dict[str, Any] = {}

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        assert self.case is not None and isinstance(body, bytes) and path == "/search/"
        sent = json.loads(body)
        if sent["ranking.profile"] == "unranked":
            answer = {"root": {"fields": {"totalCount": passing(self.case, self.documents)}}}
            return Reply(200, json.dumps(answer).encode())
        self.sent = sent
        return Reply(200, json.dumps(self.case.answer(self.documents)).encode())

    def close(self) -> None:
        pass


def passing(case: RankedCase, documents: dict[str, Document]) -> int:
    """How many documents pass the filter of a recorded case; there was but one."""
    if not case.query.filters:
        return len(documents)
    return sum(document.tags["category"] == "food-drink" for document in documents.values())


def total_of(case: RankedCase, documents: dict[str, Document]) -> int:
    """As recorded, but for `vector`, of which Vespa counts what it happened to match."""
    return passing(case, documents) if case.query.mode == "vector" else case.total


@pytest.fixture(scope="module")
def documents(recorded: Path) -> dict[str, Document]:
    return load_documents(recorded)


@pytest.fixture(scope="module")
def cases(recorded: Path) -> list[RankedCase]:
    return [case for case in load_cases(recorded) if case.name not in OTHER_FORMS]


def test_pages_are_the_recorded_rankings(
    documents: dict[str, Document], cases: list[RankedCase]
) -> None:
    transport = Replayed(documents)
    engine = VespaEngine(Client("http://recorded", transport, ConnectionSettings()), INFO)
    assert len(cases) == 12 * 45
    for case in cases:
        transport.case = case
        page = engine.search(case.query)
        assert page.partial is None
        assert tied_groups((hit.document.id, hit.score) for hit in page.hits) == tied_groups(
            (hit["id"], hit["relevance"]) for hit in case.hits
        )
        assert page.total == total_of(case, documents)
        by_id = {hit["id"]: hit["features"] for hit in case.hits}
        for hit in page.hits:
            features = by_id[hit.document.id]
            assert hit.score == pytest.approx(
                next(one["relevance"] for one in case.hits if one["id"] == hit.document.id)
            )
            assert hit.bm25 == features.get("lexical")
            if case.query.mode == "bm25":
                assert hit.cosine is None
            else:
                assert case.query.vector is not None
                embedding = documents[hit.document.id].embedding
                assert embedding is not None
                assert hit.cosine == pytest.approx(float(embedding @ case.query.vector), abs=1e-5)
            wanted = documents[hit.document.id]
            assert hit.document.captions == wanted.captions
            assert hit.document.tags == wanted.tags
            assert hit.document.numbers == wanted.numbers


def test_requests_are_the_recorded_ones(
    documents: dict[str, Document], cases: list[RankedCase]
) -> None:
    transport = Replayed(documents)
    engine = VespaEngine(Client("http://recorded", transport, ConnectionSettings()), INFO)
    for case in cases:
        transport.case = case
        engine.search(case.query)
        sent = dict(transport.sent)
        yql = sent.pop("yql")
        if case.query.filters:
            # The recording is older than the field that filters ask now.
            assert sent.pop("f0v0") == "category\tfood-drink"
            yql = yql.replace("tag_values contains @f0v0", RECORDED_FILTER)
        if case.name == "hybrid-filter":  # 63 pass: all are compared
            yql = yql.replace("approximate:false", "hnsw.exploreAdditionalHits:900")
        assert yql.partition(" where ")[2] == case.yql.partition(" where ")[2]
        assert sent.pop("presentation.bolding") is False
        vector = sent.pop("input.query(q)", None)
        assert (vector is None) == (case.query.mode == "bm25")
        if vector is not None:
            assert np.allclose(np.asarray(vector, np.float32), case.query.vector, atol=1e-7)
        wanted = dict(case.parameters)
        del wanted["presentation.summary"]  # clipsearch also shows captions, tags and numbers
        wanted.setdefault("input.query(vector_weight)", 1.0)
        for name in ("input.query(bm25_weight)", "input.query(vector_weight)"):
            if case.query.mode in ("bm25", "vector", "hybrid-sum"):
                del wanted[name]  # profiles without weights: the recording sent them for nothing
        if case.query.mode == "vector":
            wanted = {
                name: value for name, value in wanted.items() if name[0] != "t" or name == "timeout"
            }
        assert sent == wanted


@pytest.fixture(scope="module")
def stub(documents: dict[str, Document]) -> Iterator[StubVespa]:
    with StubVespa() as vespa:
        write_info(connect(vespa.url), INFO)
        engine = VespaEngine.open(vespa.url)
        outcomes = list(engine.feed(Upsert(document) for document in documents.values()))
        assert [outcome.error for outcome in outcomes] == [None] * len(documents)
        yield vespa


def test_the_twin_is_the_recorded_vespa(
    stub: StubVespa, documents: dict[str, Document], cases: list[RankedCase]
) -> None:
    """What the other tests of this file rely on: the stub ranks as the real Vespa did."""
    engine = VespaEngine.open(stub.url)
    for case in cases:
        if case.qid not in ("q00", "q01", "q03", "q10", "q11", "q21", "q23", "q31"):
            continue
        page = engine.search(case.query)
        assert page.total == total_of(case, documents)
        wanted = {hit["id"]: hit["relevance"] for hit in case.hits}
        assert [hit.score for hit in page.hits] == pytest.approx(list(wanted.values()), abs=1e-4)
        for hit in page.hits:
            # A tie at the page's end may bring another document.
            if hit.document.id in wanted:
                assert hit.score == pytest.approx(wanted[hit.document.id], abs=1e-4)
            else:
                assert hit.score == pytest.approx(page.hits[-1].score, abs=1e-4)


def test_the_embedded_engine_gives_the_same_pages(
    stub: StubVespa, documents: dict[str, Document], cases: list[RankedCase], tmp_path: Path
) -> None:
    remote = VespaEngine.open(stub.url)
    local = LocalEngine.create(tmp_path / "index", INFO)
    assert all(one.error is None for one in local.feed(map(Upsert, documents.values())))
    local.finish_feed()
    for query in many_queries(cases):
        assert_same_pages(local.search(query), remote.search(query), query)
    local.close()
    remote.close()
