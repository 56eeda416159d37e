"""A service below a path, behind a server that takes the path off, or leaves it there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_service import RunningService

from clipsearch.client.client import Client
from clipsearch.server.settings import ServerSettings

DOGS = "beach/two dogs.png"


@pytest.fixture(scope="module")
def below(local_index: str, cache: Path) -> Iterator[RunningService]:
    with RunningService(ServerSettings(local_index, cache, root_path="/my/images")) as running:
        yield running


@pytest.mark.parametrize("left", ["/my/images", ""])
def test_it_answers_whether_the_path_is_left_there_or_not(below: RunningService, left: str) -> None:
    found = below.get(f"{left}/v1/search?text=dogs&k=1").json()["hits"][0]
    assert (
        found["image"]
        == f"/my/images/v1/images/{found['id'].replace('/', '%2F').replace(' ', '%20')}/file"
    )
    # The slash of an id is no slash of an address, and the image comes from where it is said to.
    image = below.get(f"{left}/v1/images/beach%2Ftwo%20dogs.png/file")
    assert image.headers["Content-Type"] == "image/png"
    assert "sandbox" in image.headers["Content-Security-Policy"]
    assert below.get(found["image"]).status_code == 200
    assert "<title>clipsearch" in below.get(f"{left}/").text
    assert below.get(f"{left}/static/page.css").status_code == 200
    assert below.get(f"{left}/docs/assets/swagger-ui.css").status_code == 200
    assert below.get(f"{left}/openapi.json").json()["servers"] == [{"url": "/my/images"}]


def test_what_only_looks_like_the_path_is_another_address(below: RunningService) -> None:
    assert below.get("/my/imagesque/v1/index").status_code == 404
    assert below.get("/my/images/my/images/v1/index").status_code == 404


def test_a_client_is_given_the_whole_address(below: RunningService) -> None:
    with Client.open(f"{below.url}/my/images") as client:
        assert client.query("dogs", mode="bm25", k=1).hits[0].document.id.startswith("beach/")
        assert client.image(DOGS)
