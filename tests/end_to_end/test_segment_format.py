"""What was written since documents come into segments opens, answers and is changed."""

import io
import json
import shutil
from pathlib import Path

import pytest

from clipsearch.engines import open_engine
from clipsearch.engines.local.checksums import verify
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.search.search import Search
from finetune.encoder_folder import check_fingerprint, read_description

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
KEPT = FIXTURES / "segment-format"


@pytest.fixture(params=["segment-format", "signs-format"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of what was kept, to be changed: of encoder and pictures the index of either form."""
    copied = shutil.copytree(KEPT, tmp_path / "photos")
    shutil.rmtree(copied / "index")
    shutil.copytree(FIXTURES / request.param / "index", copied / "index")
    return copied


def assert_the_same_answers(index: Path) -> None:
    kept = json.loads((KEPT / "answers.json").read_text(encoding="utf-8"))
    with Search.open(index) as search:
        for each in kept:
            hits = search.query(**each["asked"]).hits
            found = [(hit.document.id, hit.score) for hit in hits]
            assert found == [(id, pytest.approx(score, abs=1e-4)) for id, score in each["hits"]]


def test_encoder_and_index_open_and_answer_as_they_did(folder: Path) -> None:
    check_fingerprint(folder / "encoder", read_description(folder / "encoder"))
    assert_the_same_answers(folder / "index")
    with Search.open(folder / "index") as search:
        hit = search.query(image=folder / "images" / "5.png", k=1).hits[0]
        assert hit.document.id == "images/5.png" and hit.cosine == pytest.approx(1, abs=1e-4)
        assert hit.image == folder / "images" / "5.png"


def test_a_feed_encodes_nothing_anew_and_changes_what_has_changed(folder: Path) -> None:
    options = FeedOptions(manifest=folder / "photos.csv", index=str(folder / "index"), workers=0)
    report = feed(options, progress_stream=io.StringIO())
    # Later versions may write to a document what is new: nothing is encoded for it.
    assert (report.fed, report.removed, report.rejected) == (0, 0, 0)
    assert report.images_per_second == 0
    assert_the_same_answers(folder / "index")
    manifest = folder / "photos.csv"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("a black cat at the house 1,", "a white cat,"), "utf-8")
    report = feed(options, progress_stream=io.StringIO())
    assert (report.fed, report.updated, report.unchanged) == (0, 1, 11)
    engine = open_engine(str(folder / "index"))
    try:
        (document,) = engine.get(["images/1.png"])
    finally:
        engine.close()
    assert document is not None and document.captions == ("a white cat",)


@pytest.mark.parametrize("folder", ["segment-format"], indirect=True)
def test_codes_of_then_are_checked_and_laid_out_anew_by_a_feed(folder: Path) -> None:
    index = folder / "index"
    (earlier,) = index.glob("codes-*.bits")
    assert not verify(index).broken
    kept = earlier.read_bytes()
    earlier.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    assert list(verify(index).broken) == [earlier]
    earlier.write_bytes(kept)
    options = FeedOptions(manifest=folder / "photos.csv", index=str(index), workers=0)
    manifest = folder / "photos.csv"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("a black cat at the house 1,", "a white cat,"), "utf-8")
    feed(options, progress_stream=io.StringIO())
    assert not earlier.exists() and list(index.glob("codes-*.signs"))
    assert not verify(index).broken
