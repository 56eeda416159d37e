"""`PUT` and `DELETE /v1/images/{id}`: round trips, refusals, and what feeds make of them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fed_indexes import fed, fed_vespa
from png_heads import png_head
from running_service import RunningService, image_at
from small_pictures import paint
from test_openapi import hold

from clipsearch import Client
from clipsearch.engines import feed_lock
from clipsearch.feed.feed import feed
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.server.settings import ServerLimits, ServerSettings
from finetune.errors import DocumentNotFoundError, IndexAccessError, UsageError

READ, WRITE = "read-read-read-read", "write-write-write-write"
STAR = image_at("star.png")
LIMITS = replace(ServerLimits(), upload_pixels=1_000_000)


@dataclass(frozen=True)
class Writable:
    """A service that may be changed, and the feed of its manifest."""

    running: RunningService
    work: Path
    photos: Path

    def put(self, id: str, document: Any = None, token: str | None = WRITE, **options: Any) -> Any:
        if document is not None:
            options["json"] = document
        return self.running.ask("PUT", image_at(id), headers=bearer(token), **options)

    def send(self, id: str, image: bytes, document: Any = None) -> Any:
        data = {} if document is None else {"document": json.dumps(document)}
        return self.put(id, data=data, files={"image": ("../../x.png", image)})

    def delete(self, id: str, token: str | None = WRITE) -> Any:
        return self.running.ask("DELETE", image_at(id), headers=bearer(token))

    def found(self, text: str, **more: Any) -> list[str]:
        params = {"text": text, "mode": "bm25", **more}
        answer = self.running.get("/v1/search", params=params, headers=bearer(READ)).json()
        return [hit["id"] for hit in answer["hits"]]

    def document(self, id: str) -> Any:
        return self.running.get(image_at(id) + "?embedding=true", headers=bearer(READ)).json()

    def feed(self, **options: Any) -> FeedReport:
        index, ledger = self.running.settings.index, self.running.settings.ledger
        return feed(
            FeedOptions(
                manifest=self.photos / "photos.csv", index=index, ledger=ledger, workers=0,
                report=self.work / "report.csv", **options,
            )
        )  # fmt: skip

    @property
    def kept(self) -> list[Path]:
        return [path for path in (self.work / "uploads").rglob("*") if path.is_file()]


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module", params=["embedded", "vespa"])
def writable(
    request: pytest.FixtureRequest,
    photos: Path,
    encoder_folder: Path,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Writable]:
    work = tmp_path_factory.mktemp("writable")
    manifest = photos / "photos.csv"
    with ExitStack() as kept:
        if request.param == "vespa":
            index = kept.enter_context(fed_vespa(manifest, encoder_folder, work)).url
        else:
            index = fed(manifest, str(work / "photos.index"), encoder_folder, work)
        settings = ServerSettings(
            index, cache, token=READ, write_token=WRITE, uploads=work / "uploads",
            ledger=work / "ledger.sqlite", limits=LIMITS,
        )  # fmt: skip
        running = kept.enter_context(RunningService(settings))
        yield Writable(running, work, photos)


def test_what_is_named_changes_and_the_next_search_sees_it(writable: Writable) -> None:
    before = writable.document("star.png")
    changed = writable.put(
        "star.png",
        {"captions": ["a green comet"], "tags": {"mood": "calm", "class": None},
         "numbers": {"stars": 5}},
    )  # fmt: skip
    assert changed.status_code == 200, changed.text
    assert writable.found("comet") == ["star.png"] and writable.found("red star") == []
    assert writable.found("comet", filter=["mood=calm", "stars>=5"]) == ["star.png"]
    after = writable.document("star.png")
    assert after["embedding"] == before["embedding"] and after["path"] == before["path"]
    assert "class" not in after["tags"] and after["numbers"] == {"year": 2018.0, "stars": 5.0}
    told = changed.json()
    assert told == {name: value for name, value in after.items() if name != "embedding"}
    # As after `clipsearch update`: a feed leaves it alone until the manifest's row changes.
    assert writable.feed().unchanged == 5
    assert writable.document("star.png") == after
    again = writable.put("star.png", {"captions": []})
    assert again.json()["captions"] == [] and writable.found("comet") == []
    assert writable.put("star.png", {"captions": ["a red star"]}).status_code == 200


def test_an_image_makes_a_document_and_is_gone_with_it(writable: Writable) -> None:
    paint(writable.work / "new.png", 77, (80, 60))
    image = (writable.work / "new.png").read_bytes()
    made = writable.send("../new/é.png", image, {"captions": ["a purple whale"]})
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == image_at("../new/é.png")
    assert (made.json()["width"], made.json()["height"]) == (80, 60)
    assert writable.found("whale") == ["../new/é.png"]
    (kept,) = writable.kept
    assert kept.read_bytes() == image and kept.name.removesuffix(".png").isalnum()
    file = writable.running.get(image_at("../new/é.png", "file"), headers=bearer(READ))
    assert file.content == image
    vector = writable.document("../new/é.png")["embedding"]
    own = writable.running.service.search.encoder.encode_images([image])[0]
    np.testing.assert_allclose(vector, own, atol=1e-5)
    # A feed of another data set neither changes nor prunes it.
    assert writable.feed(prune=True).removed == 0
    assert writable.found("whale") == ["../new/é.png"]
    # Another image takes the first one's place; without JSON all else stays.
    paint(writable.work / "new.png", 78, (50, 50))
    other = (writable.work / "new.png").read_bytes()
    assert writable.send("../new/é.png", other).json()["width"] == 50
    assert writable.found("whale") == ["../new/é.png"]
    assert [path.read_bytes() for path in writable.kept] == [other]
    assert writable.document("../new/é.png")["embedding"] != vector
    assert writable.delete("../new/é.png").status_code == 204
    assert writable.kept == [] and writable.found("whale") == []
    assert writable.delete("../new/é.png").status_code == 404


def test_a_feed_gives_back_the_image_of_its_manifest(writable: Writable) -> None:
    before = writable.document("river.png")
    image = (writable.photos / "star.png").read_bytes()
    assert writable.send("river.png", image).status_code == 200
    assert writable.document("river.png")["embedding"] != before["embedding"]
    told = writable.feed()
    assert told.fed + told.updated == 1
    assert writable.document("river.png") == before


def test_a_feed_writes_again_what_was_deleted(writable: Writable) -> None:
    before = writable.document("beach/dogs.png")
    assert writable.delete("beach/dogs.png").status_code == 204
    assert "beach/dogs.png" not in writable.found("dogs")
    assert (writable.photos / "beach/dogs.png").exists()
    assert writable.feed().fed == 1
    assert writable.document("beach/dogs.png") == before


def test_only_the_write_token_lets_one_change(writable: Writable) -> None:
    for token, status in ((None, 401), ("another", 401), (WRITE + "x", 401), (READ, 403)):
        for refused in (
            writable.put("star.png", {"captions": ["x"]}, token),
            writable.delete("star.png", token),
        ):
            assert refused.status_code == status, token
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert WRITE not in refused.text and READ not in refused.text
    assert writable.document("star.png")["captions"] == ["a red star"]
    reading = writable.running.get(STAR, headers=bearer(WRITE))
    assert reading.status_code == 200, "who may write may read"


def test_without_a_write_token_nothing_changes(served: RunningService) -> None:
    for refused in (
        served.ask("PUT", STAR, json={"captions": ["x"]}),
        served.ask("DELETE", STAR, headers=bearer("")),
    ):
        assert refused.status_code == 403
        assert "start it with CLIPSEARCH_WRITE_TOKEN" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("status", "sentence", "id", "document"),
    [
        (404, "no document has the id 'none.png'", "none.png", {"captions": ["x"]}),
        (400, "which no index can hold", "a\x01", {"captions": ["x"]}),
        (400, "nothing to change", "star.png", {}),
        (400, "a caption is empty", "star.png", {"captions": [" "]}),
        (400, "keeps it as numbers", "star.png", {"tags": {"year": "2010"}}),
        (400, "keeps it as text", "star.png", {"numbers": {"class": 1}}),
        (400, "given twice", "star.png", {"tags": {"a": "1", " a": "2"}}),
        (422, "document.path", "star.png", {"path": "/etc/passwd"}),
        (422, "numbers", "star.png", {"numbers": {"year": "new"}}),
    ],
)
def test_changes_that_cannot_be_are_problems(
    writable: Writable, status: int, sentence: str, id: str, document: Any
) -> None:
    refused = writable.put(id, document)
    assert (refused.status_code, refused.json()["status"]) == (status, status), refused.text
    assert sentence.replace("document.", "body.") in refused.json()["detail"]


def test_images_that_cannot_be_kept_are_problems(writable: Writable) -> None:
    before, large = writable.kept, png_head(1001, 1000)
    for status, sentence, refused in (
        (422, "1,001,000 pixels", writable.send("x.png", large)),
        (422, "the image", writable.send("x.png", b"no image")),
        (400, "holds the character", writable.send("\x01", large[:0] + b"x")),
        (400, "send one image", writable.put("x.png", files={"picture": large[:10]})),
        (415, "send application/json", writable.put("x.png", data="captions=x")),
    ):
        assert refused.status_code == status, refused.text
        assert sentence in refused.json()["detail"]
    assert writable.kept == before


def test_no_image_is_taken_without_a_folder(local_index: str, cache: Path, photos: Path) -> None:
    settings = ServerSettings(local_index, cache, write_token=WRITE)
    with RunningService(settings) as running:
        files = {"image": (photos / "star.png").read_bytes()}
        refused = running.ask("PUT", STAR, files=files, headers=bearer(WRITE))
        assert refused.status_code == 400 and "--uploads FOLDER" in refused.json()["detail"]


def test_a_feed_under_way_is_not_disturbed(writable: Writable) -> None:
    settings = writable.running.settings
    assert settings.ledger is not None
    with feed_lock(settings.index, "feed"), Ledger.open(settings.ledger, "feed"):
        for refused in (
            writable.put("star.png", {"captions": ["x"]}),
            writable.delete("star.png"),
        ):
            assert refused.status_code == 503, refused.text
            assert "another feed" in refused.json()["detail"]
            assert int(refused.headers["Retry-After"]) >= 1
        assert writable.found("red star") == ["star.png"]
    assert writable.put("star.png", {"numbers": {"year": 2018}}).status_code == 200


def test_a_client_changes_and_deletes(writable: Writable) -> None:
    url = writable.running.url
    with Client.open(url, token=WRITE, patience=0) as client:
        changed = client.put("airport/plane.png", captions=["a jet"], tags={"class": None})
        assert changed.captions == ("a jet",) and "class" not in changed.tags
        before = client.count()
        made = client.put("own", image=writable.photos / "star.png", numbers={"year": 2020})
        assert made.numbers == {"year": 2020.0} and client.count() == before + 1
        with pytest.raises(DocumentNotFoundError, match="nobody"):
            client.put("nobody", captions=["x"])
        with pytest.raises(UsageError, match="nothing to change"):
            client.put("own")
        client.delete("own")
        assert client.get(["own"]) == [None] and client.count() == before
        with pytest.raises(DocumentNotFoundError, match="own"):
            client.delete("own")
    with (
        Client.open(url, token=READ, patience=0) as client,
        pytest.raises(IndexAccessError, match="read alone"),
    ):
        client.delete("star.png")


def test_no_answer_to_a_change_is_off_the_schema(writable: Writable) -> None:
    hold(writable.running, 4, methods=("put", "delete"), headers=bearer(WRITE))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"write_token": "short"}, "CLIPSEARCH_WRITE_TOKEN has 5 characters"),
        ({"write_token": READ, "token": READ}, "take another one"),
        ({"uploads": Path("x")}, "set CLIPSEARCH_WRITE_TOKEN"),
    ],
)
def test_settings_of_writers_that_cannot_work(change: Any, sentence: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(ServerSettings("photos.index", cache), **change).check()


def test_a_write_that_the_engine_refuses_is_told(
    writable: Writable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.operations import Outcome
    from clipsearch.server import changing

    opened = changing.open_engine

    def full(index: str) -> Any:
        engine = opened(index)
        monkeypatch.setattr(
            engine,
            "feed",
            lambda given: iter([Outcome(each, "the disk is full") for each in given]),
        )
        return engine

    monkeypatch.setattr(changing, "open_engine", full)
    for refused in (writable.put("star.png", {"captions": ["x"]}), writable.delete("star.png")):
        assert refused.status_code == 503 and "the disk is full" in refused.json()["detail"]
    monkeypatch.undo()
    assert writable.document("star.png")["captions"] == ["a red star"]
    assert writable.feed().rejected == 0
