"""`import clipsearch`: what it offers."""

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

import clipsearch
import finetune
from clipsearch.feed.options import FeedOptions
from clipsearch.search.options import query_options


def test_dir_shows_the_public_names() -> None:
    assert dir(clipsearch) == sorted(clipsearch.__all__)
    assert dir(finetune) == sorted(finetune.__all__)
    for package in (clipsearch, finetune):
        assert all(getattr(package, name) is not None for name in dir(package))


def test_a_mistyped_option_is_named_with_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"feed\(\) has no option 'encodr'; did you mean encoder\?"):
        clipsearch.feed(tmp_path, tmp_path / "x.index", encodr="e")
    with pytest.raises(TypeError, match=r"query\(\) has no option 'fliters'; did you mean filters"):
        query_options({"fliters": {}})
    assert not (tmp_path / "x.index").exists()


def test_help_names_every_option_of_a_feed() -> None:
    text = (clipsearch.feed.__doc__ or "").partition("Options:")[2]
    asked = {each.name for each in fields(FeedOptions)}
    assert asked == {
        name for name in asked if re.search(rf"^ +[\w, ]*\b{name}\b[\w, ]*:", text, re.M)
    }


def test_feed_and_open_are_the_whole_road(
    tmp_path: Path, encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "a.png")
    index = tmp_path / "pictures.index"
    options = {"encoder": encoder_folder, "workers": 0}
    report = clipsearch.feed(tmp_path / "pictures", index, quiet=True, **options)
    assert report.fed == 1
    assert capsys.readouterr().err == ""
    with clipsearch.open(index) as search:
        assert repr(search).startswith(f"<clipsearch.Search of {index}, ")
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
