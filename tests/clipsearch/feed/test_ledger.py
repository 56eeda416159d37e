"""The ledger: what it claims survives kill -9, and it never claims more than was committed."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from clipsearch_command import CODE

from clipsearch.documents import Document
from clipsearch.feed.ledger import ledger as ledger_module
from clipsearch.feed.ledger.entry import Entry, hash_of_fields
from clipsearch.feed.ledger.file import ledger_path
from clipsearch.feed.ledger.ledger import Ledger
from finetune.errors import EngineError


def entry(name: str, content: str = "c") -> Entry:
    return Entry(name, f"/photos/{name}@0 10 20", content, "encoder", "fields")


def test_entries_come_back_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.put(entry("a"))
        ledger.put(entry("b"))
        ledger.put(entry("a", content="new"))
    with Ledger.open(path) as ledger:
        assert len(ledger) == 2
        assert ledger.get("a") == entry("a", content="new")
        assert ledger.get("none") is None


KILLED = """
import os, sys
from pathlib import Path
from clipsearch.feed.ledger.entry import Entry
from clipsearch.feed.ledger.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
ledger.put(Entry("kept", "s", "c", "e", "f"))
ledger.commit()
ledger.put(Entry("lost", "s", "c", "e", "f"))
os.kill(os.getpid(), 9)
"""


def test_kill_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    done = subprocess.run([*CODE, KILLED, str(path)], check=False)
    assert done.returncode == -9
    with Ledger.open(path) as ledger:  # the lock went with the process
        assert ledger.get("kept") is not None
        assert ledger.get("lost") is None


def test_commits_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "COMMIT_EVERY_ENTRIES", 3)
    path = tmp_path / "ledger.sqlite"

    def written() -> int:
        with closing(sqlite3.connect(path)) as other:
            return int(other.execute("SELECT count(*) FROM documents").fetchone()[0])

    with Ledger.open(path) as ledger:
        ledger.put(entry("a"))
        ledger.put(entry("b"))
        assert written() == 0
        assert ledger.get("b") == entry("b")
        ledger.put(entry("c"))
        assert written() == 3


def test_forget_and_keep_only_equal_sets(tmp_path: Path) -> None:
    chance = random.Random(0)
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        known = {f"é{number}" for number in range(200)}
        for name in known:
            ledger.put(entry(name))
        for _ in range(5):
            gone = set(chance.sample(sorted(known), 10)) | {"never known"}
            ledger.forget(gone)
            known -= gone
            held = set(chance.sample(sorted(known), len(known) - 7)) | {"of another ledger"}
            assert ledger.keep_only(held) == 7
            known &= held
            assert len(ledger) == len(known)
            assert all((ledger.get(f"é{n}") is not None) == (f"é{n}" in known) for n in range(200))


def test_id_set(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ids = ledger.id_set(["a"])
        ids.add("b")
        ids.add("b")
        assert "a" in ids
        assert "b" in ids
        assert "c" not in ids
        assert "a" not in ledger.id_set()


def test_start_over_forgets_and_remembers_the_index(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        assert ledger.index_id == ""
        ledger.put(entry("a"))
        ledger.start_over("index-1")
    with Ledger.open(path) as ledger:
        assert len(ledger) == 0
        assert ledger.index_id == "index-1"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path), pytest.raises(EngineError, match="another feed works on this index"):
        Ledger.open(path)
    with Ledger.open(path, "delete"), pytest.raises(EngineError, match="another delete works"):
        Ledger.open(path)
    Ledger.open(path).close()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, but long enough to look at" * 50)
    with pytest.raises(EngineError, match=r"ledger\.sqlite: is no readable ledger"):
        Ledger.open(path)
    path.unlink()
    with Ledger.open(path) as ledger:
        ledger._set_fact("format version", "99")
    with pytest.raises(EngineError, match="version 99"):
        Ledger.open(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="ledger cannot be opened"):
        Ledger.open(tmp_path / "file" / "ledger.sqlite")


DOCUMENT = Document("a", ("one", "two"), "a.jpg", {"class": "x", "split": "val"}, {"year": 2010.0})


@pytest.mark.parametrize(
    "other",
    [
        replace(DOCUMENT, captions=("one two",)),
        replace(DOCUMENT, captions=("two", "one")),
        replace(DOCUMENT, path="b.jpg"),
        replace(DOCUMENT, tags={"class": "x"}),
        replace(DOCUMENT, tags={"class": "val", "split": "x"}),
        replace(DOCUMENT, numbers={"year": 2011.0}),
        replace(DOCUMENT, tags={**DOCUMENT.tags, "year": "2010"}, numbers={}),
    ],
)
def test_hash_of_fields_tells_documents_apart(other: Document) -> None:
    assert hash_of_fields(other) != hash_of_fields(DOCUMENT)


def test_hash_of_fields_does_not_hang_on_the_order_of_columns() -> None:
    turned = replace(DOCUMENT, tags=dict(reversed(DOCUMENT.tags.items())))
    assert hash_of_fields(turned) == hash_of_fields(DOCUMENT)


def test_ledger_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert ledger_path("photos.index") == Path("photos.index/ledger.sqlite")
    remote = ledger_path("http://localhost:8080/")
    assert remote.parent == tmp_path / "clipsearch"
    assert remote == ledger_path("http://localhost:8080")
    assert remote != ledger_path("http://localhost:8081")


@pytest.mark.parametrize("text", ["", "c", "ab" * 32, "AB" * 32, "zz" * 32, " a" * 32, "MAY"])
def test_hashes_are_kept_as_bytes_and_given_back_as_they_were(text: str, tmp_path: Path) -> None:
    put = Entry("a", "stamp", text, text or "e", text, "photos", 7)
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(put)
        ledger.commit()
        assert ledger.get("a") == put
        assert ledger.holder(text, 7, text or "e") == put
        ledger.read_ahead(["a", "b"])
        assert (ledger.get("a"), ledger.get("b")) == (put, None)
    kind = "blob" if text == "ab" * 32 else "text"
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as held:
        assert held.execute("SELECT typeof(content) FROM documents").fetchone() == (kind,)
