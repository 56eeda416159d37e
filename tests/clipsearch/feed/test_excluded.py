"""What a feed leaves out because it was told to, and how the index remembers that."""

from pathlib import Path

import numpy as np
import pytest
from small_pictures import counts, documents, paint

from clipsearch import cli
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures, a broken one, an empty one and drafts."""
    root = tmp_path / "Pictures"
    for number, name in enumerate(("a.jpg", "b.jpg", "2019/c.jpg", "drafts/d.jpg")):
        paint(root / name, number)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (root / "empty.jpg").touch()
    return root


def fed(folder: Path, encoder: Path | None, **options: object) -> FeedReport:
    values = {"manifest": folder, "index": f"{folder.parent}/p.index", "workers": 0, **options}
    return feed(FeedOptions(encoder=encoder, **values))  # type: ignore[arg-type]


def test_it_is_remembered_said_and_taken_back(folder: Path, encoder_folder: Path) -> None:
    first = fed(folder, encoder_folder)
    assert (first.fed, first.rejected, first.complete) == (4, 2, False)
    patterns = ("/broken.jpg", "empty.*", "drafts/")
    told = "--exclude /broken.jpg --exclude 'empty.*' --exclude drafts/ leaves out 3 (remembered"
    for given in (patterns, None):
        report = fed(folder, None, exclude=given)
        assert (report.unchanged, report.complete) == (3, True)
        assert report.notes[0].startswith(told)
        assert report.notes[1].startswith("1 document stays that Pictures no longer has")
    assert counts(fed(folder, None, prune=True)) == (0, 0, 3, 1, 0)
    assert set(documents(folder.parent / "p.index")) == {"a.jpg", "b.jpg", "2019/c.jpg"}
    assert counts(fed(folder, None, exclude=())) == (1, 0, 3, 0, 2)
    assert fed(folder, None).notes == ()


def test_so_is_all_that_a_feed_was_told_where_folder_and_index_are_moved_together(
    folder: Path, encoder_folder: Path
) -> None:
    patterns = ("/broken.jpg", "empty.*", "drafts/")
    first = fed(folder, encoder_folder, exclude=patterns, exif=True, folder_tags="levels")
    assert (first.fed, first.complete) == (3, True)
    place = folder.parent / "moved"
    place.mkdir()
    (folder.parent / "p.index").rename(place / "p.index")
    moved = folder.rename(place / "Pictures")
    for options in ({}, {"exclude": patterns, "exif": True, "folder_tags": "levels"}):
        report = fed(moved, None, **options)
        assert (counts(report), report.complete) == ((0, 0, 3, 0, 0), True)
        assert any("leaves out 3 (remembered" in note for note in report.notes)


def test_of_a_table_the_rows_of_images_are_left_out_also_beside_vectors(
    tmp_path: Path, encoder_folder: Path
) -> None:
    (tmp_path / "v.csv").write_text("image,caption\nraw/a.jpg,a\nb.jpg,b\nraw/c.jpg,c\n")
    np.save(tmp_path / "v.npy", np.eye(3, 8, dtype=np.float32))
    index = str(tmp_path / "v.index")
    for expected in ((1, 0), (0, 1)):
        report = feed(FeedOptions(manifest=tmp_path / "v.csv", index=index, exclude=("raw/",)))
        assert (report.fed, report.unchanged) == expected
        assert "--exclude raw/ leaves out 2 (remembered" in report.notes[0]
    (document,) = documents(index).values()
    assert (document.id, document.embedding.tolist()) == ("b.jpg", [0, 1, 0, 0, 0, 0, 0, 0])


def test_the_command_line_the_file_and_the_environment_say_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*arguments: str) -> tuple[int, str]:
        code = cli._run(["manifest", "check", str(folder), *arguments], debug=False)
        said = capsys.readouterr()
        return code, said.out + said.err

    assert check()[0] == 3
    code, said = check("--exclude", "broken.jpg", "--exclude", "empty.jpg")
    assert code == 0 and "2 left out" in said
    monkeypatch.chdir(folder.parent)
    Path("clipsearch.toml").write_text('exclude = ["broken.jpg", "empty.jpg"]\n')
    assert check()[0] == 0
    assert check("--no-exclude")[0] == 3
    monkeypatch.setenv("CLIPSEARCH_EXCLUDE", "*.jpg")
    code, said = check()
    assert code == 1 and "--exclude leaves out all that could be taken" in said
    said = " ".join(check("--help")[1].split())
    assert "index remembers" not in said and "last feed" not in said and "[default: path]" in said
    code, said = check("--exclude", " ")
    assert code == 2 and "--exclude is empty" in said
