"""A document has its split as a tag where somebody named splits, and else none."""

from pathlib import Path

import numpy as np
import pytest
from small_pictures import Manifest as Photos
from small_pictures import counts, documents

from clipsearch.engine import IndexInfo
from clipsearch.engines import open_engine
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.splits import held_out
from finetune.manifest.manifest import Manifest
from finetune.manifest.splits import SPLITS


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path / "photos", {f"{number}.jpg": number for number in range(4)})


def about(index: Path) -> IndexInfo:
    engine = open_engine(str(index))
    try:
        return engine.info
    finally:
        engine.close()


def test_none_is_made_until_the_manifest_names_one(
    photos: Photos, encoder_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i.index"
    assert photos.feed(index, encoder_folder).fed == 4
    assert about(index).tag_columns == ()
    assert all(not document.tags for document in documents(index).values())
    assert counts(photos.feed(index)) == (0, 0, 4, 0, 0)
    lines = photos.path.read_text().splitlines()
    photos.path.write_text("\n".join([f"{lines[0]},split", *(f"{each},val" for each in lines[1:])]))
    assert counts(photos.feed(index)) == (0, 4, 0, 0, 0)
    assert about(index).tag_columns == ("split",)
    assert {each.tags["split"] for each in documents(index).values()} == {"val"}


def test_what_an_earlier_version_fed_stays_as_it_is(
    photos: Photos, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "i.index"
    with monkeypatch.context() as earlier:
        earlier.setattr(Manifest, "names_splits", True)
        photos.feed(index, encoder_folder)
    before = documents(index)
    assert all("split" in document.tags for document in before.values())
    photos.captions["0.jpg"] = "changed"
    photos.write()
    assert counts(photos.feed(index)) == (0, 1, 3, 0, 0)
    assert documents(index)["0.jpg"].tags == before["0.jpg"].tags


def test_an_evaluation_divides_the_others_as_training_does(tmp_path: Path) -> None:
    rows = "\n".join(f"{number}.jpg,c" for number in range(60))
    (tmp_path / "v.csv").write_text(f"image,caption\n{rows}\n")
    np.save(tmp_path / "v.npy", np.ones((60, 4), np.float32))
    index = str(tmp_path / "v.index")
    feed(FeedOptions(manifest=tmp_path / "v.csv", index=index, id_prefix="v/"))
    collection = Collection.of(documents(index).values(), 4, "en")
    with Manifest.open(tmp_path / "v.csv") as manifest:
        for split in SPLITS:
            rows_of_split = held_out(collection, about(Path(index)), split)
            found = {collection.documents[row].id for row in rows_of_split}
            assert found == {f"v/{record.id}" for record in manifest.records(split)} != set()
