"""Overlapping parts that cover an image, and what is measured on them brought onto one grid."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from finetune.arrays import Float32, Float64
from finetune.errors import ImageError
from finetune.images.preprocessing import Preprocessing

Tile = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

# Neighbours lie so far apart, as a share of their side.
STEP = 0.5
# The number of tiles grows with the longer side by the shorter.
MOST_ASPECT = 20


def tiles_of_size(
    width: int, height: int, share: float, preprocessing: Preprocessing
) -> list[Tile]:
    """Return tiles of the tower's shape that cover an image, row by row.

    Args:
        width, height: Of the image, in pixels.
        share: Side of a tile, by that of the largest one that fits into the image; above 0, at
            most 1.
        preprocessing: Its height and width are the tower's shape.
    """
    whole_width, whole_height = largest_tile(width, height, preprocessing)
    tile_width, tile_height = share * whole_width, share * whole_height
    columns = [_whole_pixels(left, tile_width, width) for left in _starts(width, tile_width)]
    rows = [_whole_pixels(top, tile_height, height) for top in _starts(height, tile_height)]
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def check_aspect(name: str, width: int, height: int, preprocessing: Preprocessing) -> None:
    """Raise ImageError, which calls the image `name`, above MOST_ASPECT of the largest tile."""
    tile_width, tile_height = largest_tile(width, height, preprocessing)
    if max(width / tile_width, height / tile_height) > MOST_ASPECT:
        raise ImageError(
            f"{name}: has {width} x {height} pixels, more than {MOST_ASPECT} times as long one way"
            f" as the other, which is too long to look into; cut a part out of it"
        )


def largest_tile(width: int, height: int, preprocessing: Preprocessing) -> tuple[float, float]:
    """Return width and height of the largest part of an image that has the tower's shape."""
    scale = min(width / preprocessing.width, height / preprocessing.height)
    return scale * preprocessing.width, scale * preprocessing.height


def summed(
    tiles: Sequence[Tile], values: Float32, image: tuple[int, int], grid: tuple[int, int]
) -> tuple[Float64, Float64]:
    """Add up the values of all tiles over each cell of a grid, by the cell's centre.

    Args:
        tiles: In an image of `image` pixels, width and height.
        values: float32[tiles, r, c]: each tile is cut into r times c equal parts.
        image: Width and height in pixels.
        grid: Rows and columns.

    Returns:
        float64[rows, columns] twice: the sums, and over how many tiles.
    """
    sums, counts = np.zeros(grid), np.zeros(grid)
    rows, columns = values.shape[1:]
    y = (np.arange(grid[0]) + 0.5) * image[1] / grid[0]
    x = (np.arange(grid[1]) + 0.5) * image[0] / grid[1]
    for (left, top, right, bottom), value in zip(tiles, values, strict=True):
        inner_y, inner_x = (y >= top) & (y < bottom), (x >= left) & (x < right)
        row = ((y[inner_y] - top) / (bottom - top) * rows).astype(int)
        column = ((x[inner_x] - left) / (right - left) * columns).astype(int)
        cells = np.ix_(inner_y, inner_x)
        sums[cells] += value[np.ix_(row, column)]
        counts[cells] += 1
    return sums, counts


def _starts(extent: int, side: float) -> Iterator[float]:
    """Yield where tiles begin: evenly, the first at one edge and the last at the other."""
    steps = math.ceil((extent - side) / (STEP * side) - 1e-9)
    for number in range(steps + 1):
        yield (extent - side) * number / max(steps, 1)


def _whole_pixels(start: float, side: float, extent: int) -> tuple[int, int]:
    """Return where a tile begins and ends in whole pixels: at least one, and none outside."""
    first = min(round(start), extent - 1)
    return first, max(first + 1, min(round(start + side), extent))
