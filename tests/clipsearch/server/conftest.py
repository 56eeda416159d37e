"""An index of a few images on either engine, and a service over it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fed_indexes import fed, fed_vespa
from running_service import RunningService
from served_photos import ROWS, SIZES
from small_pictures import paint

from clipsearch.search.synonyms import Rule, Synonyms
from clipsearch.server.settings import ServerSettings

SYNONYMS = Synonyms((Rule(("vessel",), ("boat",)),))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the manifest `photos.csv` and its images."""
    folder = tmp_path_factory.mktemp("served")
    for seed, (name, size) in enumerate(SIZES.items()):
        paint(folder / name, seed, size)
    (folder / "photos.csv").write_text(ROWS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def local_index(
    photos: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    work = tmp_path_factory.mktemp("local")
    return fed(photos / "photos.csv", str(work / "photos.index"), encoder_folder, work)


@pytest.fixture(scope="session")
def vespa_index(
    photos: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    work = tmp_path_factory.mktemp("vespa")
    with fed_vespa(photos / "photos.csv", encoder_folder, work) as stub:
        yield stub.url


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def served(local_index: str, cache: Path) -> Iterator[RunningService]:
    """A service over the embedded engine, that nobody changes."""
    with RunningService(ServerSettings(local_index, cache, synonyms=SYNONYMS)) as running:
        yield running


@pytest.fixture(scope="session")
def served_vespa(vespa_index: str, cache: Path) -> Iterator[RunningService]:
    """The same over a Vespa."""
    with RunningService(ServerSettings(vespa_index, cache)) as running:
        yield running


@pytest.fixture(params=["embedded", "vespa"])
def either(request: pytest.FixtureRequest) -> RunningService:
    """Both, one after the other."""
    name = "served" if request.param == "embedded" else "served_vespa"
    running: RunningService = request.getfixturevalue(name)
    return running
