"""COCO's captions and ROCO, in the layouts in which their makers spread them."""

import json
from pathlib import Path

import pytest
from small_manifests import captions, kinds, pictures, problems, read

from finetune.errors import ManifestError

LICENCES = [{"url": "http://x/by", "id": 4, "name": "Attribution License"}]
# As in captions_val2017.json: images and annotations in no common order.
COCO = {
    "info": {"description": "COCO 2017 Dataset", "year": 2017},
    "licenses": LICENCES,
    "images": [
        {
            "license": 4,
            "file_name": "000000397133.jpg",
            "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
            "height": 427,
            "width": 640,
            "date_captured": "2013-11-14 17:02:52",
            "id": 397133,
        },
        {"license": 1, "file_name": "000000037777.jpg", "height": 230, "width": 352, "id": 37777},
    ],
    "annotations": [
        {"image_id": 37777, "id": 38, "caption": "A small kitchen. "},
        {"image_id": 397133, "id": 40, "caption": "A man is in a kitchen making pizzas."},
        {"image_id": 37777, "id": 41, "caption": "A kitchen with \u00e9clairs \ud83c\udf70"},
    ],
}


def coco(folder: Path, **changes: object) -> Path:
    path = folder / "captions_val2017.json"
    path.write_text(json.dumps(COCO | changes), encoding="utf-8")
    return path


def test_coco_captions_come_to_their_images_with_the_name_of_the_licence(tmp_path: Path) -> None:
    pictures(tmp_path / "val2017", "000000397133.jpg", "000000037777.jpg")
    manifest, records = read(coco(tmp_path), images=tmp_path / "val2017")
    assert manifest.format == "coco"
    assert captions(records) == {
        "000000397133.jpg": ("A man is in a kitchen making pizzas.",),
        "000000037777.jpg": ("A small kitchen.", "A kitchen with \u00e9clairs \U0001f370"),
    }
    assert dict(records[0].metadata) == {
        "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
        "height": 427,
        "width": 640,
        "date_captured": "2013-11-14 17:02:52",
        "license": "Attribution License",
    }
    assert not manifest.problems
    # Annotations before images, as some write it.
    order = dict(reversed(COCO.items()))
    (tmp_path / "captions_val2017.json").write_text(json.dumps(order), encoding="utf-8")
    _, again = read(tmp_path / "captions_val2017.json", images=tmp_path / "val2017")
    assert captions(again) == captions(records)


def test_each_fault_of_a_coco_file_is_one_problem_with_its_place(tmp_path: Path) -> None:
    pictures(tmp_path, "000000397133.jpg", "b.jpg", "000000037777.jpg")
    images = [
        *COCO["images"],
        {"id": 37777, "file_name": "b.jpg"},
        {"id": 5},
        {"id": 6, "file_name": "gone.jpg"},
        {"id": 7, "file_name": "b.jpg"},
    ]
    annotations = [
        *COCO["annotations"],
        {"image_id": 99, "id": 1, "caption": "of nothing"},
        {"image_id": 37777, "id": 2},
        {"image_id": 37777, "id": 3, "caption": "half \ud800"},
    ]
    manifest, records = read(coco(tmp_path, images=images, annotations=annotations))
    assert set(captions(records)) == {"000000397133.jpg", "000000037777.jpg", "b.jpg"}
    assert captions(records)["000000037777.jpg"][-1] == "half"
    found = {(each.kind, each.where, each.reason) for each in problems(manifest)}
    name = "captions_val2017.json"
    assert {
        ("duplicate id", f"{name}:3", "b.jpg: its id 37777 is that of an image before"),
        ("bad row", f"{name}:4", 'the image has no "file_name"'),
        ("bad row", f"{name}:annotation 4", "is of the image 99, which the file has not"),
        ("bad row", f"{name}:annotation 5", 'the annotation has no "caption"'),
        ("empty caption", f"{name}:6", "b.jpg: no caption"),
    } <= found
    assert kinds(manifest)["missing file"] == 1


def test_a_coco_file_without_annotations_has_images_alone(tmp_path: Path) -> None:
    pictures(tmp_path, "000000397133.jpg", "000000037777.jpg")
    only = {key: value for key, value in COCO.items() if key != "annotations"}
    path = tmp_path / "image_info_test2017.json"
    path.write_text(json.dumps(only), encoding="utf-8")
    manifest, records = read(path)
    assert len(records) == 2 and not manifest.problems


def roco(folder: Path, part: str, *numbers: int) -> Path:
    """A part of ROCO as in its repository, images as its fetch.py names them."""
    part_folder = folder / part
    ids = [f"ROCO_{number:05}" for number in numbers]
    pictures(part_folder / "images", *(f"{id}.jpg" for id in ids))
    written = {
        "captions.txt": [f"{id}\t Axial MRI of {id}.\n" for id in ids],
        "keywords.txt": [f"{id}\t\taxial\tmri\n" for id in ids],
        "cuis.txt": [f"{id}\t\n" for id in ids],
        "semtypes.txt": [f"{id}\t\tT047\tDisease or Syndrome\tT033\tFinding\n" for id in ids],
        "licences.txt": [
            "ROCO_ID,PMC_ID,CC\n",
            *(f"{id},PMC4608653_cro-0008-g01.jpg,CC BY-NC\n" for id in ids),
        ],
    }
    for name, lines in written.items():
        (part_folder / name).write_text("".join(lines), encoding="utf-8")
    return part_folder / "captions.txt"


def test_roco_whole_has_splits_and_kinds_and_what_lies_beside_the_captions(tmp_path: Path) -> None:
    roco(tmp_path / "data", "train/radiology", 2, 3)
    roco(tmp_path / "data", "validation/non-radiology", 81834)
    captions_file = roco(tmp_path / "data", "test/radiology", 1)
    manifest, records = read(tmp_path / "data")
    assert manifest.format == "roco"
    assert {record.id: record.split for record in records} == {
        "ROCO_00002": "train",
        "ROCO_00003": "train",
        "ROCO_81834": "val",
        "ROCO_00001": "test",
    }
    by_id = {record.id: record for record in records}
    assert by_id["ROCO_81834"].captions == ("Axial MRI of ROCO_81834.",)
    assert dict(by_id["ROCO_81834"].metadata) == {
        "kind": "non-radiology",
        "keywords": "axial; mri",
        "semantic_types": "Disease or Syndrome; Finding",
        "article": "PMC4608653",
        "license": "CC BY-NC",
    }
    assert not manifest.problems
    one, records = read(captions_file)
    assert one.format == "roco"
    assert [(record.id, record.split) for record in records] == [("ROCO_00001", "test")]
    image = records[0].image
    assert image is not None and image.path.name == "ROCO_00001.jpg"


def test_a_figure_of_roco_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    path = roco(tmp_path, "radiology", 1, 2)
    (path.parent / "images/ROCO_00002.jpg").unlink()
    manifest, records = read(path)
    assert [record.id for record in records] == ["ROCO_00001"]
    ((kind, where),) = {(each.kind, each.where) for each in problems(manifest)}
    assert (kind, where) == ("missing file", "captions.txt:2")
    (path.parent / "images/ROCO_00001.jpg").unlink()
    with pytest.raises(ManifestError, match="name the folder of the images with --images FOLDER"):
        read(path)
