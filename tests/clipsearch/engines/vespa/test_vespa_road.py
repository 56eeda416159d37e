"""The same commands with --index PATH and --index URL: the same answers, exit codes, report.

Against the stub that ranks as the recorded Vespa did (test_vespa_parity.py).
"""

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clipsearch_command import CLIPSEARCH, without_settings
from config_server_stub import StubConfigServer
from tiny_encoder import DIMENSION, build_encoder
from vespa_stub import Request, StubVespa

from clipsearch.demo.shapes import draw, scenes

IMAGES = 36


@dataclass
class Road:
    """A folder with photos.csv, an encoder, a Vespa and an embedded index, both fed."""

    folder: Path
    vespa: StubVespa
    config_server: StubConfigServer

    @property
    def targets(self) -> tuple[str, str]:
        return "photos.index", self.vespa.url

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLIPSEARCH, *arguments],
            cwd=self.folder,
            env={**without_settings(), "XDG_STATE_HOME": str(self.folder / "state")},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def answers(self, *arguments: str) -> list[Any]:
        """What both indexes answer, as JSON."""
        found = []
        for target in self.targets:
            done = self.run(*arguments, "--index", target, "--json")
            assert done.returncode == 0, done.stderr
            found.append(json.loads(done.stdout))
        return found


def write_manifest(folder: Path) -> None:
    (folder / "images").mkdir()
    drawn = [each for each in scenes() if each.number == 0][:IMAGES]
    places = ("beach", "Airport", "old harbour")
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "class", "year"])
        for number, scene in enumerate(drawn):
            path = f"images/{number:02} é.png"
            draw(scene).save(folder / path)
            caption = f"{scene.caption} near the {places[number % 3]}"
            writer.writerow([path, caption, places[number % 3], 2000 + number])
        (folder / "images" / "broken.png").write_bytes(b"no picture")
        writer.writerow(["images/broken.png", "a broken picture", "beach", 1999])


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road")
    write_manifest(folder)
    shutil.copytree(encoder_folder, folder / "encoder")
    with StubVespa(dimension=DIMENSION) as vespa, StubConfigServer() as server:
        made = Road(folder, vespa, server)
        places = ("--config-server", server.url, "--index", vespa.url)
        deployed = made.run("deploy", "--encoder", "encoder", *places)
        assert deployed.returncode == 0, deployed.stderr
        yield made


@pytest.fixture(scope="module")
def fed(road: Road) -> Road:
    reports = []
    # What Vespa refuses now and then makes no difference.
    dice = iter(["503", None, "reset", None, "429"] * 4)
    road.vespa.choose_fault = lambda request: next(dice, None)
    for target in road.targets:
        done = road.run("feed", "photos.csv", "--encoder", "encoder", "--index", target, "--json")
        assert done.returncode == 3, "the broken picture is reported"
        reports.append(json.loads(done.stdout))
    road.vespa.choose_fault = None
    for name in ("fed", "updated", "unchanged", "removed", "rejected"):
        assert reports[0][name] == reports[1][name], name
    assert (reports[0]["fed"], reports[0]["rejected"]) == (IMAGES, 1)
    assert len(road.vespa.images()) == IMAGES
    return road


QUERIES = [
    ("query", "red circle beach", "-k", "5"),
    (
        "query",
        "red circle",
        "--mode",
        "bm25",
        "--filter",
        "class=Beach|airport",
        "--facet",
        "class",
    ),
    ("query", "blue", "--mode", "vector", "--filter", "year=2010..2020", "--facet", "class"),
    ("query", "red", "--mode", "hybrid-rrf", "-k", "4", "--page", "2", "--filter", "class!=beach"),
    ("query", "--text", "red:2", "--text", "blue:-1", "--id", "images/01 é.png:0.5", "-k", "4"),
    ("similar", "images/00 é.png", "-k", "5"),
]


@pytest.mark.parametrize("arguments", QUERIES, ids=lambda arguments: " ".join(arguments[:4]))
def test_queries(fed: Road, arguments: tuple[str, ...]) -> None:
    here, there = fed.answers(*arguments)
    assert here["total"] == there["total"] and here.get("facets") == there.get("facets")
    assert here["hits"], "a test of nothing"
    assert [hit["score"] for hit in here["hits"]] == pytest.approx(
        [hit["score"] for hit in there["hits"]], abs=1e-4
    )
    assert {hit["id"] for hit in here["hits"]} == {hit["id"] for hit in there["hits"]}


def test_get_is_the_same(fed: Road) -> None:
    here, there = fed.answers("get", "images/00 é.png", "images/07 é.png")
    assert here == there


def test_status_says_what_fills_it(fed: Road) -> None:
    here, there = fed.answers("status")
    for name in ("documents", "dimension", "encoder_fingerprint", "number_columns", "language"):
        assert here.get(name) == there.get(name), name


def test_a_second_feed_sends_nothing(fed: Road) -> None:
    fed.vespa.requests.clear()
    done = fed.run("feed", "photos.csv", "--index", fed.vespa.url, "--json")
    report = json.loads(done.stdout)
    assert (report["fed"], report["unchanged"]) == (0, IMAGES)
    assert fed.vespa.writes() == []


def test_an_encoder_that_moved_is_named_and_compared(fed: Road, tmp_path: Path) -> None:
    query = ("query", "red", "--mode", "vector", "--index", fed.vespa.url, "--json")
    known = fed.run(*query)
    moved = tmp_path / "moved"
    (fed.folder / "encoder").rename(moved)
    try:
        gone = fed.run(*query)
        assert gone.returncode == 1 and "say where it is with --encoder FOLDER" in gone.stderr
        found = fed.run(*query, "--encoder", str(moved))
        assert found.returncode == 0, found.stderr
        hits = [json.loads(each.stdout)["hits"] for each in (known, found)]
        assert hits[0] == hits[1]
        build_encoder(tmp_path / "other", seed=1, name="other")
        other = fed.run(*query, "--encoder", str(tmp_path / "other"))
        assert other.returncode == 1 and "was filled by the encoder" in other.stderr
    finally:
        moved.rename(fed.folder / "encoder")


def test_a_partial_answer_is_exit_code_3(fed: Road) -> None:
    answer = fed.vespa.answer

    def degraded(request: Request) -> tuple[int, Any]:
        status, content = answer(request)
        if request.path == "/search/":
            content["root"]["coverage"].update(coverage=50, full=False)
        return status, content

    fed.vespa.answer = degraded  # type: ignore[method-assign]
    try:
        done = fed.run("query", "red circle", "--mode", "bm25", "--index", fed.vespa.url)
    finally:
        fed.vespa.answer = answer  # type: ignore[method-assign]
    assert done.returncode == 3
    assert "only 50 % of the documents were searched" in done.stdout + done.stderr


def test_a_full_disk_stops_the_feed_and_the_next_one_goes_on(fed: Road) -> None:
    """Run last but one: it feeds under other captions."""
    text = (fed.folder / "photos.csv").read_text(encoding="utf-8").replace(" near ", " close to ")
    (fed.folder / "photos.csv").write_text(text, encoding="utf-8")
    fed.vespa.choose_fault = lambda request: "507" if request.method == "PUT" else None
    stopped = fed.run("feed", "photos.csv", "--encoder", "encoder", "--index", fed.vespa.url)
    assert stopped.returncode == 1, stopped.stdout
    assert "External feed is blocked due to resource exhaustion" in stopped.stderr
    fed.vespa.choose_fault = None
    done = fed.run("feed", "photos.csv", "--index", fed.vespa.url, "--json")
    assert json.loads(done.stdout)["updated"] == IMAGES


def test_delete(fed: Road) -> None:
    done = fed.run("delete", "images/00 é.png", "--yes", "--index", fed.vespa.url)
    assert done.returncode == 0, done.stderr
    assert "images/00 é.png" not in fed.vespa.images() and len(fed.vespa.images()) == IMAGES - 1
    missing = fed.run("get", "images/00 é.png", "--index", fed.vespa.url)
    assert missing.returncode == 1
