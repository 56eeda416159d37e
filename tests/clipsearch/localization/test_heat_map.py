"""Peaks, boxes and drawings of heat maps."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from clipsearch.localization.drawing import draw_heat_map, write_heat_map
from clipsearch.localization.heat_map import BOX_LEVEL, HeatMap
from finetune.errors import ClipsearchError
from finetune.files.outputs import is_sealed


def heat_map(cosines, width: int = 90, height: int = 60) -> HeatMap:
    return HeatMap(np.array(cosines, np.float32), width, height, "windows")


def test_the_peak_is_the_middle_of_the_strongest_cells_that_touch():
    found = heat_map([[0, 0.5, 0.5], [0, 0, 0.1]]).peak
    assert (found.x, found.y, found.cosine) == (60, 15, 0.5)
    far = heat_map([[0.5, 0, 0.5], [0, 0, 0.1]]).peak
    assert (far.x, far.y) == (15, 15)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_those_of_scipys_labels(seed):
    cosines = np.random.default_rng(seed).normal(size=(8, 9)).astype(np.float32)
    level = cosines.min() + BOX_LEVEL * (cosines.max() - cosines.min())
    labels, _ = ndimage.label(cosines >= level)
    expected = [
        (
            (columns.start * 10, rows.start * 10),
            (columns.stop * 10, rows.stop * 10),
            float(cosines[labels == label].max()),
        )
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1)
    ]
    found = [
        ((each.box.x, each.box.y), (each.box.right, each.box.bottom), each.cosine)
        for each in heat_map(cosines, 90, 80).boxes
    ]
    assert found == sorted(expected, key=lambda each: -each[2])


def test_where_all_cells_are_alike_there_are_no_boxes_and_no_colours():
    flat = heat_map(np.full((2, 3), 0.25))
    assert flat.boxes == ()
    image = Image.new("RGB", (90, 60), (10, 20, 30))
    assert draw_heat_map(flat, image).getcolors() == [(90 * 60, (10, 20, 30))]


def test_boxes_lie_in_the_image_even_where_cells_are_less_than_a_pixel():
    for each in heat_map(np.eye(12), 3, 2).boxes:
        assert each.box.width >= 1 and each.box.height >= 1
        assert each.box.right <= 3 and each.box.bottom <= 2


def test_the_strongest_part_is_red_and_the_weakest_blue():
    cosines = np.zeros((4, 6))
    cosines[:2, 3:] = 0.3
    drawn = draw_heat_map(heat_map(cosines), Image.new("RGB", (90, 60), (128, 128, 128)))
    hot, cold = drawn.getpixel((80, 5)), drawn.getpixel((5, 55))
    assert drawn.size == (90, 60)
    assert hot[0] > hot[2] + 50 and cold[2] > cold[0] + 30


def test_a_large_image_is_drawn_smaller(tmp_path):
    image = Image.new("RGB", (3000, 1000))
    write_heat_map(tmp_path / "map.png", heat_map(np.eye(3), 3000, 1000), image)
    with Image.open(tmp_path / "map.png") as written:
        assert written.size == (2048, 683)
    assert is_sealed(tmp_path / "map.png")
    with pytest.raises(ClipsearchError, match=r"map\.png: cannot be written"):
        write_heat_map(tmp_path / "none" / "map.png", heat_map(np.eye(3)), image)


def test_json_has_everything():
    shown = heat_map([[0, 0], [0, 0.5]]).to_json()
    assert shown == {
        "method": "windows",
        "width": 90,
        "height": 60,
        "grid": [[0, 0], [0, 0.5]],
        "peak": {"x": 67.5, "y": 45, "cosine": 0.5},
        "boxes": [{"x": 45, "y": 30, "width": 45, "height": 30, "cosine": 0.5}],
        "notes": [],
    }
