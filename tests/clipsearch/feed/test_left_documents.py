"""What a manifest no longer has is told until it is pruned, which it is unless it may be hidden."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_pictures import counts, paint

from clipsearch.cli.feed import summary
from clipsearch.feed.feed import FeedOptions, feed
from clipsearch.feed.report import FeedReport

Feed = Callable[..., FeedReport]


def write(path: Path, ids: list[str], **columns: str) -> None:
    pd.DataFrame({"id": ids, "caption": ids, **columns}).to_csv(path, index=False)
    chance = np.random.default_rng(0)
    vectors = {f"d{n}": chance.normal(size=8).astype(np.float32) for n in range(9)}
    np.save(path.with_suffix(".npy"), np.stack([vectors[name] for name in ids]))


@pytest.fixture
def fed(tmp_path: Path) -> Feed:
    """A feed of v.csv, which held five documents at first."""
    write(tmp_path / "v.csv", [f"d{n}" for n in range(5)])

    def again(**options: bool) -> FeedReport:
        return feed(
            FeedOptions(manifest=tmp_path / "v.csv", index=str(tmp_path / "v.index"), **options)
        )

    assert again().notes == ()
    return again


@pytest.mark.parametrize("columns", [{}, {"class": "new"}])
def test_it_is_told_at_each_feed_until_it_is_pruned(
    fed: Feed, tmp_path: Path, columns: dict[str, str]
) -> None:
    write(tmp_path / "v.csv", ["d0", "d3", "d4", "d7"], **columns)
    told = "2 documents stay that v.csv no longer has; feed with --prune to remove them"
    for _ in range(3):
        assert fed().notes == (told,)
    report = fed(prune=True)
    assert (report.removed, report.notes) == (2, ())
    assert fed().notes == ()


def test_one_document_is_told_of_too(fed: Feed, tmp_path: Path) -> None:
    write(tmp_path / "v.csv", ["d0", "d1", "d2", "d3"])
    assert fed().notes == (
        "1 document stays that v.csv no longer has; feed with --prune to remove it",
    )


def test_where_problems_may_hide_it_none_is_said_to_be_gone(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "a.jpg").unlink()
    (folder / "b.heif_large").write_bytes((folder / "b.jpg").read_bytes())
    (folder / "b.jpg").unlink()
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert report.notes[-1] == (
        "2 documents stay that photos does not have, or its problems hide (picture not taken: 1)"
    )
    report = feed_folder(folder, encoder_folder, tmp_path, prune=True)
    assert report.removed == 0
    assert "nothing was pruned" in report.notes[-1] and "clipsearch delete" in report.notes[-1]
    assert "b.heif_large: is a picture by its content" in summary(report)


@pytest.fixture
def folder(encoder_folder: Path, tmp_path: Path) -> Path:
    """Pictures without captions, which are fed, and a drawing, which is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a", "b", "c")):
        paint(folder / f"{name}.jpg", 40 * number)
    (folder / "drawing.svg").write_text("<svg/>")
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert (report.fed, report.complete) == (3, True)
    assert report.notes[0].startswith("drawing.svg: is a drawing")
    return folder


def feed_folder(folder: Path, encoder: Path, place: Path, **options: bool) -> FeedReport:
    index = str(place / "p.index")
    return feed(FeedOptions(manifest=folder, index=index, encoder=encoder, workers=0, **options))


def test_a_drawing_is_no_problem_and_keeps_nothing_from_being_pruned(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "a.jpg").unlink()
    shutil.copy(folder / "b.jpg", folder / "b again.jpg")
    report = feed_folder(folder, encoder_folder, tmp_path, prune=True)
    assert counts(report) == (1, 0, 2, 1, 0)
    assert "Of these, 1 equal" in summary(report)
    assert report.complete


def test_a_drawing_with_a_caption_was_meant_to_be_taken(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "drawing.txt").write_text("its caption")
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert report.problems == {"picture not taken": 1}
