"""Against a real Vespa: feeds that are killed, servers that are killed, and how fast a feed is.

CLIPSEARCH_TEST_VESPA_KILL gives the ids of Vespa's processes that may be killed with -9 (of the
container, the content node, the distributor …), with commas between; without it none is. Whatever
runs Vespa must start them again, as its own sentinel does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_vespa import (
    DIMENSION,
    DOCUMENTS,
    Place,
    command,
    environment,
    find_place,
    made_up,
    run,
    write_manifest,
    write_puts,
)

from clipsearch.engines.vespa.engine import VespaEngine
from finetune.errors import EngineError

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]

KILLS = 3


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    found = find_place()
    found.empty()
    found.deploy(dimension=DIMENSION, precision="float")
    yield found
    found.empty()


@pytest.fixture
def folder(place: Place, tmp_path: Path) -> Path:
    """With photos.jsonl, and an index that is empty."""
    place.empty()
    write_manifest(tmp_path / "photos.jsonl", made_up(DOCUMENTS))
    return tmp_path


def feed_arguments(place: Place) -> list[str]:
    return ["feed", "photos.jsonl", "--index", place.url, "--ledger", "ledger.sqlite", "--json"]


def start_feed(place: Place, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*feed_arguments(place)),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def count(place: Place) -> int:
    """Documents; 0 where Vespa cannot say."""
    try:
        engine = VespaEngine.open(place.url)
        try:
            return engine.count()
        finally:
            engine.close()
    except EngineError:
        return 0


def wait_for(place: Place, documents: int, feed: subprocess.Popen[str]) -> bool:
    """Whether that many were there while the feed was running."""
    while feed.poll() is None:
        if count(place) >= documents:
            return True
        time.sleep(0.05)
    return False


def assert_whole(place: Place, folder: Path) -> None:
    """Every document is there once, as the manifest has it, and the ledger knows."""
    engine = place.engine()
    wanted = {document.id: document for document in made_up(DOCUMENTS)}
    assert engine.count() == DOCUMENTS and engine.count_without_embedding() == 0
    seen = list(engine.visit())
    assert len(seen) == DOCUMENTS
    for document in seen:
        twin = wanted.pop(document.id)
        assert (document.captions, document.path) == (twin.captions, twin.path)
        assert document.tags["class"] == twin.tags["class"] and document.numbers == twin.numbers
    assert not wanted
    again = run(folder, *feed_arguments(place))
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["fed"], report["unchanged"]) == (0, DOCUMENTS)


def test_a_feed_that_is_killed_goes_on(place: Place, folder: Path) -> None:
    killed = 0
    for turn in range(1, KILLS + 1):
        feed = start_feed(place, folder)
        if wait_for(place, turn * DOCUMENTS // (KILLS + 1), feed):
            os.kill(feed.pid, signal.SIGKILL)
            killed += 1
        feed.communicate(timeout=600)
    done = run(folder, *feed_arguments(place))
    assert done.returncode == 0, done.stderr
    assert killed > 0, "each feed was over before it could be killed"
    assert json.loads(done.stdout)["rejected"] == 0
    assert_whole(place, folder)


def test_a_feed_outlives_the_servers_processes(place: Place, folder: Path) -> None:
    named = os.environ.get("CLIPSEARCH_TEST_VESPA_KILL", "")
    if not named:
        pytest.skip("CLIPSEARCH_TEST_VESPA_KILL names no process of Vespa's that may be killed")
    processes = [int(one) for one in named.split(",")]
    feed = start_feed(place, folder)

    def kill() -> None:
        for turn, process in enumerate(processes, 1):
            if wait_for(place, turn * DOCUMENTS // (len(processes) + 1), feed):
                os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    output, _ = feed.communicate(timeout=1200)
    killer.join()
    assert feed.returncode == 0, "the feed waits for the server, and goes on by itself"
    assert json.loads(output)["fed"] == DOCUMENTS
    deadline = time.monotonic() + 120
    while count(place) < DOCUMENTS and time.monotonic() < deadline:
        time.sleep(1)
    assert_whole(place, folder)


def through_clipsearch(place: Place, folder: Path) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    done = run(folder, *feed_arguments(place))
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def through_vespa_feed(url: str, puts: Path, documents: int) -> float:
    """Seconds of `vespa feed`, its start included."""
    vespa = Path(sys.executable).parent / "vespa"
    start = time.perf_counter()
    done = subprocess.run(
        [vespa, "feed", "--target", url, puts], capture_output=True, text=True, timeout=1200
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout[done.stdout.index("{") :])
    assert figures["feeder.ok.count"] == documents, done.stdout
    return seconds


def print_table(seconds: dict[str, float], documents: int) -> None:
    print(f"\n{documents:,} documents of {DIMENSION} dimensions into a real Vespa")
    print(f"{'what':<42}{'seconds':>9}{'documents/s':>13}")
    for what, taken in seconds.items():
        print(f"{what:<42}{taken:>9.1f}{documents / taken:>13,.0f}")


def test_how_fast_a_feed_is(place: Place, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, and no wish of how fast: the machine is not known here."""
    pytest.importorskip("vespacli")
    puts = write_puts(folder / "puts.jsonl", made_up(DOCUMENTS))
    seconds = {"vespa feed, into an empty index": through_vespa_feed(place.url, puts, DOCUMENTS)}
    place.empty()
    seconds["clipsearch feed, into an empty index"] = through_clipsearch(place, folder)
    seconds["clipsearch feed, nothing has changed"] = through_clipsearch(place, folder)
    changed = (folder / "photos.jsonl").read_text().replace('beach number 7"', 'shore number 7"')
    (folder / "photos.jsonl").write_text(changed)
    seconds["clipsearch feed, one caption has changed"] = through_clipsearch(place, folder)
    seconds["vespa feed, over what is there"] = through_vespa_feed(place.url, puts, DOCUMENTS)
    (folder / "ledger.sqlite").unlink()
    seconds["clipsearch feed, over what is there"] = through_clipsearch(place, folder)
    with capsys.disabled():
        print_table(seconds, DOCUMENTS)
    assert count(place) == DOCUMENTS
