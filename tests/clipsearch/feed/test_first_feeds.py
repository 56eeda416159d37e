"""Feeds that meet at an index that is not there yet: all are in, or one is refused and says so."""

import io
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CLIPSEARCH, CODE, FRESH_CLIPSEARCH
from vespa_stub import StubVespa

from clipsearch.engine import IndexInfo
from clipsearch.engines import feed_lock, open_engine
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.lock import index_lock
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from finetune.errors import EngineError

DOCUMENTS = 20
REFUSED = "another feed works on this index"
LATEST_START = 1.5
# Of one command on a machine that is busy with others.
TIMEOUT = 600


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three manifests of ready-made vectors that share no id."""
    folder = tmp_path_factory.mktemp("manifests")
    chance = np.random.default_rng(0)
    paths = []
    for name in "abc":
        rows = {
            "id": [f"{name}{number}" for number in range(DOCUMENTS)],
            "caption": [f"{name} caption {number}" for number in range(DOCUMENTS)],
            "embedding": list(chance.normal(size=(DOCUMENTS, 8)).astype(np.float32)),
        }
        paths.append(folder / f"{name}.parquet")
        pd.DataFrame(rows).to_parquet(paths[-1])
    return paths


def start(*arguments: object, program: Sequence[str] = CLIPSEARCH) -> subprocess.Popen[str]:
    command = [*program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ids(index: Path) -> set[str]:
    engine = open_engine(str(index))
    try:
        return {document.id for document in engine.visit()}
    finally:
        engine.close()


def check_round(manifests: list[Path], index: Path, moments: list[float]) -> int:
    """Start a first feed of each manifest at its moment; how many were refused."""
    feeds: list[tuple[Path, subprocess.Popen[str]]] = []
    begun = time.monotonic()
    for moment, manifest in sorted(zip(moments, manifests, strict=True)):
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        feeds.append((manifest, start("feed", manifest, "--index", index)))
    refused = 0
    expected: set[str] = set()
    for manifest, process in feeds:
        _, errors = process.communicate(timeout=TIMEOUT)
        if process.returncode == 0:
            expected |= {f"{manifest.stem}{number}" for number in range(DOCUMENTS)}
            continue
        refused += 1
        assert process.returncode == 1, errors
        (sentence,) = [line for line in errors.splitlines() if line.startswith("Error:")]
        assert REFUSED in sentence and "Traceback" not in errors
    assert expected, "all were refused"
    assert ids(index) == expected
    # What was refused goes in by the same command, and nothing that is in is done again.
    for manifest in manifests:
        process = start("feed", manifest, "--index", index)
        output, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
        known = f"{manifest.stem}0" in expected
        assert f"fed {0 if known else DOCUMENTS}," in output
    assert len(ids(index)) == DOCUMENTS * len(manifests)
    return refused


def test_vectors_of_no_known_encoder_are_told_so(manifests: list[Path], tmp_path: Path) -> None:
    told = io.StringIO()
    options = FeedOptions(manifest=manifests[0], index=str(tmp_path / "photos.index"), workers=0)
    feed(options, progress_stream=told)
    assert "New index: " in told.getvalue()
    assert "no known encoder: texts find by words alone, until --vectors-of" in told.getvalue()


def test_two_first_feeds_at_once(manifests: list[Path], tmp_path: Path) -> None:
    assert check_round(manifests[:2], tmp_path / "photos.index", [0.0, 0.0]) <= 1


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [2, 3])
def test_fifty_rounds_of_first_feeds(manifests: list[Path], tmp_path: Path, count: int) -> None:
    chance = random.Random(count)
    for number in range(50):
        moments = [chance.uniform(0.0, LATEST_START) for _ in range(count)]
        check_round(manifests[:count], tmp_path / f"{number}.index", moments)


def test_two_makers_in_one_process_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "photos.index"
    with (
        feed_lock(str(folder), "feed"),
        pytest.raises(EngineError, match=f"photos.index: {REFUSED}"),
    ):
        LocalEngine.create(folder, IndexInfo(8))
    assert not folder.exists()
    LocalEngine.create(folder, IndexInfo(8)).close()
    with pytest.raises(EngineError, match="holds something already"):
        LocalEngine.create(folder, IndexInfo(8))


def test_the_lock_leaves_nothing_where_no_index_was_made(tmp_path: Path) -> None:
    made, there = tmp_path / "a" / "b" / "photos.index", tmp_path / "empty"
    there.mkdir()
    for folder in (made, there):
        with index_lock(folder, "feed"):
            assert (folder / "feed.lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not list(there.iterdir())


def test_the_lock_of_a_folder_that_goes_away_keeps_everybody_out(tmp_path: Path) -> None:
    """Four processes take and drop the lock of a folder that comes and goes: never two hold it."""
    code = """
import os, random, sys, time
from pathlib import Path
from clipsearch.engines.local.lock import index_lock
from finetune.errors import EngineError
folder, witness = Path(sys.argv[1]), Path(sys.argv[2])
held = 0
deadline = time.monotonic() + 2
while time.monotonic() < deadline:
    try:
        with index_lock(folder, "feed"):
            descriptor = os.open(witness, os.O_CREAT | os.O_EXCL)  # fails where another holds it
            time.sleep(random.random() / 1000)
            os.close(descriptor)
            witness.unlink()
            held += 1
    except EngineError:
        time.sleep(random.random() / 1000)
print(held)
"""
    command = [*CODE, code, str(tmp_path / "photos.index"), str(tmp_path / "held")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert int(output) > 0
    # The folder itself may stay, where the one that made it was refused in it.
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


KILLED_WHILE_MAKING = """
import os, sys
from pathlib import Path
from clipsearch.engines.local import engine
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
moment = sys.argv[3]
if moment == "locked":
    engine.LocalEngine._make = lambda *values: os.kill(os.getpid(), 9)
else:
    engine.write_info = lambda *values: os.kill(os.getpid(), 9)
feed(FeedOptions(manifest=Path(sys.argv[1]), index=sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["locked", "table made"])
def test_killed_while_it_makes_the_index(
    manifests: list[Path], tmp_path: Path, moment: str
) -> None:
    index = tmp_path / "photos.index"
    arguments = [str(manifests[0]), str(index), moment]
    done = subprocess.run([*CODE, KILLED_WHILE_MAKING, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (index / "feed.lock").exists()
    for words in ("status", "query --mode bm25 caption", "get a0", "delete a0 --yes"):
        process = start(*words.split(), "--index", index)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.startswith("Error: ") and errors.count("\n") == 1, errors
        assert "no index there yet: a feed is making it, or was stopped" in errors
    process = start("feed", manifests[0], "--index", index)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(ids(index)) == DOCUMENTS


def test_readers_and_deletes_while_a_first_feed_works(
    manifests: list[Path], tmp_path: Path
) -> None:
    """One sentence before the index is there, an answer from then on; no delete comes between."""
    index = tmp_path / "photos.index"
    # Slow to start: both are asked before, while and after the index is made.
    feeding = start("feed", manifests[0], "--index", index, program=FRESH_CLIPSEARCH)
    codes = set()
    while feeding.poll() is None:
        for words in ("status", "delete a0 --yes"):
            process = start(*words.split(), "--index", index)
            _, errors = process.communicate(timeout=60)
            codes.add((words.split()[0], process.returncode))
            if process.returncode:
                assert process.returncode == 1, errors
                assert errors.startswith("Error: ") and errors.count("\n") == 1, errors
    assert feeding.returncode == 0, feeding.communicate()[1]
    assert ids(index) >= {f"a{number}" for number in range(1, DOCUMENTS)}


def test_a_delete_is_refused_while_a_feed_works_and_the_other_way_round(
    manifests: list[Path], tmp_path: Path
) -> None:
    index = tmp_path / "photos.index"
    assert start("feed", manifests[0], "--index", index).wait(timeout=60) == 0
    ledger = ("--ledger", tmp_path / "another.sqlite")  # the ledger alone would not keep it out
    with index_lock(index, "feed"):
        process = start("delete", "a0", "--yes", "--index", index, *ledger)
        assert REFUSED in process.communicate(timeout=60)[1]
    with index_lock(index, "delete"):
        process = start("feed", manifests[1], "--index", index, *ledger)
        assert "another delete works on this index" in process.communicate(timeout=60)[1]
    assert len(ids(index)) == DOCUMENTS


def test_two_first_feeds_into_one_vespa_share_its_name(
    manifests: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is refused has not given the index another id: nothing is then fed anew."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with StubVespa(dimension=8) as stub:
        client = connect(stub.url)
        write_info(client, IndexInfo(8))
        client.close()
        stub.delay = 0.05
        feeds = [start("feed", manifest, "--index", stub.url) for manifest in manifests[:2]]
        refused = 0
        for process in feeds:
            _, errors = process.communicate(timeout=TIMEOUT)
            if process.returncode:
                refused += 1
                assert process.returncode == 1 and REFUSED in errors, errors
        assert len(stub.images()) == DOCUMENTS * (2 - refused)
        stub.delay = 0.0
        for manifest in manifests[:2]:
            process = start("feed", manifest, "--index", stub.url)
            output, errors = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, errors
            assert "about another index" not in output
        assert len(stub.images()) == DOCUMENTS * 2
    assert list((tmp_path / "state" / "clipsearch").glob("*.sqlite"))
