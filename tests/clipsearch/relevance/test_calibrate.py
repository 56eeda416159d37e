"""`clipsearch calibrate`: what is learned, what is kept, and what is not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from local_collection import feed
from vespa_stub import StubVespa

from clipsearch.cli import cli
from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.modes import Calibration, Weights, WordShare
from clipsearch.operations import Upsert
from clipsearch.relevance.learning import (
    RRF_KS,
    Contender,
    ScoredQuery,
    _golden_section,
    figures_of,
    learn_rrf_k,
    learn_weights,
)
from clipsearch.relevance.measures import MRR, NDCG
from clipsearch.search.search import Search
from finetune.errors import UsageError

WORDS = ("red", "blue", "dog", "cat", "car", "house", "river", "tree", "boat", "star", "beach")
SPLITS = ("val", "test", "train")


def made_up_query(source: np.random.Generator, number: int) -> ScoredQuery:
    """The right one stands out a little by words and by vector; both are noisy."""
    count, right = 60, int(source.integers(60))
    bm25 = np.where(source.random(count) < 0.5, source.gamma(2.0, 2.0, count), 0).astype(np.float32)
    cosine = source.normal(0.2, 0.03, count).astype(np.float32)
    bm25[right] += 3
    cosine[right] += 0.06
    grades = np.zeros(count, np.int64)
    grades[right] = 1
    ideal = np.eye(1, 10, dtype=np.int64)
    return ScoredQuery(bm25, cosine, grades, ideal, number)


@pytest.mark.parametrize("mode", ["hybrid", "hybrid-normalized"])
@pytest.mark.parametrize("figure", [MRR, NDCG])
def test_the_weights_are_as_good_as_any(mode: str, figure: str) -> None:
    source = np.random.default_rng(5)
    queries = [made_up_query(source, number) for number in range(150)]
    learned = learn_weights(queries, mode, figure)
    others = [
        float(figures_of(queries, Contender(mode, Weights(0.1, 0.1 * 10**power)), figure).mean())
        for power in np.linspace(-2.5, 4.5, 71)
    ]
    found = float(figures_of(queries, learned, figure).mean())
    assert found >= max(others) - 0.005
    assert found > max(others[0], others[-1]) + 0.05, "words or vector alone are worse"


def test_k_of_rank_fusion_is_learned_and_counts(index: Path) -> None:
    source = np.random.default_rng(6)
    queries = [made_up_query(source, number) for number in range(80)]
    learned = learn_rrf_k(queries, Weights(0.1, 1.0), MRR)
    means = {
        k: float(figures_of(queries, Contender("hybrid-rrf", Weights(0.1, 1.0, k)), MRR).mean())
        for k in RRF_KS
    }
    assert means[learned.weights.rrf_k] == max(means.values()) > min(means.values())
    engine = LocalEngine.open(index)
    with Search(engine) as search:
        before = search.query("red dog star", mode="hybrid-rrf", k=120).hits
        engine.change_info(lambda info: replace(info, rrf_k=1))
        after = search.query("red dog star", mode="hybrid-rrf", k=120).hits
    assert before[0].score <= 2 / 61 < 1 / 2 <= after[0].score
    assert after[0].score in [
        1 / (1 + a) + 1 / (1 + b) for a in range(1, 121) for b in range(1, 121)
    ]


def test_the_golden_section_finds_a_peak() -> None:
    place, value = _golden_section(lambda x: -((x - 1.3) ** 2), 0.0, 3.0)
    assert place == pytest.approx(1.3, abs=0.05)
    assert value == pytest.approx(0, abs=0.01)


@pytest.fixture(scope="module")
def documents(encoder_folder: Path) -> list[Document]:
    """Words mislead (few, and most images have them), and the vector is what the captions are."""
    source = np.random.default_rng(11)
    encoder = Encoder.load(encoder_folder)
    captions = [tuple(" ".join(source.choice(WORDS, 5)) for _ in range(2)) for _ in range(72)]
    texts = encoder.encode_texts([text for pair in captions for text in pair])
    found = []
    for number, pair in enumerate(captions):
        vector = texts[2 * number] + texts[2 * number + 1]
        vector /= np.linalg.norm(vector)
        tags = {"split": SPLITS[number % 3]}
        found.append(Document(f"{number:03}.jpg", pair, "", tags, {}, vector))
    return found


@pytest.fixture
def info(encoder_folder: Path) -> IndexInfo:
    description = Encoder.load(encoder_folder).description
    return IndexInfo(
        32,
        encoder_fingerprint=description.fingerprint,
        encoder_name=description.name,
        encoder_path=str(encoder_folder),
    )


@pytest.fixture
def index(documents: list[Document], info: IndexInfo, tmp_path: Path) -> Path:
    return make_index(tmp_path / "photos.index", documents, info)


def make_index(folder: Path, documents: list[Document], info: IndexInfo) -> Path:
    engine = LocalEngine.create(folder, info)
    feed(engine, [Upsert(document) for document in documents])
    engine.close()
    return folder


def calibrate(index: Path | str, *arguments: str) -> dict:
    return json.loads(run("calibrate", "--index", str(index), "--json", *arguments))


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, [*arguments], catch_exceptions=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_what_is_surely_better_is_kept_and_used(index: Path) -> None:
    tried = calibrate(index, "--dry-run", "--resamples", "200")
    assert tried["better"] and not tried["kept"]
    assert LocalEngine.open(index).info.calibration is None
    found = calibrate(index, "--resamples", "200")
    assert found["kept"] and found["today"] == "hybrid (0.1 × bm25 + 1 × cosine)"
    assert found["gain"]["low"] > 0 and found["gain"]["p_value"] < 0.05
    assert (found["learned_on"], found["held_out"]) == (48, 48)
    chosen = next(one for one in found["contenders"] if found["chosen"] == one["ranking"])
    info = LocalEngine.open(index).info
    assert info.text_mode == chosen["mode"]
    if chosen["of_share"]:
        assert info.word_share == WordShare(chosen["bm25_weight"], 48)
        assert (info.bm25_weight, info.vector_weight) == (0.1, 1.0), "those of other modes stay"
    else:
        assert (info.word_share, info.vector_weight) == (None, chosen["vector_weight"])
    assert info.calibration == Calibration(
        MRR, *(found["gain"][name] for name in ("value", "low", "high")), 48
    )
    status = run("status", "--index", str(index))
    assert f"{info.text_mode}" in status and "(calibrated: mrr@10 +0." in status
    with Search.open(index) as search:
        hits = search.query("red dog star").hits
        assert hits == search.query("red dog star", mode=info.text_mode).hits
        other = search.query("red dog star", mode="hybrid", bm25_weight=0.1, vector_weight=1.0)
        assert [hit.score for hit in hits] != [hit.score for hit in other.hits]
    again = calibrate(index, "--resamples", "200")
    assert not again["better"] and not again["kept"]
    assert LocalEngine.open(index).info == info


def test_of_a_vespa_the_same_is_kept_and_sent(
    documents: list[Document], info: IndexInfo, index: Path
) -> None:
    embedded = calibrate(index, "--resamples", "100")
    with StubVespa(dimension=32) as stub:
        write_info(connect(stub.url), info)
        engine = VespaEngine.open(stub.url)
        assert all(done.error is None for done in engine.feed(map(Upsert, documents)))
        found = calibrate(stub.url, "--resamples", "100")
        assert found["chosen"] == embedded["chosen"] and found["kept"]
        assert any("rank profile" in note for note in found["notes"])
        assert found["gain"]["value"] == pytest.approx(embedded["gain"]["value"])
        with Search.open(stub.url) as search:
            (first, *_) = search.query("red dog").hits
            with Search.open(index) as ours:
                expected = ours.query("red dog").hits[0]
            assert (first.document.id, first.score) == (
                expected.document.id, pytest.approx(expected.score, abs=1e-4)
            )  # fmt: skip
        body = stub.requests[-1].body
        assert body["ranking.profile"] == search.info.text_mode
        share = search.info.word_share
        sent = (body["input.query(bm25_weight)"], body["input.query(vector_weight)"])
        if share is None:
            assert sent == (search.info.bm25_weight, search.info.vector_weight) != (0.1, 1.0)
        else:
            assert 0 < sent[0] < share.weight and sent[1] == 1.0
        engine.close()


def test_what_may_be_chance_changes_nothing(
    documents: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    """Vectors of no meaning, and today's weights make little of them."""
    source = np.random.default_rng(0)
    random = source.standard_normal((len(documents), 32)).astype(np.float32)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    meaningless = [
        replace(document, embedding=vector)
        for document, vector in zip(documents, random, strict=True)
    ]
    index = make_index(tmp_path / "noise.index", meaningless, replace(info, vector_weight=1e-6))
    found = calibrate(index, "--folds", "2", "--split", "train", "--resamples", "200")
    assert not found["kept"]
    assert (found["learned_on"], found["held_out"]) == (48, 48)
    assert LocalEngine.open(index).info.calibration is None
    told = run("calibrate", "--index", str(index), "--resamples", "100")
    assert "Nothing is changed: the gain may be chance, or is none." in told


def test_judgments_teach_in_parts(documents: list[Document], index: Path, tmp_path: Path) -> None:
    lines = [f"{document.captions[0]},{document.id},1" for document in documents[:60]]
    judged = tmp_path / "judged.csv"
    judged.write_text("query,id,grade\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = calibrate(
        index, "--queries", str(judged), "--dry-run", "--metric", "ndcg@10", "--folds", "2"
    )
    assert found["metric"] == "ndcg@10"
    assert found["learned_on"] == found["held_out"] == len(set(lines))


def test_an_index_of_an_earlier_version_knows_of_none() -> None:
    values = IndexInfo(8).to_json()
    for name in ("rrf_k", "text_mode", "calibration"):
        del values[name]
    assert IndexInfo.from_json(values) == IndexInfo(8)
    known = IndexInfo(
        8, rrf_k=5, text_mode="hybrid-rrf", calibration=Calibration(MRR, 0.1, 0.0, 0.2, 9)
    )
    assert IndexInfo.from_json(json.loads(json.dumps(known.to_json()))) == known
    with pytest.raises(TypeError):
        IndexInfo.from_json({"dimension": 8, "text_mode": "no such mode"})


def test_what_cannot_teach_is_refused(
    documents: list[Document], info: IndexInfo, tmp_path: Path
) -> None:
    train = [replace(document, tags={"split": "train"}) for document in documents]
    index = make_index(tmp_path / "train.index", train, info)
    alone = [replace(document, captions=document.captions[:1]) for document in documents]
    single = make_index(tmp_path / "single.index", alone, info)
    bare = make_index(tmp_path / "bare.index", documents, IndexInfo(32))
    few = tmp_path / "few.csv"
    few.write_text("query,id\nred dog,000.jpg\nblue cat,001.jpg\n", encoding="utf-8")
    for arguments, sentence in {
        (index,): "no image of the split val has a caption to ask with; .* with --folds 5",
        (single,): "no image has another caption, so words find none without the one",
        (bare,): "names no encoder, so there is nothing to join with the words",
        (index, "--queries", few): "only 2 independent queries, which teach nothing that holds",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            calibrate(*map(str, arguments))
    assert LocalEngine.open(index).info.calibration is None
