"""A manifest that is the same to the byte: nothing is parsed, nothing written, all is looked at."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CLIPSEARCH
from small_pictures import Manifest, counts, paint

from clipsearch.documents import DOCUMENT_FORM
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.feed.unchanged import FilesHash, all_as_stamped
from finetune.manifest import manifest as manifest_module

Parsed = list[Path]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """Which manifests were parsed."""
    paths: Parsed = []
    recognise = manifest_module.recognise

    def counted(path: Path, *options: Any) -> object:
        paths.append(path)
        return recognise(path, *options)

    monkeypatch.setattr(manifest_module, "recognise", counted)
    return paths


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.csv"
    rows = {"id": [f"d{n}" for n in range(20)], "caption": [f"caption {n}" for n in range(20)]}
    pd.DataFrame(rows).to_csv(path, index=False)
    chance = np.random.default_rng(0)
    np.save(path.with_suffix(".npy"), chance.normal(size=(20, 8)).astype(np.float32))
    return path


@pytest.fixture
def feed_vectors(vectors: Path, tmp_path: Path) -> Callable[..., FeedReport]:
    def fed(**options: object) -> FeedReport:
        values = {"manifest": vectors, "index": str(tmp_path / "v.index"), **options}
        return feed(FeedOptions(**values))  # type: ignore[arg-type]

    return fed


def test_nothing_is_parsed_and_nothing_written(
    feed_vectors: Callable[..., FeedReport], tmp_path: Path, parsed: Parsed
) -> None:
    assert feed_vectors().fed == 20
    before = contents(tmp_path)
    parsed.clear()
    for options in ({}, {"prune": True}):
        report = feed_vectors(**options)
        assert counts(report) == (0, 0, 20, 0, 0)
        assert report.complete
    assert parsed == []
    assert contents(tmp_path) == before


def test_an_index_of_fewer_fields_becomes_one_of_today_once(
    feed_vectors: Callable[..., FeedReport], tmp_path: Path, parsed: Parsed
) -> None:
    feed_vectors()
    engine = LocalEngine.open(tmp_path / "v.index")
    engine.change_info(lambda info: replace(info, document_form=DOCUMENT_FORM - 1))
    engine.close()
    report = feed_vectors()
    assert (counts(report), report.notes) == ((0, 0, 20, 0, 0), ())
    with closing(LocalEngine.open(tmp_path / "v.index")) as engine:
        assert engine.info.document_form == DOCUMENT_FORM
    parsed.clear()
    feed_vectors()
    assert parsed == []


@pytest.mark.parametrize("name", ["vectors.csv", "vectors.npy"])
def test_one_byte_changed_with_size_and_time_kept(
    feed_vectors: Callable[..., FeedReport], vectors: Path, name: str
) -> None:
    feed_vectors()
    path = vectors.with_name(name)
    status, held = path.stat(), bytearray(path.read_bytes())
    held[-2] ^= 1
    path.write_bytes(held)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counts(feed_vectors()) == (0, 1, 19, 0, 0)
    assert counts(feed_vectors()) == (0, 0, 20, 0, 0)


def test_another_wish_is_looked_into(
    feed_vectors: Callable[..., FeedReport], parsed: Parsed
) -> None:
    feed_vectors()
    parsed.clear()
    assert feed_vectors(id_prefix="a/").fed == 20
    assert counts(feed_vectors(id_prefix="a/", prune=True)) == (0, 0, 20, 20, 0)
    assert len(parsed) == 2


def test_a_document_that_was_deleted_is_fed_again(
    feed_vectors: Callable[..., FeedReport], tmp_path: Path
) -> None:
    feed_vectors()
    arguments = ["delete", "d7", "--yes", "--index", str(tmp_path / "v.index")]
    done = subprocess.run([*CLIPSEARCH, *arguments], check=False)
    assert done.returncode == 0
    assert counts(feed_vectors()) == (1, 0, 19, 0, 0)


def test_an_index_that_is_made_anew_is_filled(
    feed_vectors: Callable[..., FeedReport], tmp_path: Path
) -> None:
    ledger = tmp_path / "elsewhere.sqlite"
    feed_vectors(ledger=ledger)
    shutil.rmtree(tmp_path / "v.index")
    assert feed_vectors(ledger=ledger).fed == 20


def test_problems_are_told_each_time(
    feed_vectors: Callable[..., FeedReport], vectors: Path
) -> None:
    text = vectors.read_text().replace("d3,caption 3", "d3,")
    vectors.write_text(text)
    for _ in range(2):
        report = feed_vectors()
        assert report.problems == {"empty caption": 1}
        assert report.report_path is not None and report.report_path.exists()


def test_a_report_of_an_earlier_feed_goes(
    feed_vectors: Callable[..., FeedReport], tmp_path: Path
) -> None:
    feed_vectors()
    report = tmp_path / "v.index" / "feed-report.csv"
    report.write_text("id,kind,reason\n")
    feed_vectors()
    assert not report.exists()


# Images


def test_each_image_is_looked_at(tmp_path: Path, encoder_folder: Path, parsed: Parsed) -> None:
    (tmp_path / "photos").mkdir()
    photos = Manifest(tmp_path / "photos", {})
    for number in range(4):
        paint(photos.folder / "images" / f"p{number}.png", number)
        photos.captions[f"p{number}.png"] = f"image {number}"
    photos.write()
    index = tmp_path / "p.index"

    def fed() -> tuple[int, int, int, int, int]:
        return counts(photos.feed(index, encoder_folder))

    assert fed() == (4, 0, 0, 0, 0)
    parsed.clear()
    assert fed() == (0, 0, 4, 0, 0)
    assert parsed == []
    # Another image of the same size and time.
    path = photos.folder / "images" / "p2.png"
    status = path.stat()
    paint(path, 77)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fed() == (0, 1, 3, 0, 0)
    # One that is found before that of the same name.
    paint(photos.folder / "p1.png", 78)
    assert fed() == (0, 1, 3, 0, 0)
    (photos.folder / "images" / "p3.png").unlink()
    assert photos.feed(index, encoder_folder).problems == {"missing file": 1}


def test_stamps_of_other_forms_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"12345")
    s = path.stat()
    stamp = f"{path}@0 5 {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"
    assert all_as_stamped([stamp], [])
    for other in ("", f"{path}@0 5 {s.st_mtime_ns}", stamp.replace("@0", "@7"), stamp + "1"):
        assert not all_as_stamped([other], [])
    bare = tmp_path / "101"
    bare.write_bytes(b"1")
    s = bare.stat()
    assert not all_as_stamped([f"{bare}@0 1 {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"], [])


def test_a_file_that_changes_while_it_is_hashed_has_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("a")
    files = FilesHash([path])
    path.write_text("ab")
    assert files.result() is None
    assert FilesHash([path]).result() == FilesHash([path]).result() is not None
    assert FilesHash([tmp_path / "none"]).result() is None
