"""The first hits of a hybrid by z-scores: the formula, what is learned and kept, the answers."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from local_collection import feed
from vespa_stub import StubVespa

from clipsearch.cli import cli
from clipsearch.deployment.options import DeployOptions, Wanted
from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.modes import Calibration, Weights, WordShare
from clipsearch.operations import Upsert
from clipsearch.relevance import calibration
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.learning import Contender, scored_queries
from clipsearch.relevance.sources import collection_of
from clipsearch.reordering import Reorder, z_scores
from clipsearch.search import calibrated_order
from clipsearch.search.search import Search

WORDS = ("red", "blue", "dog", "cat", "car", "house", "river", "tree", "boat", "star", "beach")
QUERIES = ("red dog star", "a boat", "dog dog zebra", "+red boats on the river", '"red dog"', "!!!")
ORDER = Reorder(1.0, 0.5)


def naive_z(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / deviation if deviation > 1e-12 else 0.0 for value in values]


def naive_scores(bm25: list[float], cosine: list[float]) -> list[float]:
    return [a + 0.5 * b for a, b in zip(naive_z(bm25), naive_z(cosine), strict=True)]


def test_the_formula_says_what_it_means() -> None:
    source = np.random.default_rng(3)
    for count in (1, 2, 17, 60):
        bm25 = np.round(source.gamma(1.0, 2.0, count), 1)  # some are equal
        cosine = source.normal(0.2, 0.1, count)
        expected = naive_scores(bm25.tolist(), cosine.tolist())
        np.testing.assert_allclose(ORDER.scores(bm25, cosine), expected, rtol=1e-9, atol=1e-12)
    assert len(ORDER.scores(np.zeros(0), np.zeros(0))) == 0
    assert z_scores(np.full(4, 0.1, np.float32)).tolist() == [0] * 4


@pytest.fixture(scope="module")
def documents(encoder_folder: Path) -> list[Document]:
    """120 images whose captions say some words again and again; vectors that tell nothing."""
    source = np.random.default_rng(12)
    captions = []
    for number in range(120):
        shown = source.choice(WORDS, 3, replace=False).tolist()
        said = shown + shown[:1] * 4 if number % 2 else [*shown, "that", "someone", "has", "seen"]
        captions.append(" ".join(said))
    vectors = source.standard_normal((120, Encoder.load(encoder_folder).description.dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Document(f"{number:03}.jpg", (caption,), "", {"half": str(number % 2)}, {}, vector)
        for number, (caption, vector) in enumerate(
            zip(captions, vectors.astype(np.float32), strict=True)
        )
    ]


@pytest.fixture(scope="module")
def info(encoder_folder: Path) -> IndexInfo:
    description = Encoder.load(encoder_folder).description
    return IndexInfo(
        description.dimension,
        encoder_fingerprint=description.fingerprint,
        encoder_name=description.name,
        encoder_path=str(encoder_folder),
        word_share=WordShare(2.0, 40),
        calibration=Calibration("mrr@10", 0.1, 0.05, 0.15, 40),
        reorder=ORDER,
        tag_columns=("half",),
    )


def make_index(folder: Path, documents: list[Document], info: IndexInfo) -> Path:
    engine = LocalEngine.create(folder, info)
    feed(engine, [Upsert(document) for document in documents])
    engine.close()
    return folder


@pytest.fixture(scope="module")
def index(
    documents: list[Document], info: IndexInfo, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_index(tmp_path_factory.mktemp("reordered") / "photos.index", documents, info)


@pytest.fixture
def search(index: Path) -> Iterator[Search]:
    with Search.open(index) as search:
        yield search


def test_both_engines_answer_the_same_page(
    search: Search, documents: list[Document], info: IndexInfo
) -> None:
    with StubVespa(dimension=info.dimension) as stub:
        write_info(connect(stub.url), info)
        vespa = VespaEngine.open(stub.url)
        assert all(done.error is None for done in vespa.feed(map(Upsert, documents)))
        vespa.close()
        with Search.open(stub.url) as theirs:
            assert theirs.info.reorder == ORDER
            for text in QUERIES:
                pages = [each.query(text, k=120) for each in (search, theirs)]
                ids = [[hit.document.id for hit in page.hits] for page in pages]
                assert ids[0] == ids[1] and pages[0].notes == pages[1].notes
                assert any("as calibrated" in note for note in pages[0].notes)
                scores = [[hit.score for hit in page.hits] for page in pages]
                assert scores[0] == sorted(scores[0], reverse=True)
                assert scores[0] == pytest.approx(scores[1], abs=1e-4)
                expected = naive_scores(
                    [hit.bm25 or 0.0 for hit in pages[0].hits],
                    [hit.cosine or 0.0 for hit in pages[0].hits],
                )
                assert scores[0] == pytest.approx(expected, abs=1e-6)


def test_what_a_query_says_comes_first(search: Search) -> None:
    plain = search.query("red dog", mode="hybrid")
    reordered = search.query("red dog")
    assert [hit.score for hit in reordered.hits] != [hit.score for hit in plain.hits]
    assert reordered.total == plain.total and plain.notes == ()
    for options in ({"bm25_weight": 0.3}, {"vector_weight": 2.0}, {"sort": "id"}):
        named = search.query("red dog", mode="hybrid", **options)
        assert replace(search.query("red dog", **options), seconds=0) == replace(named, seconds=0)
    for options in ({"min_score": 0.5}, {"collapse": True}):
        cut = search.query("red dog", **options)
        assert cut.hits == search.query("red dog", mode="hybrid", **options).hits
        assert cut.notes == (calibrated_order.AS_HYBRID,)
    (hit, *_) = search.query("red dog", explain=True).hits
    assert hit.explanation is not None and hit.explanation.rank_by_words is not None
    assert hit.explanation.bm25_weight is None, "the score is no sum of these two"
    filtered = search.query("red dog", filters={"half": "1"}, facets=["half"])
    assert {hit.document.tags["half"] for hit in filtered.hits} == {"1"}
    assert (
        filtered.facets
        == search.query("red dog", mode="hybrid", filters={"half": "1"}, facets=["half"]).facets
    )


def test_pages_follow_each_other(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_pages(k: int) -> list[tuple[str, float]]:
        pages = [search.query("red dog star", k=k, page=number) for number in range(1, 120 // k)]
        return [(hit.document.id, hit.score) for page in pages for hit in page.hits]

    whole = [(hit.document.id, hit.score) for hit in search.query("red dog star", k=60).hits]
    assert in_pages(20)[:60] == whole
    monkeypatch.setattr(calibrated_order, "RERANK_COUNT", 30)
    few, hybrid = in_pages(20), search.query("red dog star", mode="hybrid", k=60).hits
    assert {id_ for id_, _ in few[:30]} == {hit.document.id for hit in hybrid[:30]}
    assert few[30:60] == [(hit.document.id, hit.score) for hit in hybrid[30:60]]
    for page, is_told in ((1, False), (2, True), (3, True)):
        notes = search.query("red dog star", k=20, page=page).notes
        assert (calibrated_order.BEYOND in notes) is is_told


def test_what_is_measured_is_what_the_index_answers(search: Search) -> None:
    collection = collection_of(search)
    queries = [
        JudgedQuery(str(number), text, {"000.jpg": 1}, number)
        for number, text in enumerate(("red dog star", "a boat", "dog dog zebra"))
    ]
    asked = zip(queries, scored_queries(search, collection, queries), strict=True)
    for query, scored in asked:
        contender = Contender("hybrid", Weights(2.0, 1.0), True, search.info.reorder)
        rows = contender.first_rows(scored, 10)
        hits = search.query(query.text, plain=True).hits
        found = [(float(scored.bm25[row]), float(scored.cosine[row])) for row in rows]
        assert found == [pytest.approx((hit.bm25, hit.cosine), abs=1e-6) for hit in hits]


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, [*arguments], catch_exceptions=False).stdout


def test_what_is_surely_better_is_kept_shown_and_used(
    documents: list[Document], info: IndexInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vector is what is asked for, and today's weights make nothing of it."""
    source = np.random.default_rng(13)
    texts = [" ".join(source.choice(WORDS, 4, replace=False)) for _ in range(30)]
    vectors = Encoder.load(Path(str(info.encoder_path))).encode_texts(texts)
    shown = [
        replace(document, embedding=vector)
        for document, vector in zip(documents, vectors, strict=False)
    ]
    free = replace(info, word_share=None, calibration=None, reorder=None, vector_weight=1e-6)
    index = make_index(tmp_path / "photos.index", shown, free)
    pairs = zip(texts, shown, strict=True)
    judged = tmp_path / "judged.csv"
    lines = [f"{text},{document.id},1" for text, document in pairs]
    judged.write_text("query,id,grade\n" + "\n".join(lines) + "\n", encoding="utf-8")
    asked = ("calibrate", "--index", str(index), "--queries", str(judged), "--folds", "2")
    tried = json.loads(run(*asked, "--resamples", "100", "--json", "--dry-run"))
    assert [each["name"] for each in tried["contenders"]][-1] == "hybrid by z-scores"
    assert LocalEngine.open(index).info == free

    def two_of(*arguments: Any) -> dict[str, Contender]:
        found = contenders_of(*arguments)
        return {name: found[name] for name in (calibration.TODAY, calibration.OF_Z_SCORES)}

    contenders_of = calibration._contenders
    monkeypatch.setattr(calibration, "_contenders", two_of)
    found = json.loads(run(*asked, "--resamples", "100", "--json"))
    of_z = found["contenders"][-1]
    assert found["kept"] and found["chosen"] == of_z["ranking"]
    known = LocalEngine.open(index).info
    assert known.reorder == Reorder(**of_z["reorder"]) and known.reorder.vector > 1
    assert (known.text_mode, known.word_share) == ("hybrid", None)
    assert (known.bm25_weight, known.vector_weight) == (0.1, 1e-6), "what it reorders stays"
    status = run("status", "--index", str(index))
    assert "hybrid, its first 1,000 hits by z-scores (1 × bm25 + " in status
    assert "(calibrated: mrr@10 +0." in status
    with Search.open(index) as search:
        page = search.query(texts[3])
        assert page.hits[0].document.id == shown[3].id
        assert page.notes == (calibrated_order.AS_CALIBRATED,)
    again = json.loads(run(*asked, "--resamples", "100", "--json"))
    assert again["today"] == found["chosen"] and not again["kept"]
    assert LocalEngine.open(index).info == known


def test_deploy_with_weights_or_another_encoder_forgets_it(info: IndexInfo) -> None:
    of_vectors = replace(info, encoder_fingerprint=None)
    plain = DeployOptions(dimension=info.dimension)
    assert Wanted(plain, None).info(of_vectors).reorder == ORDER
    assert Wanted(plain, None).info(info).reorder is None, "without its encoder"
    assert Wanted(replace(plain, weights=(1, 1)), None).info(of_vectors).reorder is None


def test_it_travels_with_the_index(info: IndexInfo) -> None:
    assert IndexInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    earlier = info.to_json()
    del earlier["reorder"]
    assert IndexInfo.from_json(earlier) == replace(info, reorder=None)
    with pytest.raises(TypeError):
        IndexInfo.from_json(earlier | {"reorder": {"bm25": 1.0}})
