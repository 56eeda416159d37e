"""Clients are told what is wrong, and not where things lie on the service's machine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from running_service import RunningService, image_at

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert
from clipsearch.server.places import name_of, without_places
from clipsearch.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/photos/a.index: is gone", "a.index: is gone"),
        ("/srv/photos/a.index/store.sqlite is", "a.index/store.sqlite is"),
        ("the folder /srv/photos.", "the folder photos."),
        ("/srv/photos/b/c.jpg", "photos/b/c.jpg"),
        ("/srv/photos2/c.jpg and /mnt/srv/photos", "/srv/photos2/c.jpg and /mnt/srv/photos"),
        ("http://vespa.internal:8080: HTTP 503", "the Vespa: HTTP 503"),
        ("nothing of all this", "nothing of all this"),
    ],
)
def test_a_place_is_told_by_its_last_name(text: str, told: str) -> None:
    places = ("/srv/photos", "/srv/photos/a.index", None, "/", "http://vespa.internal:8080/")
    assert without_places(text, places) == told


def test_an_index_is_told_by_its_last_name() -> None:
    assert name_of("/srv/photos/a.index") == name_of("a.index") == "a.index"
    assert name_of("http://vespa.internal:8080") == "the Vespa"


def test_no_answer_names_a_folder_of_the_machine(tmp_path: Path) -> None:
    """An encoder and images that are gone, and an index that is broken in the end."""
    work = tmp_path / "private"
    index = str(work / "few.index")
    info = IndexInfo(4, encoder_path=str(work / "encoder"), images_root=str(work / "photos"))
    work.mkdir()
    engine = create_engine(index, info)
    document = Document("a", ("a dog",), "a.jpg", {}, {}, np.array([1, 0, 0, 0], np.float32))
    assert all(each.error is None for each in engine.feed([Upsert(document)]))
    engine.close()
    settings = ServerSettings(index, work / "cache", write_token="w" * 16, uploads=work / "uploads")
    addresses = (
        "/", "/?q=dog", "/v1/index", "/v1/search?text=dog", "/v1/search?text=dog&mode=bm25",
        "/v1/embed?text=dog", "/v1/similar/none", image_at("none"), image_at("a"),
        image_at("a", "file"), image_at("a", "thumbnail"), image_at("a", "locate?text=dog"),
        "/readyz", "/healthz", "/metrics", "/openapi.json", "/docs", "/none",
    )  # fmt: skip
    with RunningService(settings) as running:
        told = {address: running.get(address) for address in addresses}
        assert "no longer at encoder" in told["/v1/search?text=dog"].json()["detail"]
        assert "in few.index" in told[image_at("none")].json()["detail"]
        assert told["/readyz"].status_code == 503
        shutil.rmtree(work / "uploads")
        (work / "uploads").write_text("in the way of a folder")
        for name in (work / "few.index").rglob("*"):
            if name.is_file():
                name.write_bytes(b"broken")
        for address in addresses:
            told[f"{address} of a broken index"] = running.get(f"{address}")
    for address, found in told.items():
        assert str(tmp_path) not in found.text, address
        assert "/private" not in found.text, address


def test_what_locate_remarks_names_no_folder(
    local_index: str, cache: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    older = tmp_path / "private" / "older"
    shutil.copytree(encoder_folder, older)
    (older / "onnx" / "patches.onnx").unlink(missing_ok=True)
    settings = ServerSettings(local_index, cache, encoder=str(older))
    with RunningService(settings) as running:
        found = running.get(image_at("star.png", "locate?text=star")).json()
    assert found["notes"] == ["older has no onnx/patches.onnx: located by windows"]
