"""What the files of a webdataset sample mean."""

import json
from pathlib import Path

import pytest
from small_manifests import captions, jpeg, kinds, problems, read, tar_shard

from finetune.manifest.fields.webdataset_sample import captions_and_metadata, purpose
from finetune.manifest.splits import HashedSplit

IMAGE = jpeg((1, 2, 3))
MASK = jpeg((9, 9, 9))


def shard(tmp_path: Path, **members: object) -> Path:
    """Of members by extension, "input_jpg" for s0.input.jpg; objects become JSON."""
    found = [
        (
            f"s0.{name.replace('_', '.')}",
            each if isinstance(each, bytes) else each.encode() if isinstance(each, str)
            else json.dumps(each).encode(),
        )
        for name, each in members.items()
    ]  # fmt: skip
    return tar_shard(tmp_path / "s.tar", found)


def test_compound_extensions(tmp_path: Path) -> None:
    path = shard(tmp_path, input_jpg=IMAGE, outputs_txt="a red kite")
    manifest, (record,) = read(path)
    assert record.id == "s.tar/s0.input.jpg"
    assert record.captions == ("a red kite",)
    assert record.image is not None
    assert record.image.read() == IMAGE
    assert not manifest.problems


def test_an_id_in_the_json_is_the_id(tmp_path: Path) -> None:
    values = {"caption": "a red kite", "id": "A-17", "uid": "u1", "year": 2010}
    manifest, (record,) = read(shard(tmp_path, jpg=IMAGE, json=values))
    assert record.id == "A-17"
    assert record.earlier_id == "s.tar/s0.jpg"
    assert record.path == "s.tar/s0.jpg"
    assert dict(record.metadata) == {"uid": "u1", "year": 2010}
    # The split goes by the member, as before there were ids.
    assert record.split == HashedSplit()("s.tar/s0.jpg")
    assert not manifest.problems


def test_an_id_that_two_samples_have_is_told(tmp_path: Path) -> None:
    members = [
        (f"{n}.{kind}", data)
        for n in range(2)
        for kind, data in (("jpg", IMAGE), ("json", b'{"caption": "x", "id": 7}'))
    ]
    manifest, records = read(tar_shard(tmp_path / "s.tar", members))
    assert [record.id for record in records] == ["7"]
    assert kinds(manifest) == {"duplicate id": 1}


@pytest.mark.parametrize(
    "order", [("jpg", "seg_png"), ("seg_png", "jpg"), ("seg_png", "image_jpg")]
)
def test_a_mask_is_not_the_picture_and_is_told(tmp_path: Path, order: tuple[str, ...]) -> None:
    images = {name: MASK if name == "seg_png" else IMAGE for name in order}
    manifest, (record,) = read(shard(tmp_path, **images, txt="x"))
    assert record.image is not None
    assert record.image.read() == IMAGE
    assert not manifest.problems
    (note,) = problems(manifest)
    assert (note.kind, note.where) == ("image not taken", "s.tar/s0")
    assert ".seg.png: taken for no picture" in note.reason


@pytest.mark.parametrize("names", [("jpg", "png"), ("left_jpg", "right_jpg"), ("0_jpg", "1_jpg")])
def test_a_second_picture_is_a_problem(tmp_path: Path, names: tuple[str, str]) -> None:
    manifest, (record,) = read(shard(tmp_path, **{names[0]: IMAGE, names[1]: MASK}, txt="x"))
    assert record.image is not None
    assert record.image.read() == IMAGE
    assert kinds(manifest) == {"bad row": 1}


def test_several_captions_and_other_texts(tmp_path: Path) -> None:
    path = shard(
        tmp_path, jpg=IMAGE, txt="one", caption_txt="two", captions_1_txt="three", text="four",
        label_txt=" a kite ", cls="3", json={"caption": "one", "license": "by"},
        extra_json={"license": "other", "author": "me"}, boxes_json=[1, 2],
    )  # fmt: skip
    manifest, (record,) = read(path)
    assert record.captions == ("one", "two", "three", "four")
    expected = {"label": "a kite", "cls": "3", "license": "by", "author": "me"}
    assert dict(record.metadata) == expected
    assert not manifest.problems
    (note,) = problems(manifest)
    assert note.reason == ".boxes.json: the JSON is no object"


def test_a_single_text_of_another_name_is_the_caption(tmp_path: Path) -> None:
    _, (record,) = read(shard(tmp_path, jpg=IMAGE, description_txt="a kite", cls="3"))
    assert record.captions == ("a kite",)
    assert dict(record.metadata) == {"cls": "3"}
    _, (record,) = read(shard(tmp_path, jpg=IMAGE, label_txt="kite", json={"caption": "x"}))
    assert record.captions == ("x",)
    assert dict(record.metadata) == {"label": "kite"}


def test_purposes() -> None:
    assert purpose(".jpg", (".jpg",)) == ""
    assert purpose(".input.v2.jpg", (".jpg",)) == "input.v2"
    assert purpose(".jpg", (".png",)) is None
    assert captions_and_metadata({}, captioned=False) == ((), {})
    assert captions_and_metadata({".txt": " "}, captioned=False) == ((), {})


def test_a_shard_as_it_was_means_the_same(tmp_path: Path) -> None:
    members = [("a/0.jpg", IMAGE), ("a/0.txt", b"x"), ("a/1.png", IMAGE), ("a/1.json", b"{}")]
    manifest, records = read(tar_shard(tmp_path / "s.tar", members))
    assert captions(records) == {"s.tar/a/0.jpg": ("x",), "s.tar/a/1.png": ()}
    assert [record.earlier_id for record in records] == [None, None]
    assert kinds(manifest) == {"empty caption": 1}
