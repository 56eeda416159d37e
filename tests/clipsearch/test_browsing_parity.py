"""Cut-offs and other orders against a real Vespa's recorded answers, and in both engines alike."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_collection import in_segments, through_codes
from vespa_recorded import INFO, assert_same_pages, load_documents
from vespa_stub import StubVespa

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, Page
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.modes import MODES, Mode
from clipsearch.operations import Upsert
from clipsearch.sorting import Sort

TIE = 1e-4


def _answers(recorded: Path) -> list[dict[str, Any]]:
    text = (recorded / "asking" / "browsing.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def documents(recorded: Path) -> dict[str, Document]:
    """The recorded ones, with the looks that they had at the recording."""
    return {
        id_: replace(document, look=f"L{len(document.captions[0]) % 7 if document.captions else 0}")
        for id_, document in load_documents(recorded).items()
    }


@pytest.fixture(scope="module")
def local(
    documents: dict[str, Document], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    """The documents in three segments, compared through the codes of their vectors."""
    with pytest.MonkeyPatch.context() as patch:
        through_codes(patch)
        folder = tmp_path_factory.mktemp("browsing") / "index"
        made = in_segments(folder, list(documents.values()), 3)
        yield made
        made.close()


@pytest.fixture(scope="module")
def remote(documents: dict[str, Document]) -> Iterator[VespaEngine]:
    with StubVespa() as vespa:
        write_info(connect(vespa.url), INFO)
        engine = VespaEngine.open(vespa.url)
        outcomes = list(engine.feed(map(Upsert, documents.values())))
        assert [outcome.error for outcome in outcomes] == [None] * len(documents)
        yield engine
        engine.close()


def _query(recorded: dict[str, Any]) -> EngineQuery:
    """What was asked, in our own words."""
    parameters, profile = recorded["parameters"], recorded["profile"]
    vector = parameters.get("input.query(q)")
    asked = EngineQuery(
        {"unranked": None, "by_number": None}.get(profile, profile),
        tokens=(parameters["w"],) if "w" in parameters else (),
        vector=None if vector is None else np.array(vector, np.float32),
        k=max(20, len(recorded["hits"])),
        offset=parameters.get("offset", 0),
        bm25_weight=0.1,
        vector_weight=1.0,
        min_score=parameters.get("ranking.rankScoreDropLimit"),
    )
    if "distanceThreshold" in recorded["yql"]:
        threshold = float(recorded["yql"].partition("distanceThreshold:")[2].partition("}")[0])
        return replace(asked, min_cosine=1 - threshold)
    if profile == "by_number":
        ((column, sign),) = parameters["input.query(by)"].items()
        return replace(asked, sort=Sort(column, descending=sign > 0))
    if "order by path desc" in recorded["yql"]:
        return replace(asked, sort=Sort("path", descending=True))
    return asked


# The last one cut hybrid-rrf by the score of hybrid, as Vespa does; the client cuts by its own.
@pytest.mark.parametrize("place", range(15))
def test_answers_are_those_of_a_real_vespa(
    recorded: Path, local: LocalEngine, remote: VespaEngine, place: int
) -> None:
    answer = [one for one in _answers(recorded) if one["case"] != "one of each group"][place]
    query = _query(answer)
    for engine in (local, remote):
        page = engine.search(query)
        wanted = answer["hits"]
        assert page.total == answer["total"], answer["case"]
        scores = [abs(hit["relevance"]) for hit in wanted]
        assert [hit.score for hit in page.hits] == pytest.approx(scores, abs=TIE)
        by_id = {hit["id"]: abs(hit["relevance"]) for hit in wanted}
        for hit in page.hits:  # a tie at the page's end may bring another document
            assert by_id.get(hit.document.id, scores[-1]) == pytest.approx(hit.score, abs=TIE)
        if "order by" in answer["yql"]:
            assert [hit.document.id for hit in page.hits] == [hit["id"] for hit in wanted]


def test_the_nearest_that_are_counted_may_not_be_all(recorded: Path, local: LocalEngine) -> None:
    """Vespa's recorded total was the 100 that it looked for."""
    near = [one for one in _answers(recorded) if one["case"] == "nearest within a distance"]
    pages = [local.search(_query(answer)) for answer in near]
    assert [page.at_least for page in pages] == [False, False, True, True]
    more = local.search(replace(_query(near[2]), candidates=600))
    assert more.total > 100 and not more.at_least
    assert more.total == sum(hit.cosine >= 0.1 for hit in _all(local, _query(near[2])).hits)


def _all(engine: LocalEngine, query: EngineQuery) -> Page:
    return engine.search(
        replace(query, mode="vector", k=1000, min_cosine=None, min_score=None, exact=True)
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_least_score_takes_away_what_scores_lower(
    recorded: Path, local: LocalEngine, remote: VespaEngine, mode: Mode
) -> None:
    asked = replace(_query(_answers(recorded)[-1]), mode=mode, min_score=None, k=400)
    for engine in (local, remote):
        whole = engine.search(asked)
        assert len(whole.hits) > 30
        least = whole.hits[29].score
        kept = [hit.score for hit in whole.hits if hit.score >= least]
        cut = engine.search(replace(asked, min_score=least, k=50))
        assert [hit.score for hit in cut.hits] == kept
        assert cut.total == len(kept) and not cut.at_least
        page = engine.search(replace(asked, min_score=least, k=10, offset=20))
        assert [hit.score for hit in page.hits] == kept[20:30]
        assert page.at_least == (mode in ("hybrid-rrf", "hybrid-normalized"))
        beyond = engine.search(replace(asked, min_score=least, k=10, offset=60))
        assert (beyond.hits, beyond.total) == ((), len(kept))


def test_one_of_each_look_is_as_a_real_vespa_groups(
    recorded: Path, local: LocalEngine, remote: VespaEngine
) -> None:
    (answer,) = (one for one in _answers(recorded) if one["case"] == "one of each group")
    (groups,) = answer["answer"]["children"][0]["children"]
    wanted = [
        (group["fields"]["count()"] - 1, group["children"][0]["children"][0])
        for group in groups["children"]
    ]
    vector = np.array(answer["parameters"]["input.query(q)"], np.float32)
    for engine in (local, remote):
        page = engine.search(EngineQuery("vector", vector=vector, k=10, collapse=True))
        assert [(hit.more, hit.document.id) for hit in page.hits] == [
            (more, hit["fields"]["id"]) for more, hit in wanted
        ]
        assert [hit.score for hit in page.hits] == pytest.approx(
            [hit["relevance"] for _, hit in wanted], abs=TIE
        )
        assert page.total == answer["answer"]["fields"]["totalCount"] == 100 and page.at_least


def test_collapsed_hits_stand_for_all_that_was_found(recorded: Path, local: LocalEngine) -> None:
    for query in _collapsed(recorded):
        whole = local.search(replace(query, collapse=False, k=700, offset=0))
        page = local.search(replace(query, k=20, offset=0))
        assert sum(hit.more + 1 for hit in page.hits) == page.total
        if query.mode != "vector":
            assert page.total == whole.total and len(page.hits) == 7
        first = {hit.document.look: hit.document.id for hit in reversed(whole.hits)}
        assert sorted(hit.document.id for hit in page.hits) == sorted(first.values())


def _collapsed(recorded: Path) -> Iterator[EngineQuery]:
    answer = next(one for one in _answers(recorded) if one["profile"] == "hybrid")
    asked = replace(_query(answer), collapse=True, k=3, offset=2, min_score=None)
    yield replace(asked, mode="bm25", vector=None)
    yield replace(asked, mode="bm25", vector=None, min_score=0.6)
    yield replace(asked, facets=("category",))
    yield replace(asked, mode="hybrid-sum", filters=(TagFilter("category", ("nature",)),))
    yield replace(asked, min_score=0.3)
    yield replace(asked, mode="vector", candidates=610)
    yield replace(asked, mode="vector", candidates=610, min_cosine=0.2)


def _many(recorded: Path) -> Iterator[EngineQuery]:
    answer = next(one for one in _answers(recorded) if one["profile"] == "hybrid")
    asked = replace(_query(answer), min_score=None, facets=("category",), k=15)
    filters = (
        (),
        (TagFilter("category", ("nature", "music")), NumberFilter("words", low=10)),
        (TagFilter("category", ("nature",), exclude=True),),
        (TagFilter("category", ("no such thing",)),),
    )
    sorts = [Sort("id"), Sort("id", True), Sort("path", True), Sort("year"), Sort("words", True)]
    for place, held in enumerate(filters):
        for mode in MODES:
            one = replace(asked, mode=mode, filters=held, offset=5 * (place % 2))
            one = replace(one, exclude_ids=("made/0005.jpg",) * (place % 2))
            if mode == "bm25":
                one = replace(one, vector=None)
            else:
                yield replace(one, min_cosine=0.25)
                yield replace(one, min_cosine=-0.1, sort=sorts[place])
            least = {"bm25": 0.6, "vector": 0.57, "hybrid-rrf": 0.022}.get(mode, 0.3)
            yield replace(one, min_score=least, facets=() if "-" in mode else one.facets)
            yield replace(one, sort=sorts[place + 1])
        for sort in (None, *sorts[place % 2 :: 2]):
            yield EngineQuery(None, filters=held, facets=("category", "split"), sort=sort, k=12)


def test_both_engines_give_the_same_pages(
    recorded: Path, local: LocalEngine, remote: VespaEngine
) -> None:
    for query in (*_many(recorded), *_collapsed(recorded)):
        here, there = local.search(query), remote.search(query)
        assert_same_pages(here, there, query)
        assert here.at_least == there.at_least, query
        assert here.candidates == there.candidates, query
        assert [hit.more for hit in here.hits] == [hit.more for hit in there.hits], query


def test_pages_of_a_list_are_all_documents_once(local: LocalEngine) -> None:
    for sort in (None, Sort("path"), Sort("words", descending=True)):
        found = []
        for offset in range(0, 700, 100):
            found += local.search(EngineQuery(None, k=100, offset=offset, sort=sort)).hits
        assert len({hit.document.id for hit in found}) == len(found) == 610
