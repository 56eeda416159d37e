"""Text that Vespa refuses is treated alike in both engines, and costs no caption."""

import csv
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from hypothesis import given
from hypothesis import strategies as st
from vespa_stub import StubVespa, numbered_document

from clipsearch.documents import Document, check_id, storable
from clipsearch.engine import Engine, EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import ConnectionSettings, connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.filtering import TagFilter
from clipsearch.operations import Delete, Operation, Update, Upsert
from clipsearch.search.search import Search
from clipsearch.storable import MOST_ID_BYTES, blanked, blanked_path, shown_id, why_no_id
from clipsearch.text import tokens
from finetune.errors import DocumentError, DocumentNotFoundError, UsageError

INFO = IndexInfo(dimension=8, tag_columns=("class",), index_id="x")
REFUSED = ["\0", "\x07", "\x0b", "\x1b", "\x1f", "\ud800", "\udfff", "\ufdd0", "\ufdef"]
REFUSED += ["\ufffe", "\uffff", "\U0001fffe", "\U0001ffff", "\U0010ffff"]
TAKEN = [
    "\t",
    "\n",
    "\r",
    "\xa0",
    "\u200d",
    "\ufdcf",
    "\ufdf0",
    "\ufffd",
    "\U0001f600",
    "½",
]
LONGEST = "x" * MOST_ID_BYTES
IMPOSSIBLE = ["", ".", "..", "a\x07.jpg", "half\ud800", "\uffff", LONGEST + "x", "x" * 70_000]
IMPOSSIBLE += ["é" * (MOST_ID_BYTES // 6 + 1), "日" * 6000]


@pytest.fixture
def stub() -> Iterator[StubVespa]:
    with StubVespa(dimension=8) as vespa:
        write_info(connect(vespa.url), INFO)
        yield vespa


@pytest.fixture(params=["local", "vespa"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, stub: StubVespa) -> Iterator[Engine]:
    opened: Engine
    if request.param == "local":
        opened = LocalEngine.create(tmp_path / "an.index", INFO)
    else:
        settings = ConnectionSettings(connections=4, search_patience=1, feed_patience=1)
        opened = VespaEngine.open(stub.url, settings)
    yield opened
    opened.close()


def errors(engine: Engine, *operations: Operation) -> dict[str, str | None]:
    return {one.operation.id: one.error for one in engine.feed(operations)}


@pytest.mark.parametrize("character", REFUSED, ids=ascii)
def test_a_blank_stands_for_what_vespa_refuses(character: str) -> None:
    assert blanked(f"a{character}b") == blanked_path(f"a{character}b") == "a b"
    assert why_no_id(f"a{character}b") is not None
    # It is part of no word: what is found stays the same.
    assert tokens(f"two{character}dogs") == tokens("two dogs")


@pytest.mark.parametrize("character", TAKEN, ids=ascii)
def test_what_vespa_takes_stays(character: str) -> None:
    assert blanked(f"a{character}b") == blanked_path(f"a{character}b") == f"a{character}b"
    assert why_no_id(f"a{character}b") is None


@pytest.mark.parametrize("character", ["\x7f", "\x80", "\x85", "\x9f"], ids=ascii)
def test_names_of_files_keep_what_a_wrong_decoding_left_in_them(character: str) -> None:
    assert blanked(f"a{character}b") == "a b"
    assert blanked_path(f"a{character}b") == f"a{character}b"
    assert why_no_id(f"a{character}b") is None


def test_every_character_is_decided_by_its_kind() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    no_text = {
        code
        for code in range(sys.maxunicode + 1)
        if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    }
    control = {ord(one) for one in every if unicodedata.category(one) == "Cc"} - set(b"\t\n\r")
    refused = no_text | {code for code in control if code < 0x20}
    for clean, changed in ((blanked, no_text | control), (blanked_path, refused)):
        wanted = "".join(" " if code in changed else one for code, one in enumerate(every))
        assert clean(every) == wanted
        for code in range(256):  # a text of one kind alone may go another way
            assert clean(every[code]) == wanted[code], hex(code)
    assert not [hex(code) for code in refused if why_no_id(f"a{chr(code)}") is None]
    taken = "".join(one for code, one in enumerate(every) if code not in refused)
    for place in range(0, len(taken), 1000):
        assert why_no_id(f"a{taken[place : place + 1000]}") is None, hex(ord(taken[place]))


@given(st.text(st.characters(codec=None), max_size=30))
def test_blanks_keep_the_words(text: str) -> None:
    clean = blanked(text)
    assert blanked(clean) == clean and len(clean) == len(text)
    assert clean.encode() and tokens(clean) == tokens(text) if text else clean == ""


def test_a_document_without_such_text_is_itself() -> None:
    document = numbered_document(1, "two dogs\tand a\ncat é 😀")
    assert storable(document) is document


def test_columns_that_become_one_are_refused() -> None:
    with pytest.raises(DocumentError, match=r"the column 'a\\x07b' has the name of another"):
        storable(replace(numbered_document(1), tags={"a b": "x", "a\x07b": "y"}))


def test_captions_tags_and_paths_are_kept_with_blanks(engine: Engine) -> None:
    odd = "".join(REFUSED)
    document = replace(
        numbered_document(1),
        captions=(f"two{odd}dogs", "a cat"),
        tags={"cl\x07ass": f"b{odd}c"},
        numbers={f"ye{odd}ar": 1.0},
        path=f"p{odd}.jpg",
    )
    assert errors(engine, Upsert(document)) == {document.id: None}
    engine.finish_feed()
    blanks = " " * len(odd)
    (found,) = engine.get([document.id])
    assert found is not None
    assert found.captions == (f"two{blanks}dogs", "a cat")
    assert (dict(found.tags), found.path) == ({"cl ass": f"b{blanks}c"}, f"p{blanks}.jpg")
    assert dict(found.numbers) == {f"ye{blanks}ar": 1.0}
    page = engine.search(EngineQuery("bm25", tokens=("dog",)))
    assert [hit.document.id for hit in page.hits] == [document.id]
    change = Update(document.id, captions=("a\0b",), tags={"class": "c\ufffed"}, path="q\x01")
    assert errors(engine, change) == {document.id: None}
    engine.finish_feed()
    (found,) = engine.get([document.id])
    assert found is not None
    assert (found.captions, dict(found.tags), found.path) == (("a b",), {"class": "c d"}, "q ")


def test_an_id_that_no_document_can_have_is_refused_and_the_others_are_fed(engine: Engine) -> None:
    good = numbered_document(1)
    bad = [replace(good, id=id_) for id_ in IMPOSSIBLE]
    found = errors(engine, *map(Upsert, bad), Upsert(good), Upsert(replace(good, id=LONGEST)))
    assert found.pop(good.id) is None and found.pop(LONGEST) is None
    assert set(found) == set(IMPOSSIBLE)
    for id_, error in found.items():
        assert error is not None and error.startswith(f"the id {shown_id(id_)!r} ")
        assert len(error) < 1000, "a sentence is no place for a whole long id"
    engine.finish_feed()
    assert sorted(one.id for one in engine.visit()) == sorted([good.id, LONGEST])
    assert [one and one.id for one in engine.get([LONGEST, good.id])] == [LONGEST, good.id]


def test_an_impossible_id_is_not_there_like_any_other(engine: Engine) -> None:
    assert errors(engine, Upsert(numbered_document(1))) == {"p/1.jpg": None}
    engine.finish_feed()
    ids = [*IMPOSSIBLE, "not there"]
    assert engine.get(ids) == [None] * len(ids)
    assert errors(engine, *map(Delete, ids)) == dict.fromkeys(ids)
    refused = errors(engine, *(Update(id_, path="x") for id_ in ids))
    assert all(error is not None for error in refused.values())
    query = EngineQuery("vector", vector=numbered_document(1).embedding, exclude_ids=tuple(ids))
    assert [hit.document.id for hit in engine.search(query).hits] == ["p/1.jpg"]
    search = Search(engine)
    for id_ in ids[1:]:
        if id_ == "half\ud800":  # no text at all, so that it is wrong usage wherever it is typed
            continue
        with pytest.raises(DocumentNotFoundError, match="no document has the id"):
            search.similar(id_)
    assert engine.count() == 1


def test_a_filter_may_be_written_as_the_manifest_has_it(engine: Engine) -> None:
    document = replace(numbered_document(1, "red"), tags={"class": "old\x07harbour"})
    assert errors(engine, Upsert(document), Upsert(numbered_document(2))) is not None
    engine.finish_feed()
    search = Search(engine)
    ready = TagFilter("class", ("old\x07harbour",))
    for filters in (
        "class=old\x07harbour",
        {"class": "old\x07harbour"},
        "class=old harbour",
        [ready],
    ):
        page = search.query("red", mode="bm25", filters=filters)
        assert [hit.document.id for hit in page.hits] == ["p/1.jpg"]


@pytest.mark.parametrize("status", ["400", "413", "414", "431"])
def test_what_the_server_or_a_proxy_refuses_of_one_document_ends_no_feed(
    stub: StubVespa, status: str
) -> None:
    """nginx takes addresses of 8,192 bytes unless told otherwise, and answers in HTML."""
    engine = VespaEngine.open(stub.url, ConnectionSettings(search_patience=1, feed_patience=1))
    answer = stub.answer

    def refuse(request):  # type: ignore[no-untyped-def]
        if "p%2F1.jpg" in request.path:
            return int(status), "<html>nginx</html>"
        return answer(request)

    stub.answer = refuse  # type: ignore[method-assign]
    found = errors(engine, *(Upsert(numbered_document(number)) for number in range(3)))
    assert found.pop("p/1.jpg") is not None and set(found.values()) == {None}
    assert len(stub.images()) == 2


# The whole road.


def write_manifest(folder: Path) -> Path:
    vectors = np.eye(8).tolist()
    rows = [
        {"id": "a", "captions": ["two\x07dogs"], "class": "be\ufdd0ach"},
        {"id": "b", "captions": ["a cat"], "class": "home"},
        {"id": "c\x07", "captions": ["a bird"], "class": "home"},
        {"id": "x" * 70_000, "captions": ["a fish"], "class": "home"},
        {"id": "..", "captions": ["a cow"], "class": "home"},
        {"id": "d", "captions": ["an\uffffant"], "class": "home"},
    ]
    lines = [
        json.dumps({"image": f"{number}.jpg", **row, "embedding": vectors[number]})
        for number, row in enumerate(rows)
    ]
    path = folder / "m.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("where", ["local", "vespa"])
def test_a_feed_counts_what_it_wrote_with_blanks(
    where: str, stub: StubVespa, tmp_path: Path
) -> None:
    index = str(tmp_path / "an.index") if where == "local" else stub.url
    manifest = write_manifest(tmp_path)

    def fed() -> FeedReport:
        report, ledger = tmp_path / "report.csv", tmp_path / "ledger"
        return feed(FeedOptions(manifest=manifest, index=index, report=report, ledger=ledger))

    first, again = fed(), fed()
    assert (first.fed, first.blanked, first.rejected, again.unchanged) == (3, 2, 3, 3)
    assert any("2 images have characters" in note for note in first.notes), first.notes
    csv.field_size_limit(1_000_000)
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8") as file:
        rejected = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rejected) == {"c\x07", "x" * 70_000, ".."}
    assert "U+0007" in rejected["c\x07"] and "70,000 bytes" in rejected["x" * 70_000]
    search = Search.open(index)
    assert [hit.document.captions for hit in search.query("dogs", mode="bm25").hits] == [
        ("two dogs",)
    ]
    assert search.get(["a"])[0].tags["class"] == "be ach"  # type: ignore[union-attr]
    search.close()


@pytest.mark.parametrize("where", ["local", "vespa"])
def test_the_commands_say_that_an_impossible_id_is_not_there(
    where: str, stub: StubVespa, tmp_path: Path
) -> None:
    index = str(tmp_path / "an.index") if where == "local" else stub.url
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLIPSEARCH, *arguments, "--index", index],
            cwd=tmp_path,
            env=environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
        )

    fed = run("feed", str(write_manifest(tmp_path)))
    assert fed.returncode == 3 and "2 images have characters" in fed.stderr, fed.stderr
    shown = r"\x07, .., " + "x" * 120 + "… (70,000 characters), ''"
    ids = ("\x07", "..", "x" * 70_000, "")
    got = run("get", "a", *ids)
    assert got.returncode == 1
    assert got.stderr.startswith(f"Error: {index}: has no document {shown}; ids are shown by:")
    removed = run("delete", "-", "--yes", typed=f"a\n\x07\n..\n{'x' * 70_000}\n")
    assert removed.returncode == 1 and f"{index}: has no document" in removed.stderr
    similar = run("similar", "\x07")
    assert (similar.returncode, similar.stdout) == (1, "")
    assert "no document has the id '\\x07'" in similar.stderr
    assert run("get", "a").returncode == 0, "nothing was removed"


def test_columns_of_a_manifest_that_become_one_are_wrong_usage(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    vector = json.dumps([1.0, 0.0])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["image", "caption", "embedding", "a b", "a\x07b"], ["a.jpg", "x", vector, "1", "2"]]
        )
    with pytest.raises(UsageError, match="has the name of another"):
        feed(FeedOptions(manifest=path, index=str(tmp_path / "an.index")))


def test_check_id_names_the_mend() -> None:
    for id_ in IMPOSSIBLE:
        with pytest.raises(DocumentError, match="give "):
            check_id(id_)
    assert Document("a/b c?#.jpg").id == "a/b c?#.jpg" and check_id("a/b c?#.jpg") is None
