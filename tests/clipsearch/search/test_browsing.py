"""Lists, orders, cut-offs and words beside a vector, as people ask for them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_collection import DIMENSION, feed, make_document
from vespa_stub import StubVespa, numbered_document

from clipsearch.cli import main
from clipsearch.documents import DOCUMENT_FORM, Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.segments import metadata
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.operations import Upsert
from clipsearch.search.parts import MOST_WORDS, Part
from clipsearch.search.search import Search
from clipsearch.sorting import Sort
from clipsearch.text import tokens
from finetune.errors import EngineError, UsageError

DOCUMENTS = [make_document(number) for number in range(60)]
INFO = IndexInfo(DIMENSION, tag_columns=("class", "split"), number_columns=("year", "Größe"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsing") / "photos.index"
    engine = LocalEngine.create(folder, INFO)
    feed(engine, [Upsert(document) for document in DOCUMENTS])
    engine.close()
    return folder


@pytest.fixture
def search(index: Path) -> Iterator[Search]:
    with Search.open(index) as opened:
        yield opened


def _ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


def test_a_list_is_what_passes_the_filters_page_by_page(search: Search) -> None:
    wanted = [each for each in DOCUMENTS if each.numbers.get("year", 0) >= 2005]
    first, second = (search.list(filters="year>=2005", k=7, page=page) for page in (1, 2))
    assert _ids([hit.document for hit in (*first.hits, *second.hits)]) == _ids(wanted)[:14]
    assert first.total == len(wanted) and not first.notes
    newest = search.list(sort="-year", k=100, facets=("split",))
    by_year = sorted(
        (each for each in DOCUMENTS if each.numbers), key=lambda one: (-one.numbers["year"], one.id)
    )
    assert _ids([hit.document for hit in newest.hits]) == _ids(by_year)
    assert [hit.score for hit in newest.hits] == [each.numbers["year"] for each in by_year]
    bare = len(DOCUMENTS) - len(by_year)
    assert newest.notes == (f"{bare} pictures without year are left out",)
    assert not search.list(filters="year>=2005", sort="-year").notes, "none is left out"
    assert newest.facets["split"] == (("train", sum("split" in one.tags for one in by_year)),)


@pytest.mark.parametrize(
    ("sort", "complaint"),
    [
        ("class", "kept as text.*id, path, Größe, year .*--number or --date class"),
        ("-nope", "cannot sort by '-nope'.*id, path"),
        ("", "''"),
    ],
)
def test_what_cannot_be_sorted_by_is_said(search: Search, sort: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        search.list(sort=sort)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"mode": "bm25", "min_cosine": 0.1}, "no cosine to cut by"),
        ({"mode": "vector", "min_cosine": 1.5}, "-1 to 1"),
        ({"mode": "bm25", "min_score": float("nan")}, "finite"),
        ({"mode": "bm25", "min_score": 1.0, "sort": "year"}, "no score to cut by"),
        ({"mode": "hybrid-rrf", "collapse": True}, "use --mode hybrid"),
        ({"mode": "bm25", "sort": "id", "collapse": True}, "sorted by id"),
        ({"mode": "bm25", "collapse": True, "k": 600, "page": 2}, "hit 1,200"),
    ],
)
def test_what_cannot_be_asked_together_is_said(
    search: Search, asked: dict[str, object], complaint: str
) -> None:
    parts = [Part("words", "dog"), Part("id", DOCUMENTS[0].id)]
    with pytest.raises(UsageError, match=complaint):
        search.query(parts=parts, **asked)


def test_words_count_as_words_alone_and_each_once(search: Search) -> None:
    given = DOCUMENTS[3]
    parts = [Part("id", given.id), Part("words", 'red dog dog -red "dog')]
    page = search.query(parts=parts, mode="hybrid", bm25_weight=0.3, k=60)
    query = EngineQuery(
        "hybrid",
        tokens=("red", "dog"),
        vector=given.embedding,
        k=60,
        bm25_weight=0.3,
        exclude_ids=(given.id,),
    )
    assert page.hits == search.engine.search(query).hits
    assert search.default_mode(parts) == "hybrid"
    assert search.default_mode(parts[1:]) == "bm25"
    with pytest.raises(UsageError, match="words are none"):
        search.query(parts=parts[1:], mode="vector")
    with pytest.raises(UsageError, match="--bm25-weight"):
        search.query(parts=[Part("words", "dog", 2.0)])


def test_similar_looks_for_the_words_of_the_captions_too(search: Search) -> None:
    given = next(each for each in DOCUMENTS if len(each.captions) > 1)
    words = tuple(dict.fromkeys(tokens("\n".join(given.captions))))
    wanted = EngineQuery("hybrid", words, given.embedding, exclude_ids=(given.id,))
    assert search.similar(given.id, mode="hybrid").hits == search.engine.search(wanted).hits
    by_words = search.similar(given.id, mode="bm25")
    assert all(hit.bm25 and hit.cosine is None for hit in by_words.hits)
    assert given.id not in _ids([hit.document for hit in by_words.hits])
    without = next(each for each in DOCUMENTS if not each.captions)
    assert search.similar(without.id, mode="hybrid").hits
    with pytest.raises(UsageError, match="no captions to look for"):
        search.similar(without.id, mode="bm25")


def test_a_caption_of_many_words_is_cut(search: Search) -> None:
    long = " ".join(f"w{number}" for number in range(2 * MOST_WORDS))
    page = search.query(parts=[Part("words", f"dog {long}")], mode="bm25")
    assert page.total == search.query(parts=[Part("words", "dog")], mode="bm25").total


def test_from_the_command_line(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as leave:
            main([*arguments, "--index", str(index)])
        assert leave.value.code == 0
        told = capsys.readouterr()
        return told.out + told.err

    listed = run("list", "--sort", "-year", "-k", "3", "--filter", "year<2009")
    assert listed.startswith("1\t2008") and "score" not in listed
    assert "1-3 of" in run("list", "-k", "3") and "score" not in run("list")
    near = run("similar", DOCUMENTS[0].id, "--min-cosine", "0.2", "-k", "2")
    assert "1-2 of" in near
    collapsed = run("similar", DOCUMENTS[0].id, "--collapse", "--json", "-k", "2")
    assert '"more": 0' in collapsed and '"at_least": false' in collapsed


def test_an_index_that_does_not_know_its_looks_says_the_mend(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "LOOKS", "no such section")
    engine = LocalEngine.open(index)
    with pytest.raises(EngineError, match="run: clipsearch duplicates --mark"):
        engine.search(EngineQuery("bm25", ("dog",), collapse=True))
    assert engine.search(EngineQuery("bm25", ("dog",))).hits
    engine.close()


def test_an_earlier_vespa_says_the_mend() -> None:
    with StubVespa(dimension=8) as vespa:
        earlier = IndexInfo(8, number_columns=("year",), document_form=DOCUMENT_FORM - 1)
        write_info(connect(vespa.url), earlier)
        engine = VespaEngine.open(vespa.url)
        list(engine.feed(Upsert(numbered_document(number)) for number in range(3)))
        for asked in (
            EngineQuery(None, sort=Sort("year")),
            EngineQuery("bm25", ("circl",), collapse=True),
        ):
            with pytest.raises(EngineError, match="clipsearch deploy, as the first time"):
                engine.search(asked)
            assert len(engine.search(replace(asked, sort=None, collapse=False)).hits) == 3
        engine.close()


def test_a_number_that_is_far_apart_is_sorted_right(tmp_path: Path) -> None:
    values = [-1e300, -2.5, -0.0, 1e-300, 3.0, 1e300]
    engine = LocalEngine.create(tmp_path / "index", IndexInfo(DIMENSION, number_columns=("n",)))
    made = [replace(make_document(n), numbers={"n": value}) for n, value in enumerate(values)]
    feed(engine, [Upsert(document) for document in made[::-1]])
    page = engine.search(EngineQuery(None, sort=Sort("n")))
    assert np.array_equal([hit.score for hit in page.hits], values)
    engine.close()
