"""Tiles cover every image, and their sums are those of plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import PREPROCESSING

from clipsearch.localization.tiles import check_aspect, largest_tile, summed, tiles_of_size
from finetune.errors import ImageError

SIDES = st.integers(1, 90)
SHARES = st.sampled_from((1.0, 1 / 2, 1 / 3))


@given(SIDES, SIDES, SHARES)
def test_tiles_cover_every_pixel_and_lie_in_the_image(width, height, share):
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in tiles_of_size(width, height, share, PREPROCESSING):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1


def test_a_square_is_seen_35_times_and_neighbours_share_half():
    tiles = [tiles_of_size(120, 120, share, PREPROCESSING) for share in (1, 1 / 2, 1 / 3)]
    assert [len(each) for each in tiles] == [1, 9, 25]
    assert tiles[0] == [(0, 0, 120, 120)]
    assert tiles[1][:4] == [(0, 0, 60, 60), (30, 0, 90, 60), (60, 0, 120, 60), (0, 30, 60, 90)]


@given(SIDES, SIDES, SHARES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 15))
def test_sums_are_those_of_plain_loops(width, height, share, rows, columns, cells):
    tiles = tiles_of_size(width, height, share, PREPROCESSING)
    random = np.random.default_rng(width + 100 * height)
    values = random.normal(size=(len(tiles), rows, columns)).astype(np.float32)
    grid = (cells, cells + 1)
    sums, counts = summed(tiles, values, (width, height), grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = (row + 0.5) * height / grid[0], (column + 0.5) * width / grid[1]
            seen = [
                value[
                    int((y - top) / (bottom - top) * rows),
                    int((x - left) / (right - left) * columns),
                ]
                for (left, top, right, bottom), value in zip(tiles, values, strict=True)
                if left <= x < right and top <= y < bottom
            ]
            assert counts[row, column] == len(seen) >= 1
            assert sums[row, column] == pytest.approx(sum(map(float, seen)), abs=1e-5)


def test_the_largest_tile_has_the_towers_shape():
    assert largest_tile(200, 100, PREPROCESSING) == (100, 100)
    assert largest_tile(30, 100, PREPROCESSING) == (30, 30)


def test_a_line_of_pixels_is_refused_by_name():
    check_aspect("a.png", 2000, 100, PREPROCESSING)
    with pytest.raises(ImageError, match=r"^a\.png: has 2001 x 100 pixels, more than 20 times"):
        check_aspect("a.png", 2001, 100, PREPROCESSING)
