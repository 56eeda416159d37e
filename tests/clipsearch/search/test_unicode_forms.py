"""Ids, tags and names of columns are found in whichever Unicode form they are written."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clipsearch_command import CLIPSEARCH

from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.manifest.manifest import Manifest, Record

NFC, NFD = "caf\u00e9", "cafe\u0301"
SIZE_NFC, SIZE_NFD = "gr\u00f6sse", "gro\u0308sse"


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def manifest(folder: Path, id: str, size: str = SIZE_NFC) -> Path:
    rows = [
        {"id": id, "caption": f"a {id}", size: id, "embedding": [1.0, 0.0]},
        {"id": "plain", "caption": "another", size: "x", "embedding": [0.6, 0.8]},
    ]
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Records with the ids that an earlier clipsearch gave them."""
    made = Manifest._record

    def earlier(self: Manifest, *row: Any) -> Record:
        record = made(self, *row)
        return replace(record, id=record.earlier_id or record.id, earlier_id=None)

    monkeypatch.setattr(Manifest, "_record", earlier)
    return monkeypatch


@pytest.mark.parametrize("asked", [NFC, NFD])
@pytest.mark.parametrize("written", [NFC, NFD])
def test_every_command_takes_either_form(tmp_path: Path, written: str, asked: str) -> None:
    index = tmp_path / "i.index"
    size = SIZE_NFC if written == NFC else SIZE_NFD
    feed(FeedOptions(manifest=manifest(tmp_path, written, size), index=str(index)))
    with Search.open(index) as search:
        assert search.info.tag_columns == (SIZE_NFC,)
        for column in (SIZE_NFC, SIZE_NFD):
            for filters in (f"{column}={asked}", {column: asked}):
                page = search.query(
                    "another caf\u00e9", mode="bm25", filters=filters, facets=[column]
                )
                assert [hit.document.id for hit in page.hits] == [NFC]
                assert page.facets == {SIZE_NFC: ((NFC, 1),)}
        assert [hit.document.id for hit in search.similar(asked).hits] == ["plain"]
        (found,) = search.get([asked])
        assert found is not None
    assert clipsearch("get", asked, "--index", index).returncode == 0
    assert clipsearch("delete", asked, "--yes", "--index", index).returncode == 0
    assert clipsearch("get", asked, "--index", index).returncode == 1


def test_documents_that_an_earlier_version_fed_are_not_fed_twice(
    tmp_path: Path, as_before: pytest.MonkeyPatch
) -> None:
    options = FeedOptions(
        manifest=manifest(tmp_path, NFD), index=str(tmp_path / "i.index"), prune=True
    )
    assert feed(options).fed == 2
    with Search.open(options.index) as search:
        assert search.get([NFD])[0] is not None
        assert search.get([NFC]) == search.get([NFD])
        assert [hit.document.id for hit in search.similar(NFC).hits] == ["plain"]
    as_before.undo()
    again = feed(options)
    assert (again.fed, again.updated, again.unchanged, again.removed) == (0, 0, 2, 0)
    lines = options.manifest.read_text()
    options.manifest.write_text(lines.replace("[1.0, 0.0]", "[0.0, 1.0]"))
    again = feed(options)
    assert (again.updated, again.removed) == (1, 0)  # another vector, by the same id
    options.manifest.write_text(
        lines.replace("[1.0, 0.0]", "[0.0, 1.0]").replace("a caf", "the caf")
    )
    assert feed(options).updated == 1
    with Search.open(options.index) as search:
        assert search.count() == 2
        assert [hit.document.id for hit in search.query("the caf\u00e9", mode="bm25").hits] == [NFD]
    assert feed(options).unchanged == 2
    assert clipsearch("delete", NFC, "--yes", "--index", options.index).returncode == 0
    assert feed(options).fed == 1
    with Search.open(options.index) as search:
        assert [document is None for document in search.engine.get([NFC, NFD])] == [False, True]


def test_ids_that_were_floats_are_not_fed_twice(
    tmp_path: Path, as_before: pytest.MonkeyPatch
) -> None:
    path = manifest(tmp_path, "101.0")
    path.write_text(path.read_text().splitlines()[0])
    options = FeedOptions(manifest=path, index=str(tmp_path / "i.index"))
    assert feed(options).fed == 1
    as_before.undo()
    with Manifest.open(path) as opened:
        records: list[Record] = list(opened.records())
    assert [record.id for record in records] == ["101"]
    assert feed(options).fed == 0


def test_a_part_of_a_query_is_left_out_of_the_hits_by_either_form(tmp_path: Path) -> None:
    index = tmp_path / "i.index"
    feed(FeedOptions(manifest=manifest(tmp_path, NFC), index=str(index)))
    with Search.open(index) as search:
        page = search.query(parts=[Part("id", NFD), Part("text", "caf\u00e9")], mode="bm25")
        assert page.hits == ()
