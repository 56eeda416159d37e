"""A filter by `folder` finds all below, in both engines, and the facet counts what it finds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vespa_stub import StubVespa

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa import queries
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.engines.vespa.operations import put_fields
from clipsearch.filtering import TagFilter
from clipsearch.operations import Upsert
from clipsearch.search import folder_tree
from clipsearch.search.search import Search
from finetune.errors import EngineError, UsageError

FOLDERS = (
    "", "Holiday 2019/Müritz", "Holiday 2019/Müritz/boats", "Holiday 2019/Ostsee", "Holiday 2019b",
    "Holiday 2019", "misc", "Holiday 2019/Müritz",
)  # fmt: skip
DOCUMENTS = [
    Document(f"{n}.jpg", tags={"folder": folder, "n": str(n)} if folder else {"n": str(n)},
             embedding=np.eye(8, dtype=np.float32)[n])
    for n, folder in enumerate(FOLDERS)
]  # fmt: skip
INFO = IndexInfo(8, tag_columns=("folder", "n"))


@pytest.fixture(params=["embedded", "vespa"])
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Search]:
    if request.param == "embedded":
        local = LocalEngine.create(tmp_path / "i", INFO)
        assert all(done.error is None for done in local.feed(map(Upsert, DOCUMENTS)))
        local.finish_feed()
        with Search(local) as opened:
            yield opened
        return
    with StubVespa(dimension=8) as stub:
        write_info(connect(stub.url), INFO)
        remote = VespaEngine.open(stub.url)
        assert all(done.error is None for done in remote.feed(map(Upsert, DOCUMENTS)))
        with Search(remote) as opened:
            yield opened


def below(folder: str) -> set[str]:
    return {
        document.id
        for document in DOCUMENTS
        if f"{document.tags.get('folder', '')}/".lower().startswith(f"{folder.lower()}/")
    }


def test_all_below_is_found_and_counted(search: Search) -> None:
    def found(filters: object) -> set[str]:
        listed = search.list(filters=filters, k=100)
        asked = search.query(vector=np.ones(8, np.float32), filters=filters, k=100)
        assert {hit.document.id for hit in asked.hits} == {hit.document.id for hit in listed.hits}
        return {hit.document.id for hit in listed.hits}

    holiday = below("Holiday 2019")
    assert found("folder=Holiday 2019") == holiday and len(holiday) == 5
    assert found("folder=holiday 2019/") == holiday
    assert found("folder!=Holiday 2019") == {each.id for each in DOCUMENTS} - holiday
    assert found("folder=misc|Holiday 2019/Müritz") == below("misc") | below("Holiday 2019/Müritz")
    assert found({"folder": ["Holiday 2019/Ostsee"], "n": "3"}) == {"3.jpg"}
    assert found([TagFilter("folder", ("Holiday 2019",))]) == holiday
    facets = search.list(facets=("folder", "n")).facets
    assert facets["folder"] == (
        ("Holiday 2019", 5), ("Holiday 2019/Müritz", 3), ("Holiday 2019/Müritz/boats", 1),
        ("Holiday 2019/Ostsee", 1), ("Holiday 2019b", 1), ("misc", 1),
    )  # fmt: skip
    assert all(len(found(f"folder={value}")) == count for value, count in facets["folder"])
    assert len(facets["n"]) == len(DOCUMENTS)
    nothing = search.list(filters="folder=Holiday")
    assert nothing.total == 0 and "no document has folder=Holiday;" in nothing.notes[0]


def test_too_many_folders_are_refused_with_another_way(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_tree, "MOST_FOLDERS", 2)
    with pytest.raises(UsageError, match="--folder-tags levels"):
        search.list(filters="folder=Holiday 2019")


@pytest.fixture
def many_folders() -> Iterator[tuple[StubVespa, Search]]:
    """A Vespa with more folders than a facet shows, each of two documents but those of Holiday."""
    folders = [f"f{n // 2}" for n in range(2_002)] + ["Holiday", "Holiday/a", "holiday/b/c"]
    vector = np.eye(8, dtype=np.float32)[0]
    with StubVespa(dimension=8) as stub:
        for n, folder in enumerate(folders):
            document = Document(f"{n}.jpg", tags={"folder": folder}, embedding=vector)
            stub.documents["image", document.id] = put_fields(document, places={})["fields"]
        write_info(connect(stub.url), INFO)
        with Search(VespaEngine.open(stub.url)) as opened:
            yield stub, opened


def test_a_vespa_with_more_folders_than_a_facet_shows(
    many_folders: tuple[StubVespa, Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, search = many_folders
    found = search.list(filters="folder=Holiday")
    assert {hit.document.id for hit in found.hits} == {"2002.jpg", "2003.jpg", "2004.jpg"}
    assert search.list(filters="folder!=Holiday").total == 2_002
    (note,) = search.list(facets=("folder",)).notes
    assert note == "folder has more values than the 1,000 most frequent shown"
    monkeypatch.setattr(queries, "_MOST_GROUPS", 1_003)
    with pytest.raises(UsageError, match=r"than the 1,003 .* --folder-tags levels"):
        search.list(filters="folder!=Holiday")
    monkeypatch.undo()
    stub.coverage = {"coverage": 90, "full": False}
    with pytest.raises(EngineError, match="a filter by folder needs a whole answer: only 90 %"):
        search.list(filters="folder=Holiday")
