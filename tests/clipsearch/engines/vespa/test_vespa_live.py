"""Against a real Vespa: deploy, feed 1,000 documents, every kind of query, update, delete, restart.

See `live_vespa` for which Vespa that is. An index that is neither empty nor of an earlier run of
these tests is left alone.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import assert_nothing_lost_and_nothing_twice
from live_vespa import DIMENSION, NAME, Place, agree, find_place, name_index, put_all
from vespa_recorded import INFO, assert_same_pages, load_cases, load_documents, many_queries

from clipsearch.deployment.changes import Changes
from clipsearch.deployment.deploy import Deployed, deploy
from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.operations import Delete, Update, Upsert
from finetune.errors import EngineError

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

DOCUMENTS = 1000
# Deletes and updates move bm25's statistics; only a Vespa that held nothing before is exact.
DRIFT = 1e-2


@dataclass(frozen=True)
class Live:
    """A Vespa with our package and 1,000 documents, and nothing else.

    `drift` is what its scores may differ by: 0 where no other documents have gone through it.
    """

    place: Place
    documents: dict[str, Document]
    drift: float


def _thousand(recorded: Path) -> dict[str, Document]:
    documents = load_documents(recorded)
    dice = np.random.default_rng(5)
    originals = list(documents.values())
    for number in range(DOCUMENTS - len(documents)):
        vector = dice.standard_normal(DIMENSION).astype(np.float32)
        model = originals[number % 500]
        id_ = f"more/{number:04}.jpg"
        embedding = vector / np.linalg.norm(vector)
        documents[id_] = replace(model, id=id_, path=id_, embedding=embedding)
    return documents


@pytest.fixture(scope="module")
def live(recorded: Path) -> Iterator[Live]:
    place = find_place()
    place.empty()
    new = _is_first(place.deploy(dimension=DIMENSION, precision="float"))
    engine = place.engine()
    name_index(engine, number_columns=INFO.number_columns, tag_columns=INFO.tag_columns)
    documents = _thousand(recorded)
    assert put_all(engine, documents.values()) == DOCUMENTS
    engine.close()
    yield Live(place, documents, 0.0 if new else DRIFT)
    place.empty()


def _is_first(deployed: Deployed) -> bool:
    """Whether nothing ran there before; Docker's first start has nothing to compare with."""
    return deployed.changes is None or deployed.changes.first


def test_all_documents_are_there(live: Live) -> None:
    engine = live.place.engine()
    assert engine.count() == DOCUMENTS and engine.count_without_embedding() == 0
    seen = {document.id: document for document in engine.visit(embeddings=True)}
    assert seen.keys() == live.documents.keys()
    for id_, document in live.documents.items():
        found = seen[id_]
        assert (found.captions, found.path) == (document.captions, document.path)
        assert (found.tags, found.numbers) == (document.tags, document.numbers)
        assert found.embedding is not None and document.embedding is not None
        assert np.array_equal(found.embedding, document.embedding)
    some = [*list(live.documents)[::50], "not there", "\ufffe", "x" * 70_000]
    got = engine.get(some)
    assert [one and one.id for one in got] == [*some[:-3], None, None, None]


def test_every_query_as_in_the_embedded_engine(live: Live, recorded: Path, tmp_path: Path) -> None:
    local = LocalEngine.create(tmp_path / "index", INFO)
    put_all(local, live.documents.values())
    remote = live.place.engine()
    for query in many_queries(load_cases(recorded)):
        here, there = local.search(query), remote.search(query)
        assert there.partial is None
        assert_same_pages(here, there, query, relative=live.drift)
    local.close()


def test_exact_is_the_same_order(live: Live, recorded: Path) -> None:
    engine = live.place.engine()
    for case in load_cases(recorded):
        if case.name != "vector-exact100":
            continue
        exact = engine.search(replace(case.query, exact=True, facets=("category",)))
        again = engine.search(replace(case.query, facets=("category",)))
        assert exact.total == again.total
        assert exact.facets == again.facets
        assert [hit.score for hit in exact.hits] == pytest.approx(
            [hit.score for hit in again.hits], abs=1e-6
        )


def test_text_that_vespa_refuses_costs_no_document(live: Live) -> None:
    """What the stub refuses, and what clipsearch sends instead, is what a real one takes."""
    engine = live.place.engine()
    model = next(iter(live.documents.values()))
    odd = "".join(["\x01", "\x1f", "\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001ffff", "\ud800"])
    kept = "\t\n\r\xa0\u200d😀½"
    tags = {f"co{odd}l": f"va{odd}lue", "kept": kept}
    document = replace(model, id="odd/1.jpg", captions=(f"a{odd}b", kept), tags=tags)
    longest = replace(model, id="é" * (49_152 // 6), path="Ã\x89\x7f.jpg", tags={})
    outcomes = {
        one.operation.id: one.error for one in engine.feed(map(Upsert, (document, longest)))
    }
    assert outcomes == {document.id: None, longest.id: None}
    blanks = " " * len(odd)
    found, long = engine.get([document.id, longest.id])
    assert found is not None and long is not None
    assert (long.id, long.path) == (longest.id, longest.path)
    assert found.captions == (f"a{blanks}b", kept)
    assert dict(found.tags) == {f"co{blanks}l": f"va{blanks}lue", "kept": kept}
    too_long = replace(model, id="x" * 49_153)
    (refused,) = engine.feed([Upsert(too_long)])
    assert refused.error is not None
    removed = engine.feed(map(Delete, (document.id, longest.id, too_long.id)))
    assert all(outcome.error is None for outcome in removed)
    assert engine.count() == DOCUMENTS


def test_ids_keep_their_case(live: Live) -> None:
    engine = live.place.engine()
    model = next(iter(live.documents.values()))
    ids = ("Case/A.jpg", "case/a.jpg")
    assert all(o.error is None for o in engine.feed(Upsert(replace(model, id=i)) for i in ids))
    query = EngineQuery("vector", vector=model.embedding, k=5, exclude_ids=ids[:1])
    found = {hit.document.id for hit in engine.search(query).hits}
    assert ids[1] in found and ids[0] not in found
    assert all(outcome.error is None for outcome in engine.feed(map(Delete, ids)))


def test_update_and_delete(live: Live) -> None:
    engine = live.place.engine()
    id_ = "made/0000.jpg"
    change = Update(id_, captions=("an unheardof word",), tags={"category": "new"}, numbers={})
    missing = Update("not there", path="x")
    outcomes = {one.operation.id: one.error for one in engine.feed([change, missing])}
    assert outcomes[id_] is None and "no such document" in (outcomes["not there"] or "")
    (hit,) = engine.search(EngineQuery("bm25", tokens=("unheardof",))).hits
    assert (hit.document.id, hit.document.tags) == (id_, {"category": "new"})
    assert [one.error for one in engine.feed([Delete(id_), Delete("not there")])] == [None, None]
    assert engine.count() == DOCUMENTS - 1
    list(engine.feed([Upsert(live.documents[id_])]))
    assert engine.count() == DOCUMENTS


def test_faults_on_the_way(live: Live) -> None:
    assert_nothing_lost_and_nothing_twice(live.place.url, next(iter(live.documents.values())))


def test_the_same_package_again_changes_nothing(live: Live) -> None:
    seen: list[Changes] = []

    def consent(changes: Changes) -> bool:
        seen.append(changes)
        return False

    assert deploy(live.place.options(dimension=DIMENSION), consent=consent, say=print) is None
    assert not seen[0].first and not seen[0].actions and not seen[0].files


def test_a_refused_change_is_said_in_vespas_words(live: Live) -> None:
    with pytest.raises(EngineError, match=r"tensor<float>\(x\[64\]\)"):
        deploy(live.place.options(dimension=65), consent=agree, say=print)


def test_all_is_there_after_a_restart(live: Live) -> None:
    if live.place.restart is None:
        pytest.skip("not a container of ours: it is not restarted")
    live.place.restart()
    deadline = time.monotonic() + 300
    while True:
        try:
            engine = live.place.engine()
            if engine.count() == DOCUMENTS:
                break
        except EngineError:
            assert time.monotonic() < deadline
        time.sleep(2)
    assert isinstance(engine.info, IndexInfo) and engine.info.encoder_name == NAME
