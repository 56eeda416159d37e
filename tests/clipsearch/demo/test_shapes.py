"""The demo's pictures: what is held out is held out, and the same seed draws the same."""

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
    seen = {word for s in scenes() if s.split == "train" for word in s.caption.split()}
    assert all(set(scene.caption.split()) <= seen for scene in scenes())


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
        assert manifest.columns()["count"] == "number"
        assert manifest.columns()["shape"] == "tag"
