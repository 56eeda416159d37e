from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_collection import in_segments
from memory_engine import MemoryEngine
from PIL import Image

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import NO_WORDS, IndexInfo
from clipsearch.search.parts import Part, parse_part
from clipsearch.search.query_terms import query_terms
from clipsearch.search.search import NO_ENCODER, Search
from finetune.errors import (
    DocumentNotFoundError,
    EncoderError,
    EncoderMismatchError,
    ImageError,
    UsageError,
)

DIMENSION = 8
INFO = IndexInfo(
    dimension=DIMENSION,
    encoder_fingerprint="f" * 64,
    encoder_name="made up",
    encoder_path="/nowhere/encoder",
    tag_columns=("class",),
    number_columns=("year",),
)


def unit(*values: float) -> np.ndarray:
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


HOME, BEACH = {"class": "home"}, {"class": "Beach"}
DOCUMENTS = [
    Document("a.jpg", ("two dogs on a beach",), "a.jpg", BEACH, {"year": 2010}, unit(1)),
    Document("b.jpg", ("a dog at home",), "b.jpg", HOME, {"year": 2012}, unit(1, 1)),
    Document("c.jpg", ("a cat",), "c.jpg", HOME, {"year": 2014}, unit(0, 1)),
    Document("d.jpg", (), "d.jpg", BEACH, {}, unit(0, 0, 1)),
]

# What the made-up encoder makes of a text; anything else is the last direction.
TEXTS = {"beach": unit(1), "home": unit(0, 1), "people": unit(0, 0, 1), "not beach": unit(-1)}


@dataclass
class MadeUpEncoder:
    fingerprint: str = "f" * 64
    dimension: int = DIMENSION
    folder: Path = Path("made-up")
    texts: list[str] = field(default_factory=list)

    @property
    def description(self) -> SimpleNamespace:
        return SimpleNamespace(
            fingerprint=self.fingerprint, dimension=self.dimension, name="made up"
        )

    def knows_word(self, word: str) -> bool:
        return False

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return np.stack([TEXTS.get(text, unit(*[0] * 7, 1)) for text in texts])

    def encode_images(self, images: Iterable[Path | bytes | Image.Image]) -> np.ndarray:
        opened = [
            image if isinstance(image, Image.Image) else Image.open(image) for image in images
        ]
        return np.stack([unit(*np.asarray(one.convert("RGB")).mean((0, 1))) for one in opened])


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine(INFO, DOCUMENTS)


@pytest.fixture
def search(engine: MemoryEngine) -> Search:
    return Search(engine, encoder=MadeUpEncoder())


def ids(page: object) -> list[str]:
    return [hit.document.id for hit in page.hits]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beach", Part("text", "beach", 1)),
        ("beach:2", Part("text", "beach", 2)),
        ("people:-1", Part("text", "people", -1)),
        ("a.jpg:0.5", Part("text", "a.jpg", 0.5)),
        ("x:.5", Part("text", "x", 0.5)),
        ("x:+3.", Part("text", "x", 3)),
        ("ratio 3:4:1", Part("text", "ratio 3:4", 1)),
        (r"C:\photos\a.jpg", Part("text", r"C:\photos\a.jpg", 1)),
        (r"C:\photos\a.jpg:-2", Part("text", r"C:\photos\a.jpg", -2)),
        ("note: dogs", Part("text", "note: dogs", 1)),
        ("x:1e5", Part("text", "x:1e5", 1)),
        ("x:nan", Part("text", "x:nan", 1)),
        ("x:inf", Part("text", "x:inf", 1)),
        ("two\nlines:2", Part("text", "two\nlines", 2)),
    ],
)
def test_the_weight_is_a_plain_number_after_the_last_colon(text: str, expected: Part) -> None:
    assert parse_part("text", text) == expected


@pytest.mark.parametrize("text", ["", "  ", ":2", " :-1"])
def test_a_part_needs_a_value(text: str) -> None:
    with pytest.raises(UsageError):
        parse_part("image", text)


def test_words_come_from_the_positive_texts_only() -> None:
    parts = [
        Part("text", "Dogs running", 2),
        Part("text", "cats", -1),
        Part("text", "birds", 0),
        Part("image", "dogs.jpg"),
        Part("text", "dogs"),
    ]
    assert query_terms(parts, "en").tokens == ("dog", "run", "dog")


def test_a_mix_is_the_weighted_sum_at_unit_length(
    search: Search, engine: MemoryEngine, tmp_path: Path
) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    red.save(tmp_path / "red.png")
    parts = [
        Part("text", "home", 3),
        Part("text", "people", -2),
        Part("id", "b.jpg", 0.5),
        Part("image", str(tmp_path / "red.png"), -0.25),
        Part("vector", np.array([0, 0, 0, 5, 0, 0, 0, 0], np.float32)),
    ]
    search.query("beach", image=red, parts=parts, mode="vector")
    expected = (
        unit(1) + unit(1) + 3 * unit(0, 1) - 2 * unit(0, 0, 1) + 0.5 * unit(1, 1)
        - 0.25 * unit(1) + unit(0, 0, 0, 1)
    )  # fmt: skip
    sent = engine.queries[0].vector
    np.testing.assert_allclose(sent, expected / np.linalg.norm(expected), atol=1e-6)
    assert sent.dtype == np.float32
    assert engine.queries[0].exclude_ids == ("b.jpg",)


def test_a_mix_that_cancels_is_refused(search: Search) -> None:
    with pytest.raises(UsageError, match="cancel"):
        search.query("beach", parts=[Part("text", "not beach")])
    with pytest.raises(UsageError, match="cancel"):
        search.query(parts=[Part("id", "a.jpg", 0)])


def test_the_default_mode(search: Search, engine: MemoryEngine) -> None:
    search.query("beach")
    search.query(parts=[Part("id", "a.jpg")])
    search.query("beach", parts=[Part("id", "a.jpg")])
    assert [query.mode for query in engine.queries] == ["hybrid", "vector", "hybrid"]
    assert engine.queries[1].tokens == ()


def test_options_reach_the_engine(search: Search, engine: MemoryEngine) -> None:
    page = search.query(
        "dogs", mode="hybrid-rrf", k=2, page=3, filters={"year": (2010, None)}, facets=["class"],
        candidates=7, exact=True, bm25_weight=0.0, vector_weight=2.0,
    )  # fmt: skip
    query = engine.queries[0]
    assert (query.mode, query.k, query.offset, query.candidates) == ("hybrid-rrf", 2, 4, 7)
    assert query.exact
    assert (query.bm25_weight, query.vector_weight, query.tokens) == (0.0, 2.0, ("dog",))
    assert page.offset == 4


def test_finds_by_word_by_vector_and_by_both(search: Search) -> None:
    assert ids(search.query("dog", mode="bm25")) == ["b.jpg", "a.jpg"]
    assert ids(search.query("home", mode="vector"))[:2] == ["c.jpg", "b.jpg"]
    assert ids(search.query("home", bm25_weight=1))[0] == "b.jpg"
    page = search.query("dogs", mode="bm25", filters="class=beach", facets=["class"])
    assert ids(page) == ["a.jpg"]
    assert page.facets == {"class": (("Beach", 1),)}


def test_similar_leaves_the_picture_out_and_needs_no_encoder(engine: MemoryEngine) -> None:
    engine.info = replace(INFO, encoder_path=None, encoder_fingerprint=None)
    page = Search(engine).similar("a.jpg", k=2)
    assert ids(page) == ["b.jpg", "c.jpg"]
    with pytest.raises(DocumentNotFoundError, match="'zzz'"):
        Search(engine).similar("zzz")


def test_bm25_never_loads_the_encoder(engine: MemoryEngine) -> None:
    assert ids(Search(engine).query("cat", mode="bm25")) == ["c.jpg"]  # its folder does not exist


def test_bm25_says_what_it_leaves_out(search: Search) -> None:
    with pytest.raises(UsageError, match="--mode vector"):
        search.query(image="a.jpg", mode="bm25")
    with pytest.raises(UsageError, match="positive weight"):
        search.query(parts=[Part("text", "dog", -1)], mode="bm25")
    page = search.query("dog", parts=[Part("text", "cat", -1)], mode="bm25")
    assert any("did not count" in note for note in page.notes)
    assert ids(page) == ["b.jpg", "a.jpg"]


@pytest.mark.parametrize("mode", ["bm25", "hybrid", "hybrid-sum"])
def test_a_query_without_any_word_says_so(search: Search, mode: str) -> None:
    page = search.query("!!!", mode=mode)
    assert NO_WORDS in page.notes
    assert (page.total == 0) == (mode == "bm25")


def test_an_index_without_encoder(engine: MemoryEngine) -> None:
    engine.info = replace(INFO, encoder_path=None, encoder_fingerprint=None)
    search = Search(engine)
    page = search.query("dog")
    assert ids(page) == ["b.jpg", "a.jpg"]
    assert NO_ENCODER in page.notes
    assert ids(search.query(vector=[0, 0, 3, 0, 0, 0, 0, 0]))[0] == "d.jpg"
    for asked in ({"mode": "vector"}, {"mode": "hybrid"}):
        with pytest.raises(EncoderError, match="--encoder FOLDER") as error:
            search.query("dog", **asked)
        assert "\n" not in str(error.value)


def test_an_encoder_that_has_moved(engine: MemoryEngine) -> None:
    with pytest.raises(EncoderError, match=r"no longer at /nowhere/encoder.*--encoder FOLDER"):
        Search(engine).query("dog")


def test_another_encoder_is_refused_by_both_fingerprints(
    engine: MemoryEngine, encoder_folder: Path
) -> None:
    with pytest.raises(EncoderMismatchError, match=r"ffffffffffff.*--encoder"):
        Search(engine, encoder=encoder_folder)
    engine.info = replace(INFO, encoder_path=str(encoder_folder))
    with pytest.raises(EncoderMismatchError, match="ffffffffffff"):
        Search(engine).query("dog")
    engine.info = replace(INFO, encoder_fingerprint=None)
    with pytest.raises(EncoderMismatchError, match="makes vectors of 32 values"):
        Search(engine, encoder=encoder_folder)


def test_the_encoder_that_the_index_names(encoder_folder: Path) -> None:
    encoder = Encoder.load(encoder_folder)
    captions = ["two dogs on a beach", "a red circle", "a plane at the airport"]
    vectors = encoder.encode_texts(captions)
    info = IndexInfo(
        encoder.dimension,
        encoder_fingerprint=encoder.fingerprint,
        encoder_path=str(encoder_folder),
    )
    documents = [
        Document(str(number), (caption,), embedding=vector)
        for number, (caption, vector) in enumerate(zip(captions, vectors, strict=True))
    ]
    with Search(MemoryEngine(info, documents)) as search:
        for number, caption in enumerate(captions):
            best = search.query(caption, mode="vector").hits[0]
            assert best.document.id == str(number)
            assert best.cosine == pytest.approx(1, abs=1e-5)
        image = Image.new("RGB", (40, 30), "red")
        assert search.query(image=image).total == len(captions)


def test_texts_are_encoded_once(engine: MemoryEngine) -> None:
    encoder = MadeUpEncoder()
    search = Search(engine, encoder=encoder)
    first = search.query("beach")
    second = search.query("beach", mode="vector")
    search.query("home")
    assert encoder.texts == ["beach", "home"]
    assert ids(first)
    assert ids(second)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to search for"),
        ({"text": "  "}, "empty text"),
        ({"text": "x", "mode": "fuzzy"}, "unknown mode 'fuzzy': choose one of bm25, vector"),
        ({"text": "x", "k": 0}, "k is 0"),
        ({"text": "x", "k": 10_001}, "must be 1 to 10000"),
        ({"text": "x", "page": 0}, "counted from 1"),
        ({"text": "x", "candidates": 0}, "candidates is 0"),
        ({"text": "x", "filters": "clas=1"}, "did you mean class"),
        ({"text": "x", "facets": ["year"]}, "kept as a number"),
        ({"text": "x", "mode": "bm25", "bm25_weight": 1}, "takes no weights"),
        ({"parts": [Part("id", "a.jpg")], "vector_weight": 1}, "vector takes no weights"),
        ({"text": "x", "bm25_weight": -1}, "0 or more"),
        ({"text": "x", "vector_weight": float("nan")}, "finite"),
        ({"text": "x", "bm25_weight": 0, "vector_weight": 0}, "both 0"),
        ({"parts": [Part("text", "x", float("inf"))]}, "weights must be finite"),
        ({"parts": [Part("sound", "x")]}, "unknown kind of part"),
        ({"vector": [1, 2]}, r"shape \(2,\)"),
        ({"vector": [0] * DIMENSION}, "not all zeros"),
        ({"parts": [Part("vector", "missing.npy")]}, "no such file; give an .npy file"),
    ],
)
def test_refuses_what_cannot_work(search: Search, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        search.query(**asked)


def test_unknown_ids_and_pictures(search: Search, tmp_path: Path) -> None:
    with pytest.raises(DocumentNotFoundError, match=r"'z\.jpg' in memory"):
        search.query(parts=[Part("id", "z.jpg")])
    with pytest.raises(ImageError, match="no such picture file"):
        search.query(image=tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder, not a file"):
        search.query(image=tmp_path)


def test_reads_a_vector_from_a_file(search: Search, engine: MemoryEngine, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", np.array([[0, 4, 0, 0, 0, 0, 0, 0]]))
    assert ids(search.query(parts=[Part("vector", tmp_path / "query.npy")]))[0] == "c.jpg"
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UsageError, match=r"no \.npy file"):
        search.query(parts=[Part("vector", tmp_path / "objects.npy")])


def test_counts_gets_and_closes(engine: MemoryEngine) -> None:
    with Search(engine) as search:
        assert search.count() == 4
        assert search.get(["c.jpg", "zzz"]) == [DOCUMENTS[2], None]
    assert engine.closed


def test_ready_made_vectors_take_words_from_the_text_and_the_image_from_the_vector() -> None:
    engine = MemoryEngine(replace(INFO, encoder_path=None), DOCUMENTS)
    search = Search(engine)
    page = search.query("two dogs", vector=[0, 2, 0, 0, 0, 0, 0, 0], k=4)
    (query,) = engine.queries
    assert query.mode == "hybrid" and query.tokens == ("two", "dog")
    np.testing.assert_allclose(query.vector, unit(0, 1))
    assert any("counted by its words" in note for note in page.notes)
    hits = {hit.document.id: hit for hit in page.hits}
    assert hits["c.jpg"].cosine == pytest.approx(1.0) and hits["c.jpg"].bm25 == 0
    assert (hits["a.jpg"].bm25 or 0) > 0 and hits["a.jpg"].cosine == pytest.approx(0.0)
    # An indexed image serves as well, and every hybrid.
    search.query("dogs", parts=[Part("id", "d.jpg", 2)], mode="hybrid-rrf")
    np.testing.assert_allclose(engine.queries[-1].vector, unit(0, 0, 1))
    assert engine.queries[-1].tokens == ("dog",)
    # A text has no vector, and words cannot be taken away.
    with pytest.raises(EncoderError, match="--encoder FOLDER"):
        search.query("dogs", vector=unit(1), mode="vector")
    with pytest.raises(UsageError, match="those cannot be taken away"):
        search.query("dogs", vector=unit(1), parts=[Part("text", "cat", -1)])
    # With an encoder both are one vector, as they were.
    mixed = MemoryEngine(INFO, DOCUMENTS)
    made_up: Any = MadeUpEncoder()
    page = Search(mixed, encoder=made_up).query("beach", vector=unit(0, 1))
    np.testing.assert_allclose(mixed.queries[0].vector, unit(1, 1), atol=1e-6)
    assert page.notes == ()


def test_a_hybrid_that_ends_before_the_page_names_the_candidates(tmp_path: Path) -> None:
    told = "a hybrid looks among the matches by word and the 2 nearest: --candidates 10 finds more"
    with closing(in_segments(tmp_path / "photos.index", DOCUMENTS, 1)) as engine:
        ask = partial(Search(engine).query, vector=unit(1), mode="hybrid")
        assert told in ask(candidates=2).notes
        assert told not in ask(candidates=4).notes
        assert told not in ask(candidates=2, k=2).notes
        assert told not in ask(candidates=2, min_cosine=0).notes
        assert told not in ask(candidates=2, mode="vector").notes
