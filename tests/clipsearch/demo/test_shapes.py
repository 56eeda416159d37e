"""The demo's pictures: what is held out is held out, and the same seed draws the same."""

import re
from pathlib import Path

import numpy as np

from clipsearch.demo.shapes import PIXELS, draw, scenes, write_shapes
from finetune.manifest.manifest import Manifest


def test_held_out_combinations_never_appear_in_training() -> None:
    for seed in range(3):
        pairs = {
            split: {(s.shape, s.colour) for s in scenes(seed) if s.split == split}
            for split in ("train", "val", "test")
        }
        assert not pairs["train"] & (pairs["val"] | pairs["test"])
        assert not pairs["val"] & pairs["test"]


def test_held_out_pool_is_large_and_its_captions_differ() -> None:
    captions = [scene.caption for scene in scenes() if scene.split == "test"]
    assert len(captions) >= 100
    assert len(set(captions)) == len(captions)


def test_every_word_of_a_held_out_caption_was_seen_in_training() -> None:
    for told in ("caption", "other_caption"):
        seen = {
            word
            for scene in scenes()
            if scene.split == "train"
            for word in getattr(scene, told).split()
        }
        assert all(set(getattr(scene, told).split()) <= seen for scene in scenes())


def test_a_second_caption_says_the_same_in_other_words() -> None:
    told: dict[str, tuple] = {}
    for scene in scenes():
        one, other = set(scene.caption.split()), set(re.findall(r"\w+", scene.other_caption))
        assert scene.colour in one & other and len(one & other) <= 3
        known = told.setdefault(scene.other_caption, (scene.shape, scene.colour, scene.caption))
        assert known == (scene.shape, scene.colour, scene.caption)


def test_a_scene_is_drawn_the_same_way_every_time_and_differs_from_its_repeat() -> None:
    repeats = (each for each in scenes() if each.split == "train")
    scene, second = next(repeats), next(repeats)
    assert scene.caption == second.caption
    assert draw(scene).size == (PIXELS, PIXELS)
    assert np.array_equal(np.asarray(draw(scene)), np.asarray(draw(scene)))
    assert not np.array_equal(np.asarray(draw(scene)), np.asarray(draw(second)))


def test_the_written_manifest_reads_back_without_a_problem(tmp_path: Path) -> None:
    with Manifest.open(write_shapes(tmp_path)) as manifest:
        assert len(manifest) == len(scenes())
        assert not len(manifest.problems)
        assert {len(record.captions) for record in manifest.records()} == {2}
        assert manifest.columns()["count"] == "number"
        assert manifest.columns()["shape"] == "tag"
