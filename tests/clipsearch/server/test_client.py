"""`Client` against `Search`: the same calls, the same results, the same errors."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_service import RunningService

import clipsearch
from clipsearch import Client, Search
from clipsearch.documents import PARTS, Document
from clipsearch.engine import Page
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.localization.heat_map import HeatMap
from clipsearch.search.parts import Part
from clipsearch.server.settings import ServerSettings
from finetune.errors import (
    ClipsearchError,
    DocumentNotFoundError,
    EngineError,
    ImageError,
    IndexAccessError,
    UsageError,
)
from finetune.images.pixel_box import PixelBox

Asked = Callable[[Search | Client, Path], Any]


@pytest.fixture
def client(either: RunningService) -> Iterator[Client]:
    with Client.open(either.url, patience=0) as opened:
        yield opened


@pytest.fixture
def search(either: RunningService) -> Search:
    return either.search


CALLS: dict[str, Asked] = {
    "text": lambda s, _: s.query("dogs on a beach", k=3, facets=["class"], bm25_weight=0.3),
    "explained": lambda s, _: s.query("dogs on a beach", k=2, explain=True),
    "plain": lambda s, _: s.query("dogs -beach", plain=True),
    "without": lambda s, _: s.query("dogs -plane"),
    "misspelled": lambda s, _: s.query("beech", mode="bm25"),
    "suggested": lambda s, _: s.suggest("two be", 3),
    "page": lambda s, _: s.query("a dog", k=1, page=2, mode="hybrid-rrf"),
    "words": lambda s, _: s.query("!!!", mode="bm25"),
    "mapping": lambda s, _: s.query("a", filters={"class": ["beach", "été"], "year": (2010, None)}),
    "number": lambda s, _: s.query("a", filters={"year": 2016}),
    "filter": lambda s, _: s.query("a", filters="class!=beach"),
    "ready filters": lambda s, _: s.query(
        "a",
        filters=[
            TagFilter("class", ("beach",), exclude=True),
            NumberFilter("year", 2014, 2018, high_open=True),
        ],
    ),
    "file": lambda s, photos: s.query(image=photos / "river.png", exact=True),
    "crop": lambda s, photos: s.query(
        "boat", image=str(photos / "river.png"), crop=PixelBox(2, 3, 20, 20), candidates=3
    ),
    "bytes": lambda s, photos: s.query(image=(photos / "star.png").read_bytes()),
    "Pillow image": lambda s, _: s.query(image=Image.new("RGB", (40, 30), "red")),
    "vector": lambda s, _: s.query(vector=np.arange(32), mode="vector"),
    "mix": lambda s, _: s.query(
        parts=[Part("text", "dogs", 2), Part("text", "boat", -1), Part("id", "river.png", 0.5)]
    ),
    "similar": lambda s, _: s.similar("beach/two dogs.png", k=2, filters="year>2010"),
    "similar by words too": lambda s, _: s.similar(
        "beach/two dogs.png", mode="hybrid", filters={"year": (2010, 2014)}, min_cosine=-0.5
    ),
    "list": lambda s, _: s.list(filters={"class": ["beach", "été"]}, sort="-year", k=2, page=2),
    "list all": lambda s, _: s.list(
        filters=[NumberFilter("year", 2010, high=2016, high_open=True)], facets=["class"]
    ),
    "cut off": lambda s, _: s.query("dogs", mode="vector", min_cosine=0.1, sort="year"),
    "collapsed": lambda s, _: s.query("dogs", collapse=True),
    "get": lambda s, _: s.get(["river.png", "nothing", "beach/dogs.png"], embeddings=True),
    "count": lambda s, _: s.count(),
    "vector_of": lambda s, _: s.vector_of([Part("text", "dogs"), Part("id", "star.png", -0.5)]),
    "locate": lambda s, _: s.locate("dogs", id="beach/two dogs.png"),
    "locate in a file": lambda s, photos: s.locate(
        image=photos / "star.png", parts=[Part("id", "river.png")], method="windows"
    ),
}


def comparable(result: Any) -> Any:
    """What two results have in common when they are the same; embeddings to five digits.

    What tells feeds where an image comes from is told to nobody else, and hits say less than `get`.
    """
    if isinstance(result, np.ndarray):
        return (result + 0.0).round(5).tolist()
    if isinstance(result, Page):
        hits = [replace(hit, document=_told(hit.document, as_hit=True)) for hit in result.hits]
        return replace(result, hits=tuple(hits), seconds=0)
    if isinstance(result, HeatMap):
        return [comparable(getattr(result, each.name)) for each in fields(result)]
    if isinstance(result, Document):
        shown = _told(result)
        return [comparable(getattr(shown, each.name)) for each in fields(shown)]
    if isinstance(result, list):
        return [comparable(each) for each in result]
    return result


def _told(document: Document, *, as_hit: bool = False) -> Document:
    hidden = [
        name for name, part in PARTS.items() if not part.is_shown or (as_hit and not part.in_hits)
    ]
    return replace(document, **{name: PARTS[name].kind.empty() for name in hidden})


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_the_same(
    name: str, client: Client, search: Search, either: RunningService, photos: Path
) -> None:
    ask = CALLS[name]
    here, there = ask(search, photos), ask(client, photos)
    if isinstance(here, HeatMap):
        here = replace(here, notes=tuple(map(either.service.told, here.notes)))
    assert type(there) is type(here)
    assert comparable(there) == comparable(here)


WRONG: dict[str, tuple[type[ClipsearchError], Asked]] = {
    "column": (UsageError, lambda s, _: s.query("a", filters={"clas": "beach"})),
    "weights": (UsageError, lambda s, _: s.query("a", mode="vector", bm25_weight=1)),
    "nothing": (UsageError, lambda s, _: s.query()),
    "text": (UsageError, lambda s, _: s.query(" ")),
    "crop": (UsageError, lambda s, photos: s.query(crop=PixelBox(0, 0, 1, 1))),
    "outside": (
        UsageError,
        lambda s, photos: s.query(
            image=(photos / "star.png").read_bytes(), crop=PixelBox(0, 0, 999, 9)
        ),
    ),
    "id": (DocumentNotFoundError, lambda s, _: s.similar("nothing.jpg")),
    "image": (ImageError, lambda s, _: s.query(image=b"no image at all")),
    "two images": (UsageError, lambda s, _: s.locate("a")),
    "vector": (UsageError, lambda s, _: s.query(vector=[1.0, 2.0])),
    "cancel": (UsageError, lambda s, _: s.query(parts=[Part("id", "river.png", 0)])),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_the_same(
    name: str, client: Client, search: Search, either: RunningService, photos: Path
) -> None:
    kind, ask = WRONG[name]
    told = []
    for one in (search, client):
        with pytest.raises(kind) as raised:
            ask(one, photos)
        # Where the index lies is told by its last name alone.
        told.append((type(raised.value), either.service.told(str(raised.value))))
    assert told[0] == told[1]


def test_what_the_index_knows(client: Client, search: Search) -> None:
    known, told = search.info.to_json(), client.info.to_json()
    private = {
        "encoder_path", "images_root", "data_sets", "last_feed", "open_feeds", "column_order",
        "document_form", "may_lack_embeddings", "calibration",
    }  # fmt: skip
    assert {name for name in known if known[name] != told[name]} <= private
    assert told["tag_columns"] == ("class",)


def test_files(client: Client, photos: Path) -> None:
    assert client.image("river.png") == (photos / "river.png").read_bytes()
    assert client.thumbnail("river.png", 100).startswith(b"RIFF")
    with pytest.raises(DocumentNotFoundError):
        client.image("nothing.png")


def test_a_token_is_asked_for_and_sent(local_index: str, cache: Path) -> None:
    token = "0123456789abcdef"
    with RunningService(ServerSettings(local_index, cache, token=token)) as running:
        with pytest.raises(IndexAccessError, match="only who has its token"):
            Client.open(running.url, patience=0)
        with Client.open(running.url, token=token) as client:
            assert client.count() == 5
        with Client.open(running.url.replace("//", f"//me:{token}@")) as client:
            assert client.query("dogs").total > 0
            assert token not in client.target


def test_a_token_does_not_travel_in_the_open() -> None:
    with pytest.raises(UsageError, match="in the open"):
        Client.open("http://photos.example:8000", token="0123456789abcdef")


def test_nobody_there() -> None:
    with pytest.raises(EngineError, match="is `clipsearch serve` running there"):
        Client.open("http://127.0.0.1:1", patience=0)


def test_it_is_what_the_package_gives() -> None:
    assert clipsearch.Client is Client
