"""What goes wrong during a feed: nothing that was acknowledged is lost, and nothing hangs."""

import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from clipsearch_command import CLIPSEARCH, FRESH_CLIPSEARCH
from decode_processes import workers_running
from fake_engine import FakeEngine
from PIL import Image

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines import open_engine
from clipsearch.engines.local import engine as local
from clipsearch.feed import pipeline
from clipsearch.feed import target as indexing
from clipsearch.feed.feed import feed
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.operations import Operation
from finetune.errors import EngineError

# An engine that fails


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    rows = {
        "id": [f"d{number:02}" for number in range(30)],
        "caption": [f"caption {number}" for number in range(30)],
        "embedding": list(chance.normal(size=(30, 4)).astype(np.float32)),
    }
    path = tmp_path / "vectors.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


class Fed:
    """Feeds of one manifest into one fake engine."""

    def __init__(self, manifest: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = FakeEngine(IndexInfo(dimension=4))
        self.ledger = folder / "ledger.sqlite"
        self.options = FeedOptions(
            manifest=manifest,
            index=str(folder / "fake"),
            ledger=self.ledger,
            report=folder / "report.csv",
        )
        monkeypatch.setattr(indexing, "index_exists", lambda index: True)
        monkeypatch.setattr(indexing, "open_engine", lambda index: self.engine)

    def feed(self, **changes: bool) -> FeedReport:
        return feed(replace(self.options, **changes), io.StringIO())

    def known(self) -> set[str]:
        with Ledger.open(self.ledger) as ledger:
            return {f"d{n:02}" for n in range(30) if ledger.get(f"d{n:02}") is not None}


@pytest.fixture
def fed(vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fed:
    return Fed(vectors, tmp_path, monkeypatch)


def test_full_disk_keeps_what_was_acknowledged_and_goes_on(fed: Fed) -> None:
    fed.engine.full_after = 17
    with pytest.raises(EngineError, match="disk is full"):
        fed.feed()
    assert len(fed.engine.documents) == 16  # four whole batches
    assert fed.known() == set(fed.engine.documents)
    assert fed.engine.finished == 0
    fed.engine.full_after = None
    report = fed.feed()
    assert (report.fed, report.unchanged) == (14, 16)
    assert len(fed.engine.log) == 30  # nothing twice
    assert fed.known() == set(fed.engine.documents)


def test_refused_documents_are_reported_and_tried_again(fed: Fed) -> None:
    fed.engine.refuse = {"d03", "d29"}
    report = fed.feed()
    assert (report.fed, report.rejected, report.complete) == (28, 2, False)
    assert report.report_path is not None
    with report.report_path.open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert rows == {"d03": "refused, as told", "d29": "refused, as told"}
    assert "d03" not in fed.known()
    fed.engine.refuse = set()
    report = fed.feed()
    assert (report.fed, report.unchanged, report.rejected) == (2, 28, 0)


def test_refused_deletes_are_reported(fed: Fed, vectors: Path) -> None:
    fed.feed()
    rows = pd.read_parquet(vectors)
    rows[rows["id"] > "d01"].to_parquet(vectors)
    fed.engine.refuse = {"d00"}
    report = fed.feed(prune=True)
    assert (report.removed, report.rejected) == (1, 1)
    assert "d00" in fed.engine.documents
    fed.engine.refuse = set()
    assert fed.feed(prune=True).removed == 1
    assert set(fed.engine.documents) == fed.known()


def test_update_of_a_document_that_is_gone_is_mended_by_the_next_feed(
    fed: Fed, vectors: Path
) -> None:
    fed.feed()
    rows = pd.read_parquet(vectors)
    rows["caption"] = "all new"
    rows.to_parquet(vectors)
    # As many documents as before, so that counting alone shows nothing.
    fed.engine.documents["foreign"] = replace(fed.engine.documents.pop("d05"), id="foreign")
    report = fed.feed()
    assert (report.updated, report.rejected) == (29, 1)
    report = fed.feed()
    assert (report.fed, report.unchanged) == (1, 29)
    assert fed.engine.documents["d05"].captions == ("all new",)


@pytest.mark.parametrize("moment", [0, 1, 13, 30])
def test_ctrl_c_in_the_engine_keeps_what_it_acknowledged(fed: Fed, moment: int) -> None:
    whole = fed.engine.feed

    def interrupted(operations: Iterator[Operation]) -> Iterator[object]:
        for number, outcome in enumerate(whole(operations)):
            if number == moment:
                raise KeyboardInterrupt
            yield outcome
        raise KeyboardInterrupt

    fed.engine.feed = interrupted  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        fed.feed()
    known = fed.known()
    assert len(known) == min(moment, 30)
    assert known <= set(fed.engine.documents)
    fed.engine.feed = whole  # type: ignore[method-assign]
    assert fed.feed().fed == 30 - len(known)


def test_ctrl_c_between_forgetting_and_deleting(fed: Fed, vectors: Path) -> None:
    fed.feed()
    pd.read_parquet(vectors).head(20).to_parquet(vectors)
    whole = fed.engine.feed

    def interrupted(operations: Iterator[Operation]) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    fed.engine.feed = interrupted  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        fed.feed(prune=True)
    assert len(fed.known()) == 20 < len(fed.engine.documents)
    fed.engine.feed = whole  # type: ignore[method-assign]
    assert fed.feed(prune=True).removed == 10


def test_a_second_feed_at_the_same_time_is_refused(fed: Fed) -> None:
    with Ledger.open(fed.ledger), pytest.raises(EngineError, match="another feed"):
        fed.feed()


# A real index and the real command line


def make_photos(folder: Path, count: int) -> Path:
    chance = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = chance.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{number:04}.jpg")
    rows = {
        "image": [f"{number:04}.jpg" for number in range(count)],
        "caption": [f"picture {number} of {number % 7}" for number in range(count)],
        "year": [2000 + number % 20 for number in range(count)],
    }
    pd.DataFrame(rows).to_csv(folder / "photos.csv", index=False)
    return folder / "photos.csv"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("faults") / "photos", 400)


def feed_command(
    manifest: Path, encoder: Path, index: Path, program: Sequence[str] = CLIPSEARCH
) -> list[str]:
    command = [*program, "feed", manifest, "--encoder", encoder]
    return [*map(str, command), "--index", str(index), "--workers", "1", "--batch-size", "8"]


def documents(index: Path) -> dict[str, Document]:
    engine = open_engine(str(index))
    try:
        assert engine.count() == sum(1 for _ in engine.visit())
        return {document.id: document for document in engine.visit(embeddings=True)}
    finally:
        engine.close()


def assert_same(found: dict[str, Document], expected: dict[str, Document]) -> None:
    assert set(found) == set(expected)
    for name, document in expected.items():
        assert document.embedding is not None
        other = found[name].embedding
        assert other is not None
        # Batches are cut elsewhere after a stop, and sums are then rounded otherwise.
        np.testing.assert_allclose(other, document.embedding, atol=1e-5)
        assert replace(found[name], embedding=None) == replace(document, embedding=None)


@pytest.fixture(scope="module")
def whole(
    manifest: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Document], float]:
    """What a feed without interruption gives, and the seconds that it takes."""
    index = tmp_path_factory.mktemp("whole") / "photos.index"
    started = time.monotonic()
    done = subprocess.run(
        feed_command(manifest, encoder_folder, index), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return documents(index), time.monotonic() - started


def killed_at(moments: list[float], manifest: Path, encoder: Path, index: Path) -> None:
    """Kill a feed at each moment (seconds after its start), then let one end."""
    command = feed_command(manifest, encoder, index)
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "fed 0, updated 0, unchanged 400, removed 0, rejected 0" in again.stdout


def test_killed_at_two_moments(
    manifest: Path, encoder_folder: Path, whole: tuple[dict[str, Document], float], tmp_path: Path
) -> None:
    expected, seconds = whole
    index = tmp_path / "photos.index"
    killed_at([0.5 * seconds, 0.6 * seconds], manifest, encoder_folder, index)
    assert_same(documents(index), expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_twenty_random_moments(
    manifest: Path, encoder_folder: Path, whole: tuple[dict[str, Document], float], tmp_path: Path
) -> None:
    expected, seconds = whole
    chance = random.Random(0)
    for trial in range(10):
        index = tmp_path / f"photos-{trial}.index"
        moments = [chance.uniform(0.1, 1.0) * seconds for _ in range(2)]
        killed_at(moments, manifest, encoder_folder, index)
        assert_same(documents(index), expected)
        shutil.rmtree(index)


def test_ctrl_c_stops_promptly_without_children(
    manifest: Path, encoder_folder: Path, whole: tuple[dict[str, Document], float], tmp_path: Path
) -> None:
    index = tmp_path / "photos.index"
    process = subprocess.Popen(
        feed_command(manifest, encoder_folder, index, FRESH_CLIPSEARCH),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    children: list[psutil.Process] = []
    # Whatever else is started before (to ask for the processor's name, say) is no sign of a feed.
    while not children and process.poll() is None and time.monotonic() < deadline:
        children = workers_running(process.pid)
        time.sleep(0.02)
    assert children, "no decoding process was seen"
    stopped = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "the same command goes on from here" in errors
    assert time.monotonic() - stopped < 10
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    killed_at([], manifest, encoder_folder, index)
    assert_same(documents(index), whole[0])


@pytest.mark.parametrize("stage", ["decode_ahead", "encode_pixels"])
def test_an_error_in_a_stage_reaches_the_caller(
    stage: str,
    manifest: Path,
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    if stage == "decode_ahead":
        whole_stage = pipeline.decode_ahead

        def breaking(*arguments: object, **options: object) -> Iterator[object]:
            for number, image in enumerate(whole_stage(*arguments, **options)):  # type: ignore[arg-type]
                if number == 100:
                    raise MemoryError("no memory left")
                yield image

        monkeypatch.setattr(pipeline, "decode_ahead", breaking)
    else:
        encode_pixels = Encoder.encode_pixels

        def refusing(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls > 10:
                raise MemoryError("no memory left")
            return encode_pixels(encoder, pixels)

        monkeypatch.setattr(Encoder, "encode_pixels", refusing)
    index = tmp_path / "photos.index"
    options = FeedOptions(
        manifest=manifest, index=str(index), encoder=encoder_folder, workers=0, batch_size=8
    )
    with pytest.raises(MemoryError):
        feed(options, io.StringIO())
    with Ledger.open(index / "ledger.sqlite") as ledger:
        known = len(ledger)
    # What was on its way is written. Threads take batches of four by turns, so that the eleventh
    # call may be for one of those before.
    assert 24 <= known <= 100
    monkeypatch.undo()
    report = feed(options, io.StringIO())
    assert (report.fed, report.unchanged) == (400 - known, known)


def test_an_index_whose_making_was_cut_off_is_made_anew(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    index = tmp_path / "vectors.index"
    options = FeedOptions(manifest=vectors, index=str(index))
    monkeypatch.setattr(local, "write_info", killed)
    with pytest.raises(KeyboardInterrupt):
        feed(options, io.StringIO())
    monkeypatch.undo()
    (index / "index.json.1234abcd.tmp").write_text("{")
    assert (index / "documents.sqlite").exists()
    assert feed(options, io.StringIO()).fed == 30
    # Without its description, what was fed is still nothing to clear away.
    (index / "index.json").unlink()
    with pytest.raises(EngineError, match="no index there"):
        feed(options, io.StringIO())
    assert (index / "documents.sqlite").exists()


FILL_THE_DISK = """
mount -t tmpfs -o size={small} tmpfs {disk} || exit 99
{command} > {out}/1.out 2> {out}/1.err
echo $? > {out}/1.code
mount -o remount,size=500m {disk}
{command} > {out}/2.out 2> {out}/2.err
echo $? > {out}/2.code
cp -r {disk}/photos.index {out}/photos.index
"""


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    count, dimension = 4000, 128
    chance = np.random.default_rng(0)
    rows = {
        "id": [f"d{number}" for number in range(count)],
        "caption": [f"caption {number}" for number in range(count)],
        "embedding": list(chance.normal(size=(count, dimension)).astype(np.float32)),
    }
    vectors = tmp_path / "vectors.parquet"
    pd.DataFrame(rows).to_parquet(vectors)
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    command = f"{sys.executable} -m clipsearch feed {vectors} --index {disk}/photos.index"
    script = FILL_THE_DISK.format(small="2m", disk=disk, out=out, command=command)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or not (out / "1.code").exists():
        pytest.skip("this machine does not let us mount a small disk")
    assert (out / "1.code").read_text().strip() == "1"
    errors = (out / "1.err").read_text()
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "full" in sentence.lower() or "no space" in sentence.lower()
    assert (out / "2.code").read_text().strip() == "0", (out / "2.err").read_text()
    assert "rejected 0" in (out / "2.out").read_text()
    assert len(documents(out / "photos.index")) == count
