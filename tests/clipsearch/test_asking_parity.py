"""Phrases, words required and left out, and beginnings of words: both engines, as a real Vespa."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_collection import in_segments
from vespa_recorded import INFO, assert_same_pages, load_documents
from vespa_stub import StubVespa
from vespa_twin import edits

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, Page
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.segments import segment
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.engines.vespa.queries import search_body
from clipsearch.explanation import shares_of
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.modes import MODES
from clipsearch.operations import Delete, Upsert
from clipsearch.search.explaining import explained
from clipsearch.search.parts import Part
from clipsearch.search.query_terms import query_terms
from clipsearch.terms import Term, Terms
from clipsearch.text import tokens, words
from clipsearch.vocabulary import WordCount, most_edits
from finetune.errors import EngineError, UsageError

ASKED = {
    "phrase",
    "word or phrase",
    "words without a word",
    "words without a phrase",
    "required by rank()",
    "prefix on an attribute",
    "prefix of 2 on an attribute, rank filter",
    "words or prefix",
}


@dataclass(frozen=True)
class Asked:
    """A recorded answer, and the query of ours that asks for it."""

    query: EngineQuery
    yql: str
    parameters: dict[str, Any]
    total: int
    scores: list[float]


def asked_in(row: dict[str, Any]) -> Asked:
    parameters = row["parameters"]
    phrase = Term(tuple(parameters[name] for name in ("p0", "p1", "p2") if name in parameters))
    word = {name: Term((parameters[name],)) for name in "abwx" if name in parameters}
    beginning = Term((parameters.get("a", ""),), is_prefix=True)
    terms, plain = {
        "phrase": (Terms(optional=(phrase,)), ""),
        "word or phrase": (Terms(optional=(phrase,)), "w"),
        "words without a word": (Terms(excluded=(word.get("x", phrase),)), "ab"),
        "words without a phrase": (Terms(excluded=(phrase,)), "w"),
        "required by rank()": (Terms(required=((word.get("a", phrase),),)), "b"),
        "prefix on an attribute": (Terms(optional=(beginning,)), ""),
        "prefix of 2 on an attribute, rank filter": (Terms(optional=(beginning,)), ""),
        "words or prefix": (Terms(optional=(beginning,)), "w"),
    }[row["case"]]
    tokens_of = tuple(parameters[name] for name in plain)
    scores = [hit["relevance"] for hit in row["hits"]]
    query = EngineQuery("bm25", tokens_of, k=20, terms=terms)
    return Asked(query, row["yql"], parameters, row["total"], scores)


@pytest.fixture(scope="module")
def answers(recorded: Path) -> list[Asked]:
    text = (recorded / "asking" / "words.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [asked_in(row) for row in rows if row["case"] in ASKED]


@pytest.fixture(scope="module")
def documents(recorded: Path) -> list[Document]:
    return list(load_documents(recorded).values())


@pytest.fixture(scope="module")
def local(
    documents: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    """In several segments, some of whose rows are gone."""
    made = in_segments(tmp_path_factory.mktemp("asking") / "recorded", documents, 3)
    gone = [replace(each, id=f"{each.id}/gone") for each in documents[:40]]
    for operations in ([Upsert(each) for each in gone], [Delete(each.id) for each in gone]):
        assert all(outcome.error is None for outcome in made.feed(operations))
    yield made
    made.close()


@pytest.fixture(scope="module")
def vespa(documents: list[Document]) -> Iterator[VespaEngine]:
    with StubVespa() as stub:
        client = connect(stub.url)
        write_info(client, INFO)
        client.close()
        engine = VespaEngine.open(stub.url)
        assert all(outcome.error is None for outcome in engine.feed(map(Upsert, documents)))
        yield engine
        engine.close()


def assert_as_recorded(page: Page, answer: Asked) -> None:
    assert page.total == answer.total, answer
    scores = [hit.score for hit in page.hits]
    assert scores == pytest.approx(answer.scores, abs=1e-5), answer


def test_the_embedded_engine_answers_as_recorded(answers: list[Asked], local: LocalEngine) -> None:
    assert len(answers) == 42
    for answer in answers:
        assert_as_recorded(local.search(answer.query), answer)


def test_vespa_is_asked_as_recorded_and_the_stand_in_answers_so(
    answers: list[Asked], vespa: VespaEngine
) -> None:
    for answer in answers:
        body = search_body(answer.query, INFO, 5.0)
        assert _where(body["yql"], body) == _where(answer.yql, answer.parameters)
        assert_as_recorded(vespa.search(answer.query), answer)


def _where(yql: str, parameters: dict[str, Any]) -> str:
    """The condition with its parameters in it, without brackets that change nothing."""
    where = yql.partition(" where ")[2].replace("prefix:true, ranked:false", "prefix:true")
    where = re.sub(r"@(\w+)", lambda found: repr(parameters[found.group(1)]), where)
    where = re.sub(
        r"(?<![a-z] )(?<!!)\((captions contains \((?:[^()]|\([^()]*\))*\))\)", r"\1", where
    )
    return where[1:-1] if where.startswith("(") and where.endswith("))") else where


TEXTS = (
    '"as seen" one',
    'one "a blue" -round',
    '+one "as seen" blue',
    '+blue +"as seen" one',
    '-"as seen" one quiet',
    "circ* one",
    "+circ*",
    "+circ* -bro* blue",
    "-circ* one",
    '+"one blue" -foggy the',
    "one blue",
    "+nosuchword one",
    '"no such phrase"',
)
FILTERS = ((), (TagFilter("category", ("food-drink",)), NumberFilter("year", low=2005)))


@pytest.mark.parametrize("mode", MODES)
def test_both_engines_give_the_same_pages(
    mode: Any, local: LocalEngine, vespa: VespaEngine, documents: list[Document]
) -> None:
    vector = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    # Each text in two of the modes: the stand-in compares all documents by brute force.
    for number, text in list(enumerate(TEXTS))[MODES.index(mode) % 3 :: 3]:
        found = query_terms([Part("text", text)], "en")
        query = EngineQuery(
            mode,
            () if mode == "vector" else found.tokens,
            None if mode == "bm25" else vector / np.linalg.norm(vector),
            k=12,
            offset=(0, 4)[number % 2],
            filters=FILTERS[number % 2],
            facets=("category",) if number % 3 else (),
            candidates=15,
            terms=found.terms,
        )
        here, there = local.search(query), vespa.search(query)
        assert_same_pages(here, there, query)
        for hit in here.hits:
            _assert_satisfied(hit.document, found.terms)


def _assert_satisfied(document: Document, terms: Terms) -> None:
    def holds(term: Term) -> bool:
        if term.is_prefix:
            return any(
                word.startswith(term.tokens[0])
                for text in document.captions
                for word in words(text)
            )
        wanted = " ".join(("", *term.tokens, ""))
        return any(wanted in f" {' '.join(tokens(text))} " for text in document.captions)

    assert all(any(map(holds, alternatives)) for alternatives in terms.required)
    assert not any(map(holds, terms.excluded))


def test_a_hybrid_keeps_what_is_near_only_where_it_has_no_word_that_is_left_out(
    local: LocalEngine, documents: list[Document]
) -> None:
    near = next(each for each in documents if "circle" in " ".join(each.captions))
    query = EngineQuery("hybrid", ("one",), near.embedding, k=610)
    assert local.search(query).hits[0].document.id == near.id
    without = replace(query, terms=Terms(excluded=(Term(("circ",), is_prefix=True),)))
    page = local.search(without)
    assert near.id not in {hit.document.id for hit in page.hits}
    # As many of the nearest are looked for as before, among those that may be there.
    allowed = [each for each in documents if not any("circ" in text for text in each.captions)]
    lexical = {each.id for each in allowed if "one" in tokens(" ".join(each.captions))}
    cosine = {each.id: float(each.embedding @ near.embedding) for each in allowed}  # type: ignore[operator]
    nearest = sorted(cosine, key=cosine.__getitem__)[-100:]
    assert {hit.document.id for hit in page.hits} == lexical | set(nearest)


def test_segments_of_an_earlier_version_are_asked_through_their_captions(
    documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(segment, "words_in", lambda sections: None)
        engine = in_segments(tmp_path / "earlier", documents[:60], 2)
        query = EngineQuery("bm25", terms=Terms(optional=(Term(("b",), is_prefix=True),)), k=60)
        found = engine.search(query)
        engine.close()
    again = LocalEngine.open(tmp_path / "earlier").search(query)
    assert found.hits == again.hits and found.total == again.total > 5


def test_an_explanation_is_what_vespa_recorded(
    recorded: Path, local: LocalEngine, documents: list[Document]
) -> None:
    """Match features say how often each word was found; the shares are the recorded score."""
    text = (recorded / "asking" / "words.jsonl").read_text(encoding="utf-8")
    (row,) = (each for each in map(json.loads, text.splitlines()) if each["case"] == "explain")
    by_id = {each.id: each for each in documents}
    terms = (Term((row["parameters"]["a"],)), Term((row["parameters"]["b"],)))
    frequencies = local.document_frequencies([term.tokens[0] for term in terms])
    lengths = {each.id: len(tokens(" ".join(each.captions))) for each in documents}
    average = sum(lengths.values()) / len(lengths)
    for hit in row["hits"]:
        found, part = shares_of(
            hit["relevance"], by_id[hit["id"]].captions, terms, frequencies, "en"
        )
        features = hit["matchfeatures"]
        assert [share.frequency for share in found] == [
            features[f"fieldTermMatch(captions,{number}).occurrences"] for number in range(2)
        ]
        assert sum(share.share for share in found) == pytest.approx(hit["relevance"], abs=1e-9)
        assert part == pytest.approx(1.2 * (0.25 + 0.75 * lengths[hit["id"]] / average), abs=1e-6)


@pytest.mark.parametrize("mode", ["bm25", "vector", "hybrid", "hybrid-rrf"])
def test_both_engines_explain_alike(
    mode: Any, local: LocalEngine, vespa: VespaEngine, documents: list[Document]
) -> None:
    found = query_terms([Part("text", 'one blue "a spotted" -round')], "en")
    embedding = documents[5].embedding
    assert embedding is not None
    vector = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    query = EngineQuery(
        mode,
        () if mode == "vector" else found.tokens,
        None if mode == "bm25" else vector / np.linalg.norm(vector),
        k=4,
        terms=found.terms,
        candidates=20,
    )
    pages = [explained(engine.search(query), query, engine) for engine in (local, vespa)]
    for here, there in zip(pages[0].hits, pages[1].hits, strict=True):
        assert here.explanation is not None and there.explanation is not None
        for name, value in here.explanation.to_json().items():
            other = there.explanation.to_json()[name]
            if name != "terms":
                assert value == (pytest.approx(other, abs=1e-4) if other is not None else None)
                continue
            for term, twin in zip(value, other, strict=True):
                assert term == {
                    key: pytest.approx(each, abs=1e-4) if isinstance(each, float) else each
                    for key, each in twin.items()
                }
        assert sum(term.share for term in here.explanation.terms) == pytest.approx(
            here.bm25 or 0, abs=1e-5
        )
    cosines = sorted((float(each.embedding @ query.vector) for each in documents  # type: ignore[operator]
                      if "round" not in tokens(" ".join(each.captions))),
                     reverse=True) if query.vector is not None else []  # fmt: skip
    for hit in pages[0].hits:
        assert hit.explanation is not None
        if hit.cosine is None:
            assert hit.explanation.rank_by_image is None
        else:
            rank = 1 + sum(each > hit.cosine + 2e-6 for each in cosines)
            assert hit.explanation.rank_by_image == rank
        if mode == "bm25":
            better = [each for each in pages[0].hits if each.score > hit.score * (1 + 2e-6)]
            assert hit.explanation.rank_by_words == 1 + len(better)


def test_both_engines_suggest_the_same_words(
    local: LocalEngine, vespa: VespaEngine, documents: list[Document]
) -> None:
    counts = Counter(
        word
        for each in documents
        for word in {word for text in each.captions for word in words(text)}
    )
    for prefix in ("b", "br", "circ", "caf", "1", "nosuch"):
        expected = sorted(
            (WordCount(word, count) for word, count in counts.items() if word.startswith(prefix)),
            key=lambda each: (-each.documents, each.word),
        )[:7]
        assert list(local.suggest(prefix, 7)) == list(vespa.suggest(prefix, 7)) == expected
    for word in ("brwn", "bluee", "quitt", "ancientt", "xy", "2o05", "zzzzzzzzz", "blue"):
        here, there = local.spelled_like(word, 5), vespa.spelled_like(word, 5)
        assert here == there
        near = [each for each in counts if 0 < edits(word, each) <= most_edits(word)]
        ordered = sorted(near, key=lambda each: (edits(word, each), -counts[each], each))
        assert [each.word for each in here] == ordered[:5]
    assert local.spelled_like("brwn", 1) == (WordCount("brown", counts["brown"]),)


def test_documents_of_an_earlier_form_have_no_beginnings_and_say_what_mends_it() -> None:
    with StubVespa() as stub:
        client = connect(stub.url)
        write_info(client, replace(INFO, document_form=2))
        client.close()
        engine = VespaEngine.open(stub.url)
        terms = query_terms([Part("text", "red circ*")], "en").terms
        with pytest.raises(UsageError, match=r"circ\*: .* run clipsearch deploy, and then"):
            engine.search(EngineQuery("bm25", ("red",), terms=terms))
        with pytest.raises(EngineError, match="run clipsearch deploy, and then clipsearch feed"):
            engine.suggest("re", 3)
        engine.close()
