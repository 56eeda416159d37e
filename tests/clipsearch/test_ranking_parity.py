"""The embedded engine against a real Vespa's recorded answers: scores, totals and order."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_collection import in_segments, through_codes

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.filtering import TagFilter
from clipsearch.modes import Mode
from clipsearch.operations import Delete, Operation, Update, Upsert
from clipsearch.text import tokens

TOLERANCE = 1e-4
TIE = 1e-5
FOOD = (TagFilter("category", ("food-drink",)),)

# What each recorded case asks for, in the engine's own words.
CASES: dict[str, tuple[Mode, dict[str, Any]]] = {
    "bm25": ("bm25", {}),
    "bm25-weakand": ("bm25", {}),
    "bm25-filter": ("bm25", {"filters": FOOD}),
    "vector": ("vector", {}),
    "vector-exact100": ("vector", {}),
    "vector-filter": ("vector", {"filters": FOOD}),
    "hybrid": ("hybrid", {}),
    "hybrid-w": ("hybrid", {"bm25_weight": 0.5, "vector_weight": 2.0}),
    "hybrid-filter": ("hybrid", {"filters": FOOD}),
    "hybrid-page2": ("hybrid", {"k": 10, "offset": 10}),
    "hybrid-sum": ("hybrid-sum", {}),
    "hybrid-rrf": ("hybrid-rrf", {}),
    "hybrid-normalized": ("hybrid-normalized", {}),
}
# Vespa's own totals there are not those of the ranking: see the design of the two.
TOTAL_DIFFERS = ("vector", "bm25-weakand")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def documents(recorded: Path) -> list[Document]:
    return [
        Document(
            fields["id"],
            tuple(fields["captions"]),
            fields["path"],
            fields["tags"],
            fields["numbers"],
            np.array(fields["embedding"], np.float32),
        )
        for fields in _lines(recorded / "documents.jsonl")
    ]


@pytest.fixture(scope="module")
def queries(recorded: Path) -> dict[str, EngineQuery]:
    return {
        fields["qid"]: EngineQuery(
            "bm25",
            tuple(tokens(fields["text"])),
            np.array(fields["vector"], np.float32),
            k=20,
            bm25_weight=0.1,
        )
        for fields in _lines(recorded / "queries.jsonl")
    }


@pytest.fixture(scope="module")
def rankings(recorded: Path) -> dict[str, dict[str, dict[str, Any]]]:
    by_case: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for ranking in _lines(recorded / "rankings.jsonl"):
        by_case[ranking["case"]][ranking["qid"]] = ranking
    return by_case


def _feed(engine: LocalEngine, operations: list[Operation]) -> None:
    assert [outcome.error for outcome in engine.feed(operations)] == [None] * len(operations)
    engine.finish_feed()


@pytest.fixture(scope="module", params=[1, 2, 20])
def engine(
    request: pytest.FixtureRequest,
    documents: list[Document],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalEngine]:
    """The recorded documents, in one segment and in several."""
    made = in_segments(tmp_path_factory.mktemp("parity") / "recorded", documents, request.param)
    yield made
    made.close()


def _assert_equal(page: Page, recorded: dict[str, Any], total_differs: bool, where: str) -> None:
    if not total_differs:
        # What Vespa counts for `vector` are the candidates alone.
        counted = page.total if page.candidates is None else page.candidates
        assert counted == recorded["total"], where
    ours = [hit.score for hit in page.hits]
    theirs = [hit["relevance"] for hit in recorded["hits"]]
    assert ours == pytest.approx(theirs, abs=TOLERANCE), where
    # Equal scores may stand in any order, and at the end others of that score may stand instead.
    their_score = {hit["id"]: hit["relevance"] for hit in recorded["hits"]}
    cut = theirs[-1] if theirs else 0.0
    our_ids = [hit.document.id for hit in page.hits]
    assert len(set(our_ids)) == len(our_ids), where
    placed = [their_score.get(id, cut) for id in our_ids]
    assert placed == pytest.approx(theirs, abs=TIE), where
    for hit in page.hits:
        if hit.document.id not in their_score:
            assert hit.score == pytest.approx(cut, abs=TIE), (where, hit.document.id)


def _check_case(
    engine: LocalEngine,
    case: str,
    queries: dict[str, EngineQuery],
    rankings: dict[str, dict[str, dict[str, Any]]],
) -> None:
    mode, parameters = CASES[case]
    assert len(rankings[case]) == 45
    for qid, recorded in rankings[case].items():
        page = engine.search(replace(queries[qid], mode=mode, **parameters))
        _assert_equal(page, recorded, case in TOTAL_DIFFERS, f"{case} {qid}")


def test_every_recorded_case_is_asked(rankings: dict[str, Any]) -> None:
    assert set(rankings) - set(CASES) == {"vector-ann"}


@pytest.mark.parametrize("case", CASES)
def test_rankings_equal_vespa(
    case: str,
    engine: LocalEngine,
    queries: dict[str, EngineQuery],
    rankings: dict[str, dict[str, dict[str, Any]]],
) -> None:
    _check_case(engine, case, queries, rankings)


def test_statistics_stay_right_after_random_changes(
    documents: list[Document],
    queries: dict[str, EngineQuery],
    rankings: dict[str, dict[str, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    engine = LocalEngine.create(tmp_path / "changed", IndexInfo(64))
    _feed(engine, [Upsert(document) for document in documents])
    random_source = random.Random(7)
    changes: list[Operation] = []
    for step in range(1000):
        document = random_source.choice(documents)
        other = random_source.choice(documents)
        kind = random_source.random()
        if kind < 0.3:
            changes.append(Delete(document.id))
        elif kind < 0.6:
            changes.append(Upsert(replace(document, captions=other.captions)))
        elif kind < 0.9:
            changes.append(Upsert(replace(other, id=f"new/{step}")))
        else:
            changes.append(Delete(f"new/{random_source.randrange(step + 1)}"))
    _feed(engine, changes)
    assert engine.count() != len(documents)
    # Back to the recorded documents, some of them by partial updates.
    added = [document.id for document in engine.visit() if document.id.startswith("new/")]
    present = {document.id for document in engine.visit()}
    restored: list[Operation] = [Delete(id) for id in added]
    for place, document in enumerate(documents):
        if place % 2 and document.id in present:
            restored.append(Update(document.id, captions=document.captions))
        else:
            restored.append(Upsert(document))
    _feed(engine, restored)
    assert engine.count() == len(documents)
    for case in CASES:
        _check_case(engine, case, queries, rankings)


def test_unfinished_feed_ranks_the_same(
    documents: list[Document],
    queries: dict[str, EngineQuery],
    rankings: dict[str, dict[str, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    engine = LocalEngine.create(tmp_path / "unfinished", IndexInfo(64))
    for start in range(0, len(documents), 200):
        part = documents[start : start + 200]
        outcomes = list(engine.feed([Upsert(document) for document in part]))
        assert all(outcome.error is None for outcome in outcomes)
    for case in ("bm25", "hybrid", "hybrid-filter"):
        _check_case(engine, case, queries, rankings)


@pytest.mark.parametrize("case", [case for case in CASES if case != "bm25-weakand"])
def test_rankings_through_the_codes_equal_vespa(
    case: str,
    queries: dict[str, EngineQuery],
    rankings: dict[str, dict[str, dict[str, Any]]],
    indexed_engine: LocalEngine,
) -> None:
    _check_case(indexed_engine, case, queries, rankings)


@pytest.fixture(scope="module")
def indexed_engine(
    documents: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    with pytest.MonkeyPatch.context() as patch:
        through_codes(patch)
        made = in_segments(tmp_path_factory.mktemp("parity") / "indexed", documents, 3)
        yield made
        made.close()
