"""Operators, synonyms, corrections and explanations, through `Search` and the command line."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo, Page
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert
from clipsearch.search.parts import Part
from clipsearch.search.search import NOTHING_BUT_LEFT_OUT, Search
from clipsearch.search.synonyms import Synonyms
from clipsearch.vocabulary import Correction, WordCount
from finetune.errors import UsageError

DIMENSION = 4
CAPTIONS = {
    "a": ("two butterflies on a red leaf", "a moth"),
    "b": ("a butterfly near a car", "red and green"),
    "c": ("an automobile in the rain",),
    "d": ("green leaf, red butterfly", "leaf red"),
    "e": (),
}


class MadeUpEncoder:
    """Every text has a vector of its own; `texts` are those that were asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.folder = Path("made-up")
        self.description = SimpleNamespace(
            fingerprint="f" * 64, dimension=DIMENSION, name="made up"
        )

    def knows_word(self, word: str) -> bool:
        return False

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return np.stack([_vector(text) for text in texts])


def _vector(text: str) -> np.ndarray:
    source = np.random.default_rng(sum(map(ord, text)))
    vector = source.standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asking") / "photos.index"
    info = IndexInfo(DIMENSION, encoder_fingerprint="f" * 64, encoder_path="/nowhere")
    engine = create_engine(str(path), info)
    documents = [
        Document(name, captions, f"{name}.jpg", embedding=_vector(name))
        for name, captions in CAPTIONS.items()
    ]
    assert all(outcome.error is None for outcome in engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    engine.close()
    return path


@pytest.fixture
def search(index: Path) -> Iterator[Search]:
    with Search.open(index) as opened:
        opened._encoder = MadeUpEncoder()  # type: ignore[assignment]
        yield opened


def found(page: Page) -> set[str]:
    return {hit.document.id for hit in page.hits}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"red leaf"', "a"),
        ("butterfl*", "abd"),
        ("+red leaf", "abd"),
        ("red -moth", "bd"),
        ('+butterfly -"red leaf"', "bd"),
        ('"leaf red"', "d"),
        ('"green leaf red butterfly"', "d"),
        ('"butterfly leaf"', ""),
        ("+car +red", "b"),
        ("+nothing red", ""),
        ("red butterfly", "abd"),
    ],
)
def test_operators_find_what_they_say(search: Search, text: str, expected: str) -> None:
    assert found(search.query(text, mode="bm25")) == set(expected)


def test_the_encoder_is_given_what_is_not_left_out(search: Search) -> None:
    page = search.query('"red leaf" -moth +green', k=5)
    assert search.encoder.texts == ["red leaf green"]  # type: ignore[attr-defined]
    assert found(page) == {"b", "d"}  # the image in whose captions nothing is written is none
    page = search.query("red -moth", mode="vector", k=5)
    assert found(page) == {"b", "c", "d", "e"} and page.total == 4
    assert found(search.query("moon -moth", k=5)) == {"b", "c", "d", "e"}


@pytest.mark.parametrize("mode", ["bm25", "hybrid", "vector"])
def test_nothing_but_words_left_out_finds_nothing_and_is_no_error(
    search: Search, mode: Any
) -> None:
    page = search.query("-moth", mode=mode)
    assert page.hits == () and page.total == 0 and len(page.notes) == 1
    assert mode == "bm25" or page.notes == (NOTHING_BUT_LEFT_OUT,)
    with pytest.raises(UsageError, match="only says what to leave out: say what to look for"):
        search.vector_of([Part("text", "-moth")])


def test_synonyms_are_looked_for_as_well(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("car, automobile\nfly => red leaf\n", encoding="utf-8")
    synonyms = Synonyms.read(path)
    assert found(search.query("car", mode="bm25", synonyms=synonyms)) == {"b", "c"}
    assert found(search.query("+car +rain", mode="bm25", synonyms=synonyms)) == {"c"}
    assert found(search.query("the -car", mode="bm25", synonyms=synonyms)) == set()
    assert found(search.query("fly", mode="bm25", synonyms=synonyms)) == {"a"}
    assert search.query("car", mode="bm25", synonyms=synonyms).total == 2


def test_a_word_that_no_caption_has_is_asked_about(search: Search) -> None:
    page = search.query("a buterfly +leef -mooth 2o2o", mode="bm25")
    assert page.corrections == (
        Correction("buterfly", (WordCount("butterfly", 2),)),
        Correction("leef", (WordCount("leaf", 2),)),
    )
    asked = 'no caption has "buterfly"; did you mean "butterfly"?'
    assert asked in page.notes
    # Another form of a word that is there is no mistake.
    assert search.query("moths butterflies", mode="bm25").corrections == ()
    assert search.query("buterfly", mode="vector").corrections == ()


def test_words_to_go_on_with(search: Search) -> None:
    assert search.suggest("A red BUTT") == (WordCount("butterfly", 2), WordCount("butterflies", 1))
    assert search.suggest("le", limit=1) == (WordCount("leaf", 2),)
    assert search.suggest("!") == search.suggest("") == ()
    with pytest.raises(UsageError, match="limit is 0"):
        search.suggest("a", limit=0)


def test_an_explained_page(search: Search) -> None:
    page = search.query('red "green leaf" car', explain=True, k=5)
    first = next(hit for hit in page.hits if hit.document.id == "d")
    assert first.explanation is not None and first.bm25 is not None
    assert [(term.term, term.documents, term.frequency) for term in first.explanation.terms] == [
        ("red", 3, 2),
        ("car", 1, 0),
        ('"green leaf"', 2, 1),
    ]
    assert sum(term.share for term in first.explanation.terms) == pytest.approx(first.bm25)
    assert {hit.explanation.rank_by_image for hit in page.hits if hit.explanation} == {
        1, 2, 3, 4, 5,
    }  # fmt: skip
    ranks = {hit.document.id: hit.explanation.rank_by_words for hit in page.hits if hit.explanation}
    ordered = sorted(ranks, key=lambda id: ranks[id] or 9)
    assert ordered[:3] == [
        hit.document.id for hit in search.query('red "green leaf" car', mode="bm25").hits
    ]
    assert ranks["c"] is None
    assert all(hit.explanation is None for hit in search.query("red").hits)


def test_words_are_explained_as_they_were_typed(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("autos, CARS\n", encoding="utf-8")
    asked = 'Butterflies "red leafs" +Moths -dogs autos butterfly'
    page = search.query(asked, mode="bm25", explain=True, synonyms=Synonyms.read(path))
    (hit,) = page.hits
    assert hit.explanation is not None
    assert [(term.word, term.term) for term in hit.explanation.terms] == [
        ("butterflies", "butterfli"),
        ("autos", "auto"),
        ("butterfly", "butterfli"),
        ("cars", "car"),
        ('"red leafs"', '"red leaf"'),
        ("moths", "moth"),
    ]


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_asks_and_explains(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("auto, car\n", encoding="utf-8")
    asked = ("query", '"red leaf" buterfly auto', "--mode", "bm25", "--index", index)
    asked = (*asked, "--synonyms", path, "--explain")
    shown = clipsearch(*asked)
    assert shown.returncode == 0, shown.stderr
    hits, explained = (text.splitlines() for text in shown.stdout.split("\n\n"))
    rows = [line.split("\t") for line in explained]
    assert rows[0][:2] == ["id", "word"] and rows[0][-2:] == ["by words", "by image"]
    assert {row[0] for row in rows[1:]} == {line.split("\t")[2] for line in hits} == {"a", "b"}
    assert [row[1] for row in rows[1:5]] == ["buterfly", "auto", "car", '"red leaf"']
    beside = clipsearch(*asked, "--ids")
    assert beside.stdout.split() == ["b", "a"] and "\na: rank by words" in beside.stderr
    assert 'no caption has "buterfly"; did you mean "butterfly"?' in shown.stderr
    answer = json.loads(clipsearch(*asked, "--json").stdout)
    assert {hit["id"] for hit in answer["hits"]} == {"a", "b"}
    assert answer["corrections"] == [
        {"word": "buterfly", "suggestions": [{"word": "butterfly", "documents": 2}]}
    ]
    for hit in answer["hits"]:
        shares = sum(term["share"] for term in hit["explanation"]["terms"])
        assert shares == pytest.approx(hit["bm25"], abs=1e-5)
    options = ("--mode", "bm25", "--json", "--index", index)
    left_out = clipsearch("query", *options, "--", "-moth red")
    assert json.loads(left_out.stdout)["total"] == 2
    plain = clipsearch("query", *options, "--plain", "--", "-moth red")
    assert json.loads(plain.stdout)["total"] == 3
    missing = clipsearch("query", "red", "--synonyms", tmp_path / "no.txt", "--index", index)
    assert missing.returncode == 2 and "no such file; give a text file" in missing.stderr
