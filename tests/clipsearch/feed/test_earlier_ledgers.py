"""Ledgers and documents of the first version: converted, owned by whom they should be, and kept."""

import hashlib
import io
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CODE
from small_pictures import Manifest, counts, documents, paint

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engines import open_engine
from clipsearch.feed.feed import feed
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.operations import Upsert
from finetune.errors import EngineError

KEPT = Path(__file__).resolve().parents[2] / "fixtures" / "first-format"
IN_KEPT = 32


def make_earlier(index: Path) -> None:
    """Bring an index and its ledger to what the first version wrote of them."""
    engine = open_engine(str(index))
    found = list(engine.visit(embeddings=True))
    bare = [replace(document, data_set="", content="") for document in found]
    assert all(outcome.error is None for outcome in engine.feed(map(Upsert, bare)))
    engine.finish_feed()
    engine.close()
    info = json.loads((index / "index.json").read_text())
    for name in ("data_sets", "last_feed", "open_feeds"):
        del info[name]
    (index / "index.json").write_text(json.dumps(info))
    _make_earlier_ledger(index / "ledger.sqlite", {each.id: each for each in bare})


def _make_earlier_ledger(path: Path, found: dict[str, Document]) -> None:
    with sqlite3.connect(path) as held:
        rows = held.execute(
            "SELECT id, stamp, lower(hex(content)), lower(hex(encoder)) FROM documents"
        ).fetchall()
        (index_id,) = held.execute("SELECT value FROM facts WHERE name = 'index id'").fetchone()
    path.unlink()
    with sqlite3.connect(path) as made:
        made.executescript(
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE documents (id TEXT PRIMARY KEY, stamp TEXT NOT NULL,"
            " content TEXT NOT NULL, encoder TEXT NOT NULL, fields TEXT NOT NULL) WITHOUT ROWID;"
        )
        facts = {"format version": "1", "index id": index_id}
        made.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        for identity, stamp, content, encoder in rows:
            document = found[identity]
            parts = [
                document.captions,
                document.path,
                sorted(document.tags.items()),
                sorted(document.numbers.items()),
            ]
            fields = hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()
            # Place, size and time of modification were all of a stamp.
            earlier = stamp.rsplit(" ", 2)[0]
            values = (identity, earlier, content, encoder, fields)
            made.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", values)


def names(prefix: str = "", count: int = 5) -> dict[str, int]:
    return {f"images/{prefix}{number}.png": number for number in range(count)}


@pytest.fixture
def a(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "A", names())


@pytest.fixture
def index(a: Manifest, encoder_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos.index"
    a.feed(folder, encoder_folder)
    make_earlier(folder)
    return folder


@pytest.fixture
def no_encoding(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the fixture `index` was fed."""

    def forbidden(*arguments: object) -> None:
        raise AssertionError("a picture was encoded for the conversion")

    monkeypatch.setattr(Encoder, "encode_pixels", forbidden)


def owners(index: Path) -> dict[str, str]:
    return {name: document.data_set for name, document in documents(index).items()}


def converted(report: FeedReport) -> bool:
    return sum("converted" in note for note in report.notes) == 1


@pytest.mark.usefixtures("no_encoding")
def test_what_was_kept_is_converted_with_one_line_and_nothing_encoded(tmp_path: Path) -> None:
    folder = shutil.copytree(KEPT, tmp_path / "photos")
    options = FeedOptions(
        manifest=folder / "photos.csv",
        index=str(folder / "index"),
        encoder=folder / "encoder",
        workers=0,
    )
    report = feed(options, io.StringIO())
    assert converted(report)
    assert counts(report) == (0, IN_KEPT, 0, 0, 0)  # each is told of which data set it is
    report = feed(options, io.StringIO())
    assert not converted(report)
    assert counts(report) == (0, 0, IN_KEPT, 0, 0)
    assert set(owners(folder / "index").values()) == {"photos"}


@pytest.mark.usefixtures("no_encoding")
def test_an_earlier_index_and_ledger(a: Manifest, index: Path) -> None:
    report = a.feed(index)
    assert converted(report)
    assert counts(report) == (0, 5, 0, 0, 0)
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)
    assert owners(index) == dict.fromkeys(names(), "m")


@pytest.mark.usefixtures("no_encoding")
def test_a_changed_caption_and_a_lost_row(a: Manifest, index: Path) -> None:
    """What the ledger's data set no longer has is pruned, though no document says whose it is."""
    del a.captions["images/2.png"]
    a.captions["images/3.png"] = "another caption"
    a.write()
    report = a.feed(index, prune=True)
    assert counts(report) == (0, 4, 0, 1, 0)
    assert set(owners(index)) == set(names()) - {"images/2.png"}


def test_a_changed_picture_is_encoded(a: Manifest, index: Path, encoder_folder: Path) -> None:
    paint(a.folder / "images/1.png", 99)
    assert counts(a.feed(index)) == (0, 5, 0, 0, 0)
    (expected,) = Encoder.load(encoder_folder).encode_images([a.folder / "images/1.png"])
    np.testing.assert_allclose(documents(index)["images/1.png"].embedding, expected, atol=1e-5)


@pytest.mark.usefixtures("no_encoding")
def test_renamed_at_the_same_time(a: Manifest, index: Path) -> None:
    a.rename("images/1.png", "renamed.png")
    report = a.feed(index, prune=True)
    assert (counts(report), report.reused) == ((1, 4, 0, 1, 0), 1)


@pytest.mark.usefixtures("no_encoding")
def test_moved_at_the_same_time(a: Manifest, index: Path) -> None:
    a.folder = a.folder.rename(a.folder.parent / "moved")
    a.path = a.folder / "m.csv"
    assert counts(a.feed(index, prune=True)) == (0, 5, 0, 0, 0)
    assert owners(index) == dict.fromkeys(names(), "m")


def test_another_manifest_of_the_same_names_comes_first(
    a: Manifest, index: Path, tmp_path: Path
) -> None:
    """Documents from before are not taken by another, while their pictures lie where they did."""
    b = Manifest(tmp_path / "B", {name: 50 + seed for name, seed in names().items()})
    before = documents(index)
    report = b.feed(index, prune=True)
    assert counts(report) == (0, 0, 0, 0, 5)
    assert report.report_path is not None
    reasons = report.report_path.read_text(encoding="utf-8")
    assert f"its picture is {a.folder}/images/0.png" in reasons
    assert "--id-prefix m/" in reasons
    assert {name: document.captions for name, document in documents(index).items()} == {
        name: document.captions for name, document in before.items()
    }
    assert counts(b.feed(index, id_prefix="B/")) == (5, 0, 0, 0, 0)
    # It has taken the name; A is told apart from it all the same.
    assert counts(a.feed(index, prune=True)) == (0, 5, 0, 0, 0)
    assert sorted(set(owners(index).values())) == ["A-m", "m"]
    assert counts(b.feed(index, prune=True)) == (0, 0, 5, 0, 0)
    assert len(owners(index)) == 10


def test_an_index_that_two_manifests_were_fed_into(
    a: Manifest, encoder_folder: Path, tmp_path: Path
) -> None:
    """Each gets its own at its next feed, and prunes nothing of the other before."""
    b = Manifest(tmp_path / "B", {f"b/{number}.png": 20 + number for number in range(3)})
    index = tmp_path / "photos.index"
    a.feed(index, encoder_folder)
    b.feed(index)
    make_earlier(index)
    del a.captions["images/0.png"]
    a.write()
    report = a.feed(index, prune=True)
    assert counts(report) == (0, 4, 0, 1, 0)
    assert any("3 documents of an earlier version" in note for note in report.notes)
    assert counts(b.feed(index, prune=True)) == (0, 3, 0, 0, 0)
    assert sorted(owners(index).values()) == ["B-m"] * 3 + ["m"] * 4


@pytest.mark.usefixtures("no_encoding")
def test_without_its_ledger_the_first_feed_that_holds_them_has_them(
    a: Manifest, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index / "ledger.sqlite").unlink()
    monkeypatch.undo()  # nobody knows what these were made from: they are encoded again
    assert counts(a.feed(index)) == (0, 5, 0, 0, 0)
    assert owners(index) == dict.fromkeys(names(), "m")


def test_documents_of_this_version_are_not_encoded_again_without_their_ledger(
    a: Manifest, index: Path, no_encoding: None
) -> None:
    a.feed(index)
    (index / "ledger.sqlite").unlink()
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)


def test_earlier_vectors(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = {
        "id": ["x", "y", "z"],
        "caption": ["one", "two", "three"],
        "embedding": list(chance.normal(size=(3, 4)).astype(np.float32)),
    }
    path, index = tmp_path / "v.parquet", tmp_path / "v.index"
    pd.DataFrame(rows).to_parquet(path)
    options = FeedOptions(manifest=path, index=str(index), prune=True)
    feed(options, io.StringIO())
    make_earlier(index)
    pd.DataFrame(rows)[:2].to_parquet(path)
    assert counts(feed(options, io.StringIO())) == (0, 2, 0, 1, 0)
    assert owners(index) == {"x": "v", "y": "v"}


KILLED = """
import os, sys
from pathlib import Path
from clipsearch.feed.ledger import ledger
moment = sys.argv[2]
whole = ledger.Ledger._set_fact if moment == "in the middle" else ledger.Ledger._make_tables
def killed(*values):
    if moment == "at the end":
        whole(*values)
    os.kill(os.getpid(), 9)
if moment == "in the middle":
    ledger.Ledger._set_fact = killed
else:
    ledger.Ledger._make_tables = killed
ledger.Ledger.open(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["in the middle", "at the end"])
@pytest.mark.usefixtures("no_encoding")
def test_killed_while_it_converts(a: Manifest, index: Path, moment: str) -> None:
    path = str(index / "ledger.sqlite")
    done = subprocess.run([*CODE, KILLED, path, moment], check=False)
    assert done.returncode == -9
    report = a.feed(index)
    assert converted(report)
    assert counts(report) == (0, 5, 0, 0, 0)


def test_an_error_while_it_converts_leaves_it_as_it_was(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    path = index / "ledger.sqlite"
    monkeypatch.setattr(Ledger, "_set_fact", full)
    with pytest.raises(EngineError, match="full"):
        Ledger.open(path)
    monkeypatch.undo()
    with sqlite3.connect(path) as held:
        columns = [row[1] for row in held.execute("PRAGMA table_info(documents)")]
    assert columns == ["id", "stamp", "content", "encoder", "fields"]
    with Ledger.open(path) as ledger:
        assert ledger.converted and len(ledger) == 5


KILLED_FEED = """
import os, sys
from pathlib import Path
from clipsearch.feed import writing as feed_writing
from clipsearch.feed.ledger import mark as feed_mark
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
moment = sys.argv[3]
def die(*values, **named):
    os.kill(os.getpid(), 9)
if moment == "half-way":
    settle = feed_writing.Writing._settle
    left = 2
    def killed(writing, outcome, step):
        global left
        left -= 1
        if left < 0:
            die()
        settle(writing, outcome, step)
    feed_writing.Writing._settle = killed
elif moment == "compared":
    feed_mark.FeedMark.begin = die
else:
    feed_mark.FeedMark.end = die
feed(FeedOptions(manifest=Path(sys.argv[1]), index=sys.argv[2], workers=0))
"""


@pytest.mark.parametrize("moment", ["compared", "half-way", "written"])
@pytest.mark.usefixtures("no_encoding")
def test_killed_in_the_first_feed_after_the_conversion(
    a: Manifest, index: Path, moment: str
) -> None:
    arguments = [str(a.path), str(index), moment]
    done = subprocess.run([*CODE, KILLED_FEED, *arguments], check=False)
    assert done.returncode == -9
    report = a.feed(index)
    assert report.updated + report.unchanged == 5
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)
    assert owners(index) == dict.fromkeys(names(), "m")
    a.captions.popitem()
    a.write()
    assert a.feed(index, prune=True).removed == 1


def test_the_first_version_is_told_apart_from_a_later_one(index: Path) -> None:
    check: Callable[[Path], object] = Ledger.open
    with sqlite3.connect(index / "ledger.sqlite") as held:
        held.execute("UPDATE facts SET value = '4' WHERE name = 'format version'")
    with pytest.raises(EngineError, match="version 4, but this clipsearch reads 3"):
        check(index / "ledger.sqlite")
