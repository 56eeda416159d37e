"""`import clipsearch`: what it offers."""

import shutil
from pathlib import Path

from PIL import Image

import clipsearch
import finetune


def test_dir_shows_the_public_names() -> None:
    assert dir(clipsearch) == sorted(clipsearch.__all__)
    assert dir(finetune) == sorted(finetune.__all__)
    for package in (clipsearch, finetune):
        assert all(getattr(package, name) is not None for name in dir(package))


def test_feed_and_open_are_the_whole_road(tmp_path: Path, encoder_folder: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "a.png")
    index = tmp_path / "pictures.index"
    report = clipsearch.feed(tmp_path / "pictures", index, encoder=encoder_folder, workers=0)
    assert report.fed == 1
    with clipsearch.open(index) as search:
        (hit,) = search.query("a red square").hits
        assert hit.image == (tmp_path / "pictures" / "a.png").resolve()
        assert search.similar("a.png").hits == ()


def test_an_index_finds_encoder_and_images_that_moved_with_it(
    tmp_path: Path, encoder_folder: Path
) -> None:
    before = tmp_path / "before"
    (before / "pictures").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(before / "pictures" / "a.png")
    shutil.copytree(encoder_folder, before / "encoder")
    clipsearch.feed(before / "pictures", before / "p.index", encoder=before / "encoder", workers=0)
    after = tmp_path / "elsewhere" / "after"
    after.parent.mkdir()
    before.rename(after)
    with clipsearch.open(after / "p.index") as search:
        (hit,) = search.query("a red square").hits
        assert hit.image == (after / "pictures" / "a.png").resolve()
    # A feed from there changes nothing, and remembers the new place.
    assert clipsearch.feed(after / "pictures", after / "p.index", workers=0).unchanged == 1
