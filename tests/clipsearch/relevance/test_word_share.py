"""How words and vector join where nobody calibrated: measured, kept, ranked by in both engines."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from drawn_shapes import draw_shapes
from local_collection import feed
from vespa_stub import StubVespa

import clipsearch
from clipsearch.cli import cli
from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.modes import Calibration, WordShare
from clipsearch.operations import Upsert
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.measures import MRR, graded_figures, ideal_grades
from clipsearch.relevance.runs import rank_captions
from clipsearch.relevance.sources import QuerySource, ask, collection_of
from clipsearch.relevance.word_share import SHARE_EVIDENCE, keep_word_share, measured_share
from clipsearch.search.search import Search
from clipsearch.terms import DocumentFrequencies
from clipsearch.text import tokens
from clipsearch.weighing import order_told
from finetune.errors import EngineError

WORDS = ("red", "blue", "dog", "cat", "car", "house", "river", "tree", "boat", "star", "beach")
SPLITS = ("val", "test", "train")
QUERIES = ("red dog star", "a boat", "dog dog zebra", "red red boats on the river", "!!!")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def made_up(encoder_folder: Path, *, words_tell: bool, vectors_tell: bool) -> list[Document]:
    """120 images with two captions; what does not tell is drawn apart from what is shown."""
    source = np.random.default_rng(11)
    captions = []
    for _ in range(120):
        shown = source.choice(WORDS, 5)
        second = source.permutation(shown) if words_tell else source.choice(WORDS, 5)
        captions.append((" ".join(shown), " ".join([*second, "seen"])))
    texts = Encoder.load(encoder_folder).encode_texts([text for pair in captions for text in pair])
    vectors = unit(texts[::2] + texts[1::2])
    if not vectors_tell:
        vectors = unit(source.standard_normal(vectors.shape))
    return [
        Document(f"{number:03}.jpg", pair, "", {"split": SPLITS[number % 3]}, {}, vector)
        for number, (pair, vector) in enumerate(zip(captions, vectors, strict=True))
    ]


@pytest.fixture(scope="module")
def info(encoder_folder: Path) -> IndexInfo:
    description = Encoder.load(encoder_folder).description
    return IndexInfo(
        32,
        encoder_fingerprint=description.fingerprint,
        encoder_name=description.name,
        encoder_path=str(encoder_folder),
    )


@pytest.fixture(scope="module")
def misleading(encoder_folder: Path) -> list[Document]:
    return made_up(encoder_folder, words_tell=False, vectors_tell=True)


def make_index(folder: Path, documents: list[Document], info: IndexInfo) -> Path:
    engine = LocalEngine.create(folder, info)
    feed(engine, [Upsert(document) for document in documents])
    engine.close()
    return folder


def test_both_engines_rank_by_the_same_shares(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    info = replace(info, word_share=WordShare(2.5, 40))
    collection = Collection.of(misleading, 32, "en")
    with StubVespa(dimension=32) as stub:
        write_info(connect(stub.url), info)
        vespa = VespaEngine.open(stub.url)
        assert all(done.error is None for done in vespa.feed(map(Upsert, misleading)))
        vespa.close()
        index = make_index(tmp_path / "a.index", misleading, info)
        with Search.open(index) as ours, Search.open(stub.url) as theirs:
            for text in QUERIES:
                pages = [search.query(text, k=120).hits for search in (ours, theirs)]
                assert [hit.document.id for hit in pages[0]] == [h.document.id for h in pages[1]]
                found = np.array([[hit.score for hit in page] for page in pages])
                np.testing.assert_allclose(found[0], found[1], atol=1e-4)
                words = tokens(text)
                most = most_naively(misleading, words)
                bm25 = collection.bm25(words)
                for hit in pages[0]:
                    share = float(bm25[collection.rows[hit.document.id]]) / most
                    assert 0 <= share <= 1 and hit.cosine is not None
                    assert hit.score == pytest.approx(2.5 * share + hit.cosine, abs=1e-4)
            # A phrase counts as its rarest word.
            phrase, plain = (engine.document_frequencies(["red", "dog", "zebra", "red"])
                             for engine in (ours.engine, theirs.engine))  # fmt: skip
            assert phrase == plain == DocumentFrequencies(
                120, {word: holding(misleading, word) for word in ("red", "dog", "zebra")}
            )  # fmt: skip


def holding(documents: list[Document], word: str) -> int:
    return sum(word in tokens(" ".join(document.captions)) for document in documents)


def most_naively(documents: list[Document], words: list[str]) -> float:
    total = len(documents)
    counts = Counter({word: holding(documents, word) for word in words})
    return sum(np.log1p((total - counts[w] + 0.5) / (counts[w] + 0.5)) * 2.2 for w in words) or 1


def test_weights_that_someone_gives_mean_what_they_meant(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    plain = make_index(tmp_path / "plain.index", misleading, info)
    shares = make_index(tmp_path / "shares.index", misleading,
                        replace(info, word_share=WordShare(2.5, 40)))  # fmt: skip
    with Search.open(plain) as before, Search.open(shares) as after:
        for options in (
            {"bm25_weight": 0.3}, {"vector_weight": 2.0}, {"mode": "hybrid-rrf"},
            {"mode": "hybrid-normalized"}, {"mode": "hybrid-sum"}, {"mode": "bm25"},
        ):  # fmt: skip
            pages = [each.query("red dog", **options).hits for each in (before, after)]
            assert pages[0] == pages[1], options
        assert before.query("red dog").hits != after.query("red dog").hits


@pytest.mark.parametrize(("words_tell", "vectors_tell"), [(1, 0), (0, 1), (0, 0), (1, 1)])
def test_hybrid_is_no_worse_than_its_better_part(
    words_tell: bool, vectors_tell: bool, encoder_folder: Path, info: IndexInfo, tmp_path: Path
) -> None:
    documents = made_up(encoder_folder, words_tell=words_tell, vectors_tell=vectors_tell)
    index = make_index(tmp_path / "photos.index", documents, info)
    found = evaluated(index)
    with Search.open(index) as search:
        share = keep_word_share(search)
        assert share is not None and share.images == 40
        assert search.info.word_share == share
        assert keep_word_share(search) is None, "it has not grown"
    after = evaluated(index)
    assert (after["bm25"], after["vector"]) == (found["bm25"], found["vector"])
    assert after["hybrid"] >= max(found["bm25"], found["vector"]) - 0.02
    if words_tell != vectors_tell:
        assert (share.weight > 1) is bool(words_tell)
        first = "words of captions count first" if words_tell else "what pictures show counts first"
        assert order_told(share).startswith(first)


@pytest.mark.parametrize(
    ("weight", "apart", "told"),
    [
        (2.2, None, "all words of a query in a caption add 1"),
        (2.2, 0.5, "words of captions count first: all … add 1, a picture that fits adds 0.5"),
        (
            2.2,
            0.51,
            "words … pictures show count alike: all … add 1, a picture that fits adds 0.51",
        ),
        (0.22, 0.19, "words … pictures show count alike: all … add 0.1, a picture … adds 0.19"),
        (0.22, 0.2, "what pictures show counts first: all … add 0.1, a picture that fits adds 0.2"),
        (
            0.22,
            -0.1,
            "words of captions count first: all … add 0.1, a picture that fits adds nothing",
        ),
    ],
)
def test_what_counts_first_is_told_by_what_each_adds(
    weight: float, apart: float | None, told: str
) -> None:
    pattern = re.escape(told).replace("…", ".*")
    assert re.fullmatch(pattern, order_told(WordShare(weight, 40, apart)))


def evaluated(index: Path) -> dict[str, float]:
    """MRR@10 of the captions of the split test, each left out while it is asked."""
    with Search.open(index) as search:
        asked = ask(search, QuerySource(split="test"))
        assert asked.collection is not None
        modes = ("bm25", "vector", "hybrid")
        runs = rank_captions(search, asked.collection, asked.queries, modes, lambda _: None)
        ideal = ideal_grades([query.grades for query in asked.queries])
        return {run.mode: float(graded_figures(run.grades, ideal)[MRR].mean()) for run in runs}


def test_what_is_evaluated_is_what_the_index_answers(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    index = make_index(tmp_path / "a.index", misleading, replace(info, word_share=WordShare(2, 9)))
    with Search.open(index) as search:
        asked = ask(search, QuerySource(split="test"))
        queries = [replace(query, removed={}) for query in asked.queries[:20]]
        (run,) = rank_captions(search, collection_of(search), queries, ["hybrid"], lambda _: None)
        for query, shown in zip(queries, run.shown, strict=True):
            hits = search.query(query.text, mode="hybrid", k=len(shown)).hits
            assert [hit.document.id for hit in hits] == [each.id for each in shown]
            assert [hit.score for hit in hits] == pytest.approx([each.score for each in shown])


def test_nothing_is_measured_where_there_is_nothing_to_measure_or_someone_chose(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    by_heart = [replace(each, tags={"split": "train"}) for each in misleading]
    for number, documents in enumerate((by_heart, misleading[:59])):
        index = make_index(tmp_path / f"{number}.index", documents, info)
        with Search.open(index) as search:
            assert keep_word_share(search) is None
            assert measured_share(search) is None
            assert search.info.word_share is None
            assert search.info.measured_at == len(documents), "it is not looked for at each feed"
    chosen = Calibration(MRR, 0.1, 0.0, 0.2, 9)
    for number, someones in enumerate(
        (
            replace(info, calibration=chosen),
            replace(info, vector_weight=2.0),
            replace(info, encoder_path=None),
        )
    ):
        index = make_index(tmp_path / f"chosen-{number}.index", misleading, someones)
        with Search.open(index) as search:
            assert keep_word_share(search) is None
            assert search.info == someones


def test_of_single_captions_the_cosines_alone_are_measured(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    documents = [replace(each, captions=each.captions[:1]) for each in misleading]
    index = make_index(tmp_path / "one.index", documents, info)
    with Search.open(index) as search:
        found = measured_share(search)
        encoder = search.encoder
        own, others = [], []
        for document in documents:
            if document.tags["split"] == "val":
                text = encoder.encode_texts(document.captions)[0]
                for other in documents:
                    same = tokens(other.captions[0]) == tokens(document.captions[0])
                    (own if same else others).append(float(text @ other.embedding))
    assert found is not None and found.images == 40
    evidence = (np.mean(own) - np.mean(others)) / np.var(others)
    assert found.weight == pytest.approx(SHARE_EVIDENCE / evidence, rel=1e-3)
    assert found.apart == pytest.approx(np.mean(own) - np.mean(others), rel=1e-3)


def test_calibrate_holds_shares_against_the_rest_and_status_shows_them(
    misleading: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    index = make_index(tmp_path / "photos.index", misleading, info)
    runner = CliRunner()

    def run(*arguments: str) -> str:
        return runner.invoke(
            cli, [*arguments, "--index", str(index)], catch_exceptions=False
        ).stdout

    with Search.open(index) as search:
        found = keep_word_share(search)
    assert found is not None
    assert f"hybrid: {found.weight:.3g} × word share + cosine: " in run("status")
    assert "weights    0.1 × bm25 + 1 × cosine (of hybrid-rrf and" in run("status")
    assert "(measured on the captions of 40 images)" in run("status")
    assert order_told(found) in run("status") and "hybrid-normalized alone)" in run("status")
    tried = json.loads(run("calibrate", "--json", "--dry-run", "--resamples", "100"))
    assert tried["today"] == f"hybrid ({found.weight:.3g} × word share + cosine)"
    assert "…" not in run("calibrate", "--dry-run", "--resamples", "20"), "no cell is cut"
    shares = [one for one in tried["contenders"] if one["of_share"] and not one["reorder"]]
    assert [one["name"] for one in shares] == ["today", "hybrid of shares"]
    assert shares[1]["vector_weight"] == 1.0


def raising(error: Exception) -> Callable[[Search], None]:
    def raises(_: Search) -> None:
        raise error

    return raises


def test_a_feed_from_python_measures_as_the_command_does(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = draw_shapes(tmp_path, 40)
    rows = manifest.read_text(encoding="utf-8").splitlines()
    split = ["split", *["val"] * (len(rows) - 1)]
    joined = "\n".join(f"{row},{name}" for row, name in zip(rows, split, strict=True))
    manifest.write_text(joined, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ["--encoder", str(encoder_folder), "--index", "told.index", "--workers", "0"]
    done = CliRunner().invoke(cli, ["feed", manifest.name, *options], catch_exceptions=False)
    assert re.search(
        r"Queries: w.* first: .* word share \+ cosine, measured on the captions of 40 .* calibrate",
        done.stderr,
    )
    report = clipsearch.feed(manifest, "called.index", encoder=encoder_folder, workers=0)
    assert report.fed == 40 and not report.notes
    with Search.open("told.index") as told, Search.open("called.index") as called:
        assert told.info.word_share is not None
        assert called.info.word_share == told.info.word_share
    # What was fed stays where nothing can be measured.
    failing = EngineError("the disk is full")
    monkeypatch.setattr("clipsearch.relevance.word_share.keep_word_share", raising(failing))
    report = clipsearch.feed(manifest, "other.index", encoder=encoder_folder, workers=0)
    assert report.notes == ("how words and vector join was not measured: the disk is full",)


def test_an_index_of_an_earlier_version_ranks_as_before() -> None:
    values = IndexInfo(8).to_json()
    for name in ("word_share", "measured_at"):
        del values[name]
    assert IndexInfo.from_json(values) == IndexInfo(8)
    known = IndexInfo(8, word_share=WordShare(3.5, 40), measured_at=120)
    assert IndexInfo.from_json(json.loads(json.dumps(known.to_json()))) == known
