"""What a manifest no longer has is told until it is pruned, which it is unless it may be hidden."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_pictures import counts, documents, paint

from clipsearch.cli.feed import summary
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.removal import Hidden
from clipsearch.feed.report import FeedReport
from finetune.manifest.formats import folder as image_folder
from finetune.manifest.image_lookup import id_outside
from finetune.manifest.problems import Problems

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


def test_a_picture_that_cannot_be_taken_keeps_its_own_document_alone(
    encoder_folder: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "IMAGE_SUFFIXES", {".jpg"})  # as HEIC without the extra
    (folder / "c.jpg").unlink()
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert report.problems == {"picture not taken": 1}
    assert report.notes[-1] == (
        "1 document stays that photos no longer has; feed with --prune to remove it"
    )
    report = feed_folder(folder, encoder_folder, tmp_path, prune=True)
    assert counts(report) == (0, 0, 2, 1, 0)
    assert report.notes[-1] == (
        "1 document stays, of pictures that could not be taken (picture not taken: 1; the report"
        " names them)"
    )
    assert "phone.png: is a picture by its content" in summary(report)
    assert set(documents(tmp_path / "p.index")) == {"a.jpg", "below/b.jpg", "phone.png"}


def test_so_does_a_folder_that_became_a_link_for_all_below_it(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "below").rename(tmp_path / "elsewhere")
    (folder / "below").symlink_to(tmp_path / "elsewhere")
    (folder / "a.jpg").unlink()
    report = feed_folder(folder, encoder_folder, tmp_path, prune=True)
    assert (report.removed, report.problems) == (1, {"linked folder": 1})
    assert set(documents(tmp_path / "p.index")) == {"below/b.jpg", "c.jpg", "phone.png"}


def test_rows_of_a_table_keep_their_documents_by_id_also_with_a_prefix(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    table = tmp_path / "t.csv"
    rows = ["id,image,caption", "one,photos/a.jpg,1", "one,photos/a.jpg,2", "two,photos/c.jpg,3"]

    def fed(*lines: bytes | str, **options: object) -> FeedReport:
        table.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
        values = {"manifest": table, "index": str(tmp_path / "t.index"), "workers": 0, **options}
        return feed(FeedOptions(encoder=encoder_folder, id_prefix="t/", **values))  # type: ignore[arg-type]

    assert fed(*rows, "three,photos/below/b.jpg,4").fed == 3
    (folder / "a.jpg").unlink()
    # A row that nobody can read might be of any document.
    report = fed(*rows, b"three,photos/below/b.jpg,\xff", prune=True)
    assert report.removed == 0 and "nothing was pruned" in report.notes[-1]
    assert "not utf-8: 1; the first: t.csv:5: the row is not UTF-8" in report.notes[-1]
    assert "clipsearch delete" in report.notes[-1]
    report = fed(*rows, prune=True)
    assert (report.removed, report.problems) == (1, {"missing file": 1})
    assert set(documents(tmp_path / "t.index")) == {"t/one", "t/two"}


@pytest.mark.parametrize("prefix", ["", "t/"])
def test_absolute_paths_keep_their_documents_where_the_folder_of_images_is_gone(
    encoder_folder: Path, tmp_path: Path, prefix: str
) -> None:
    pictures = tmp_path / "disk" / "pictures"
    table = tmp_path / "tables" / "t.csv"
    files = [
        table.parent / "here.png",
        *(pictures / name for name in ("a.png", "b/b.png", "c.png")),
    ]
    for number, file in enumerate(files):
        paint(file, number)

    def fed(count: int, **options: object) -> FeedReport:
        table.write_text("".join(f"{row}\n" for row in ["image", *files[:count]]))
        values = {"manifest": table, "index": str(tmp_path / "t.index"), "workers": 0, **options}
        return feed(FeedOptions(encoder=encoder_folder, **values))  # type: ignore[arg-type]

    assert fed(4, images=pictures, id_prefix=prefix).fed == 4
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    assert fed(3).notes[-1].startswith("1 document stays that t.csv no longer has")
    report = fed(3, prune=True)
    assert (report.removed, report.problems) == (1, {"missing file": 2})
    kept = {f"{prefix}{name}" for name in ("here.png", "a.png", "b/b.png")}
    assert set(documents(tmp_path / "t.index")) == kept
    # Another prefix replaces the document of what is there alone.
    assert fed(3, prune=True, id_prefix="u/").removed == 1


def test_an_absolute_path_hides_what_its_document_may_be_called_and_nothing_else() -> None:
    path = "/disk/Zoe\u0301/a.png"
    problems = Problems()
    problems.add("missing file", "t.csv:2", "gone", path)
    problems.add("missing file", "t.csv:3", "gone", "C:/disk/b.png")
    hidden = Hidden.by(problems, "t/")
    meant = ["a.png", "Zo\xe9/a.png", "disk/Zoe\u0301/a.png", id_outside(path), "disk/b.png"]
    meant.append(id_outside("/disk/Zo\xe9/a.png"))
    assert all(hidden.holds(f"t/{id}") for id in meant)
    others = ["", "a.jpg", "other/a.png", "aa.png", "a.png/a.png", "Zo\xe9", "a-00000000.png"]
    assert not any(hidden.holds(f"t/{id}") for id in others)


def test_a_hidden_id_that_the_manifest_has_is_not_taken_for_one_that_it_lacks(
    encoder_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        paint(tmp_path / name, number)

    def fed(*rows: str) -> FeedReport:
        table.write_text("\n".join(["id,image", *rows]))
        index = str(tmp_path / "t.index")
        return feed(FeedOptions(manifest=table, index=index, encoder=encoder_folder, workers=0))

    fed("one,a.png", "two,b.png", "three,c.png")
    told = "1 document stays that t.csv no longer has; feed with --prune to remove it"
    for _ in range(2):
        report = fed("one,a.png", "one,gone.png", "two,lost.png")
        assert (report.problems, report.notes[-1]) == ({"missing file": 2}, told)


@pytest.fixture
def folder(encoder_folder: Path, tmp_path: Path) -> Path:
    """Pictures without captions, which are fed, and a drawing, which is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.jpg", "below/b.jpg", "c.jpg", "phone.png")):
        paint(folder / name, 40 * number)
    (folder / "drawing.svg").write_text("<svg/>")
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert (report.fed, report.complete) == (4, True)
    assert report.notes[0].startswith("drawing.svg: is a drawing")
    return folder


def feed_folder(folder: Path, encoder: Path, place: Path, **options: bool) -> FeedReport:
    index = str(place / "p.index")
    return feed(FeedOptions(manifest=folder, index=index, encoder=encoder, workers=0, **options))


def test_a_drawing_is_no_problem_and_keeps_nothing_from_being_pruned(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "a.jpg").unlink()
    shutil.copy(folder / "c.jpg", folder / "c again.jpg")
    report = feed_folder(folder, encoder_folder, tmp_path, prune=True)
    assert counts(report) == (1, 0, 3, 1, 0)
    assert "Of these, 1 equal" in summary(report)
    assert report.complete


def test_a_drawing_with_a_caption_was_meant_to_be_taken(
    encoder_folder: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "drawing.txt").write_text("its caption")
    report = feed_folder(folder, encoder_folder, tmp_path)
    assert report.problems == {"picture not taken": 1}
