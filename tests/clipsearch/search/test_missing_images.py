"""Pictures that moved away are told of where they are shown, and what mends it."""

import tarfile
from pathlib import Path

import pytest
from small_pictures import Manifest as Photos

from clipsearch import cli
from clipsearch.cli.serve import _missing_images
from clipsearch.engine import IndexInfo
from clipsearch.search.images import ImageFolders
from clipsearch.search.missing_images import about_missing


def test_hits_without_their_picture_are_told_once_with_the_mend(
    tmp_path: Path, encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Photos(tmp_path / "photos", {f"{name}.jpg": 9 for name in "abc"})
    index = str(tmp_path / "p.index")
    photos.feed(index, encoder_folder)

    def said(*arguments: object) -> str:
        assert cli._run([*map(str, arguments), "--index", index], debug=False) == 0
        return capsys.readouterr().err

    assert "not found" not in said("list")
    (photos.folder / "a.jpg").rename(tmp_path / "a.jpg")
    told = (
        f"Note: 1 of these 3 pictures is not found, such as a.jpg (fed from {photos.folder}):"
        " --images FOLDER says where they lie now\n"
    )
    for arguments in (("list",), ("query", "photos", "--json"), ("list", "--paths")):
        assert said(*arguments).endswith(told)
    assert "not found" not in said("similar", "a.jpg")  # of the others
    assert "not found" not in said("list", "--images", tmp_path)
    assert "not found" not in said("list", "--quiet")
    assert f"Note: {_missing_images(index, ())}\n" == told  # which serve says when it is ready
    assert _missing_images(index, (photos.folder, tmp_path)) is None


def test_pictures_in_shards_and_behind_addresses_are_where_they_were(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w"):
        pass
    info = IndexInfo(4, encoder_fingerprint="f", images_root=str(tmp_path))
    folders = ImageFolders(info)
    held = ["s.tar/a/1.jpg", "https://example.org/1.jpg", ""]
    assert [folders.has(path) for path in held] == [True, True, False]
    assert about_missing(held, info) is None
    assert about_missing(["t.tar/1.jpg"], info) is not None
    assert about_missing(["t.tar/1.jpg"], IndexInfo(4)) is None  # of vectors, nothing was read
