"""What the service answers, held against `Search` itself."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_service import RunningService, image_at
from served_photos import SIZES

from clipsearch.search.answer import answer_json, answer_query, answer_similar
from clipsearch.search.options import QueryOptions
from clipsearch.search.parts import Part
from finetune.images.pixel_box import PixelBox

DOGS = "beach/two dogs.png"


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "seconds"}


def expected(answer: Any) -> dict[str, Any]:
    """The JSON of the command line, with the service's addresses of images."""
    told = json.loads(json.dumps(answer_json(answer)))
    for hit in told["hits"]:
        assert Path(hit["image"]).is_file()
        hit["image"] = image_at(hit["id"], "file")
    return without_time(told)


def test_a_search_is_the_same_as_in_python(either: RunningService) -> None:
    asked = {
        "text": "dogs on a beach", "k": 3, "filter": ["year>=2010", "class!=sign"],
        "facet": "class", "mode": "hybrid", "bm25_weight": 0.5,
    }  # fmt: skip
    found = either.get("/v1/search", params=asked)
    assert found.status_code == 200, found.text
    search = either.search
    options = QueryOptions(
        k=3,
        filters=["year>=2010", "class!=sign"],
        facets=["class"],
        mode="hybrid",
        bm25_weight=0.5,
    )
    answer = answer_query(search, "dogs on a beach", options=options)
    assert without_time(found.json()) == expected(answer)
    assert found.json()["hits"][0]["id"].startswith("beach/")


def test_a_weighted_mix_with_an_upload_is_the_same(either: RunningService, photos: Path) -> None:
    data = (photos / "river.png").read_bytes()
    crop = {"x": 1, "y": 2, "width": 20, "height": 30}
    question = {
        "text": "dogs",
        "parts": [
            {"kind": "image", "value": "mine", "weight": 0.5, "crop": crop},
            {"kind": "id", "value": "star.png", "weight": -0.25},
            {"kind": "vector", "value": [1.0] * 32},
        ],
        "filters": {"year": [2010, 2016], "class": ["beach", "été"]},
    }
    files = {"mine": ("a.png", data, "image/png")}
    found = either.post("/v1/search", data={"question": json.dumps(question)}, files=files)
    assert found.status_code == 200, found.text
    parts = [
        Part("image", data, 0.5, PixelBox(**crop)),
        Part("id", "star.png", -0.25),
        Part("vector", [1.0] * 32),
    ]
    search = either.search
    filters = {"year": (2010, 2016), "class": ["beach", "été"]}
    answer = answer_query(search, "dogs", parts, QueryOptions(filters=filters))
    assert without_time(found.json()) == expected(answer)
    assert [hit["id"] for hit in found.json()["hits"]] == [
        hit.document.id for hit in answer.page.hits
    ]


def test_a_file_that_no_part_names_is_a_part(served: RunningService, photos: Path) -> None:
    with (photos / "star.png").open("rb") as file:
        found = served.post("/v1/search", files={"image": file}).json()
    assert found["query"]["mode"] == "vector"
    assert found["hits"][0]["id"] == "star.png"
    assert found["hits"][0]["cosine"] == pytest.approx(1, abs=1e-4)


def test_similar(either: RunningService) -> None:
    asked = {"k": 2, "page": 2, "mode": "hybrid", "explain": "true", "candidates": 5}
    found = either.get("/v1/similar/beach%2Ftwo%20dogs.png", params=asked)
    options = QueryOptions(k=2, page=2, mode="hybrid", explain=True, candidates=5)
    search = either.search
    assert without_time(found.json()) == expected(answer_similar(search, DOGS, options))
    assert found.json()["hits"][0]["explanation"]["terms"]


def test_synonyms_are_those_of_the_service(served: RunningService) -> None:
    by_words = {"text": "+vessel", "mode": "bm25"}
    asked = served.get("/v1/search", params=by_words), served.post("/v1/search", json=by_words)
    for found in asked:
        assert [hit["id"] for hit in found.json()["hits"]] == ["river.png"], found.text


def test_facets(either: RunningService) -> None:
    found = either.get("/v1/facets", params={"filter": "year>2010"}).json()
    counts = {each["value"]: each["count"] for each in found["facets"]["class"]}
    assert (found["total"], counts) == (4, {"airport": 1, "beach": 1, "sign": 1, "Été": 1})
    assert list(found["facets"]) == ["class"]
    assert found["partial"] is None
    found = either.get("/v1/facets", params={"facet": "class"}).json()
    assert sum(each["count"] for each in found["facets"]["class"]) == found["total"] == 5
    assert either.get("/v1/facets", params={"facet": "year"}).status_code == 400


def test_embeddings(served: RunningService, photos: Path) -> None:
    text = served.get("/v1/embed", params={"text": "dogs"}).json()
    assert (text["dimension"], len(text["embedding"])) == (32, 32)
    search = served.search
    np.testing.assert_allclose(
        text["embedding"], search.vector_of([Part("text", "dogs")]), atol=1e-5
    )
    mixed = [Part("text", "dogs", 2.0), Part("id", "star.png", -1.0)]
    parts = [{"kind": "id", "value": "star.png", "weight": -1}]
    parts += [{"kind": "text", "value": "dogs", "weight": 2}]
    found = served.post("/v1/embed", json={"parts": parts}).json()
    np.testing.assert_allclose(found["embedding"], search.vector_of(mixed), atol=1e-5)


@pytest.mark.parametrize("address", [image_at(DOGS), "/v1/images/beach/two%20dogs.png"])
def test_a_document(either: RunningService, address: str) -> None:
    found = either.get(address, params={"embedding": True}).json()
    search = either.search
    (document,) = search.get([DOGS], embeddings=True)
    assert document is not None
    shown = document.to_show()
    embedding = shown.pop("embedding")
    np.testing.assert_allclose(found.pop("embedding"), embedding, atol=1e-6)
    more = {"image": image_at(DOGS, "file"), "width": 640, "height": 480}
    assert found == {**shown, **more, "media_type": "image/png"}


def test_files_and_thumbnails(either: RunningService, photos: Path) -> None:
    whole = either.get(image_at(DOGS, "file"))
    assert whole.content == (photos / DOGS).read_bytes()
    assert whole.headers["Content-Type"] == "image/png"
    small = either.get(image_at(DOGS, "thumbnail"), params={"w": 150})
    assert small.headers["Content-Type"] == "image/webp"
    with Image.open(io.BytesIO(small.content)) as image:
        assert (image.format, image.size) == ("WEBP", (160, 120))
    with Image.open(io.BytesIO(either.get(image_at("river.png", "thumbnail")).content)) as image:
        assert image.size == (48, 40), "it is never enlarged"
    for found in (whole, small):
        again = either.get(
            found.url.removeprefix(either.url), headers={"If-None-Match": found.headers["ETag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


def test_sizes_are_told_of_images_as_they_are_shown(served: RunningService) -> None:
    found = served.get("/v1/search", params={"text": "a", "sizes": True}).json()
    assert {hit["id"]: (hit["width"], hit["height"]) for hit in found["hits"]} == SIZES


def test_locate(served: RunningService) -> None:
    found = served.get(image_at(DOGS, "locate"), params={"text": "dogs"}).json()
    search = served.search
    heat_map = search.locate("dogs", id=DOGS).to_json()
    np.testing.assert_allclose(found["grid"], heat_map["grid"], atol=1e-5)
    assert found["boxes"][0].keys() == heat_map["boxes"][0].keys()


def test_an_answer_that_is_the_same_is_not_sent_again(served: RunningService) -> None:
    found = served.get("/v1/search", params={"text": "dogs"})
    headers = {"If-None-Match": f'"other", W/{found.headers["ETag"]}'}
    again = served.get("/v1/search", params={"text": "dogs"}, headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    other = served.get("/v1/search", params={"text": "boat"}, headers=headers)
    assert other.status_code == 200


def test_answers_are_packed(served: RunningService) -> None:
    packed = served.get("/v1/search", params={"text": "a"})
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = served.get("/v1/search", params={"text": "a"}, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert without_time(plain.json()) == without_time(packed.json())


def test_what_the_index_is(either: RunningService) -> None:
    found = either.get("/v1/index").json()
    assert found["count"] == 5
    assert (found["tag_columns"], found["number_columns"]) == (["class"], ["year"])
    assert str(Path(either.settings.index).parent) not in json.dumps(found)
