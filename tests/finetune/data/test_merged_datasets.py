from pathlib import Path

import numpy as np

from finetune.data.back_translation import add_captions
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.data.splits import merge_datasets
from finetune.images.source import ImageSource


def images_with(folder: str, captions: dict[str, list[str]]) -> CaptionedImages:
    return captioned_images(
        (name, ImageSource(Path(folder) / name), texts) for name, texts in captions.items()
    )


RSICD = {"airport_1.jpg": ["a plane", "many planes"], "12.tif": ["a beach"]}
UCM = {"12.tif": ["A plane", "a runway"], "13.tif": ["a lake"]}


def test_ids_get_the_datasets_name_where_they_collide() -> None:
    parts = [images_with("rsicd", RSICD), images_with("ucm", UCM)]
    merged = merge_datasets(parts, ["rsicd", "ucm"])
    assert merged.ids == ("airport_1.jpg", "rsicd/12.tif", "ucm/12.tif", "13.tif")
    assert [str(source.path) for source in merged.sources] == [
        "rsicd/airport_1.jpg",
        "rsicd/12.tif",
        "ucm/12.tif",
        "ucm/13.tif",
    ]
    assert merged.datasets.tolist() == [0, 0, 1, 1]
    assert merged.captions == ("a plane", "many planes", "a beach", "A plane", "a runway", "a lake")
    assert merged.starts.tolist() == [0, 2, 3, 5, 6]
    assert merged.keys.tolist() == [0, 1, 2, 0, 3, 4]
    assert merged.image_keys.tolist() == [0, 1, 2, 3]


def test_ids_stay_unique_whatever_they_are_called() -> None:
    captions = ["text"]
    parts = [
        images_with("a", {"1": captions, "x/1": captions, "2": captions}),
        images_with("b", {"1": captions, "x/x/1": captions}),
        images_with("c", {"2": captions, "x-2/1": captions}),
    ]
    merged = merge_datasets(parts, ["x", "x", "x"])
    assert merged.ids == ("x/x/x/1", "x/1", "x/2", "x-2/x-2/1", "x/x/1", "x-3/2", "x-2/1")
    assert len(set(merged.ids)) == len(merged)


def test_one_part_stays_as_it_is() -> None:
    part = images_with("rsicd", RSICD)
    assert merge_datasets([part], ["rsicd"]).fingerprint() == part.fingerprint()
    assert merge_datasets([part, part.without([0, 1])], ["a", "b"]).datasets.tolist() == [0, 0]


def test_captions_that_belong_together_stay_so() -> None:
    # back-translated captions have the key of their original, in their own dataset and the other
    rsicd = add_captions(images_with("rsicd", RSICD), {"a plane": ["an aircraft"]})
    ucm = images_with("ucm", {"1": ["an aircraft"], "2": ["a beach"], "3": ["a plane"]})
    merged = merge_datasets([rsicd, ucm], ["rsicd", "ucm"])
    keys = dict(zip(merged.captions, merged.keys.tolist(), strict=True))
    assert keys["an aircraft"] == keys["a plane"]
    assert len(set(merged.keys.tolist())) == 3
    assert merged.keys.tolist() == [0, 1, 0, 2, 0, 2, 0]


def test_leaving_out_images_keeps_what_belongs_together() -> None:
    data = add_captions(images_with("rsicd", RSICD), {"a plane": ["an aircraft"]})
    kept = data.without([1])
    assert kept.captions == ("a plane", "many planes", "an aircraft")
    assert kept.keys.tolist() == [0, 1, 0]
    merged = merge_datasets([data, data], ["a", "b"]).without([0, 3])
    assert merged.ids == ("a/12.tif", "b/airport_1.jpg")
    assert merged.datasets.tolist() == [0, 1]
    assert merged.keys.dtype == merged.starts.dtype == np.int64
