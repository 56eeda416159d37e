"""A service whose index's name comes to lead to another index, of another encoder."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fed_indexes import fed
from running_service import RunningService

from clipsearch.search.search import Search
from clipsearch.server import service
from clipsearch.server.settings import ServerSettings
from finetune.encoder_folder import fingerprint, read_description, write_description
from finetune.images.processor_config import preprocessor_config

ASKED = "star.png"
QUESTION = {"question": json.dumps({"mode": "vector"})}
Answer = list[tuple[str, float]]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def other_encoder(folder: Path, copied: Path) -> Path:
    """An encoder that makes other vectors of the same images."""
    shutil.copytree(folder, copied)
    known = read_description(folder)
    seen = replace(known.preprocessing, mean=(0.1, 0.9, 0.5))
    config = copied / "preprocessor_config.json"
    config.write_text(json.dumps(preprocessor_config(seen, "clip")), encoding="utf-8")
    changed = replace(known, name="other", preprocessing=seen, fingerprint=fingerprint(copied))
    write_description(copied, changed)
    return copied


def lead(link: Path, index: Path) -> None:
    """As `ln -s index next && mv -T next link` does: at no moment the name leads nowhere."""
    link.with_suffix(".next").symlink_to(index)
    link.with_suffix(".next").replace(link)


def best(index: Path, image: Path) -> Answer:
    with Search.open(index) as search:
        hits = search.query(image=image, mode="vector").hits
    return [(hit.document.id, round(hit.score, 4)) for hit in hits]


def test_another_encoders_index_is_taken_without_an_error_or_a_restart(
    photos: Path, encoder_folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REFRESH_SECONDS", 0.05)
    other = other_encoder(encoder_folder, tmp_path / "other")
    indexes = [tmp_path / "one.index", tmp_path / "two.index"]
    for index, encoder in zip(indexes, (encoder_folder, other), strict=True):
        work = tmp_path / index.stem
        work.mkdir()
        fed(photos / "photos.csv", str(index), encoder, work)
    one, two = (best(index, photos / ASKED) for index in indexes)
    assert one != two
    link = tmp_path / "photos.index"
    lead(link, indexes[0])
    answers: list[Answer] = []
    image = (photos / ASKED).read_bytes()
    stopped = threading.Event()

    def ask(running: RunningService) -> None:
        while not stopped.is_set():
            reply = running.post("/v1/search", files={"image": image}, data=QUESTION)
            assert reply.status_code == 200, reply.text
            hits = reply.json()["hits"]
            answers.append([(hit["id"], round(hit["score"], 4)) for hit in hits])

    with RunningService(ServerSettings(str(link), cache)) as running:
        asking = threading.Thread(target=ask, args=(running,))
        asking.start()
        try:
            wait_until(lambda: len(answers) > 3)
            lead(link, tmp_path / "gone.index")  # what is no index is not taken
            wait_until(lambda: len(answers) > 8)
            lead(link, indexes[1])
            wait_until(lambda: answers[-1:] == [two])
        finally:
            stopped.set()
            asking.join(30)
        at = answers.index(two)
        assert answers[:at] == [one] * at
        assert answers[at:] == [two] * (len(answers) - at)
        # The first index may go: nothing is read of it any more.
        shutil.rmtree(indexes[0])
        assert running.get("/readyz").status_code == 200


def test_an_index_that_cannot_be_served_is_told_once_and_the_first_goes_on(
    photos: Path,
    encoder_folder: Path,
    local_index: str,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(service, "REFRESH_SECONDS", 0.05)
    broken = tmp_path / "broken.index"
    moved = tmp_path / "encoder"
    shutil.copytree(encoder_folder, moved)
    work = tmp_path / "work"
    work.mkdir()
    fed(photos / "photos.csv", str(broken), moved, work)
    shutil.rmtree(moved)
    link = tmp_path / "photos.index"
    lead(link, Path(local_index))
    told = ""

    def is_told() -> bool:
        nonlocal told
        told += capsys.readouterr().err
        return "cannot be served" in told

    with RunningService(ServerSettings(str(link), cache)) as running:
        lead(link, broken)
        wait_until(is_told)
        assert running.get("/v1/search", params={"text": "red star"}).status_code == 200
    told += capsys.readouterr().err
    assert told.count("cannot be served") == 1 and "no longer at" in told
