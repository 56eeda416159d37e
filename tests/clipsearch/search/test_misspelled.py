"""What is asked about a word that no caption has, and what is not."""

from pathlib import Path

import numpy as np
import pytest
from memory_engine import MemoryEngine

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.search.misspelled import corrections
from clipsearch.search.parts import Part
from clipsearch.search.search import Search

CAPTIONS = (
    "each astronaut with an elephant", "the elephant eats a leaf", "a car on the shore",
    "a castle with two towers", "three towers", "a tower", "a wolf", "a store of cheese",
    "a store", "a planet", "plants", "giraffes with zebras", "mountains",
)  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> MemoryEngine:
    vector = np.array([1, 0], np.float32)
    documents = [
        Document(str(n), (text,), f"{n}.jpg", embedding=vector) for n, text in enumerate(CAPTIONS)
    ]
    return MemoryEngine(IndexInfo(dimension=2), documents)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("castel", ["castle"]),  # two swapped letters are one mistake
        ("acstle", ["castle"]),
        ("elefant", ["elephant"]),  # two mistakes in a long word
        ("astronaot", ["astronaut"]),
        ("tovers", ["towers"]),  # of two forms the better one
        ("towwer", ["tower"]),
        ("wolves", ["wolf"]),  # by its stem
        ("girraffe", ["giraffes"]),
        ("montains", ["mountains"]),
        ("stere", ["store"]),  # the first letter is right
        ("shorre", ["shore"]),
        ("stoe", ["store"]),
        ("beach", []),  # "each" shows nothing, and begins otherwise
        ("peach", []),
        ("cat", []),  # of three letters everything is near
        ("wish", []),  # "with"
        ("them", []),  # shows nothing itself
        ("hours", []),
        ("bower", []),  # "tower" begins otherwise
        ("dragon", []),
        ("kitchen", []),
        ("c4stle", []),
        ("tower", []),
        ("plant", []),  # another form of a word that is there
    ],
)
def test_only_what_may_be_meant_is_asked_about(
    engine: MemoryEngine, typed: str, meant: list[str]
) -> None:
    page = Search(engine).query(typed, mode="bm25")
    assert [each.word for found in page.corrections for each in found.suggestions] == meant


def test_of_equally_near_words_the_more_frequent_comes_first(engine: MemoryEngine) -> None:
    (found,) = Search(engine).query("sxore", mode="bm25").corrections
    assert [(each.word, each.documents) for each in found.suggestions] == [
        ("store", 2),
        ("shore", 1),
    ]


def test_what_the_vector_knows_is_not_asked_about(
    engine: MemoryEngine, encoder_folder: Path
) -> None:
    page = Search(engine).query("tovers", mode="bm25")
    asked = [Part("text", "tovers")]
    assert corrections(asked, page, engine, is_known=lambda word: word == "towers")
    assert not corrections(asked, page, engine, is_known=lambda word: word == "tovers")
    # The tokenizer is of captions about shapes.
    loaded = Encoder.load(encoder_folder)
    assert loaded.knows_word("circle") and not loaded.knows_word("cirkle")
    assert not loaded.knows_word("") and not loaded.knows_word("red circle")
