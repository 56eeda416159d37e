"""Two ways to find where in an image something is: windows, and patches of one forward pass."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from clipsearch.documents import Embedding
from clipsearch.encoder.encoder import Encoder
from clipsearch.localization.heat_map import HeatMap
from clipsearch.localization.methods import DEFAULT_METHOD, DENSE, METHODS, WINDOWS
from clipsearch.localization.tiles import Tile, check_aspect, largest_tile, summed, tiles_of_size
from finetune.arrays import Float32, Float64, Pixels
from finetune.encoder_folder import PATCH_TOWER
from finetune.errors import UsageError
from finetune.images.open import to_rgb
from finetune.images.pixels import resize_whole

# Sides of the windows, by that of the largest that fits; chosen by benchmarks/locate.py.
WINDOW_SIZES = (1.0, 1 / 2, 1 / 3)
# Cells of the grid along the side of the largest window: as fine as the windows' steps.
WINDOW_CELLS = 12
_BATCH = 32


def locate(
    encoder: Encoder,
    image: Image.Image,
    vector: Embedding,
    method: str | None = None,
    *,
    name: str = "the picture",
) -> HeatMap:
    """Say how strongly each part of an image answers a query.

    Args:
        encoder: Embeds the parts.
        image: Upright, of any mode.
        vector: The query's embedding, float32[d], unit length.
        method: "windows" embeds parts of several sizes as if they were images, and each cell has
            the mean of those that cover it: right for any encoder, and a square image costs as
            much as 35 images. "dense" embeds the patches of squares that cover the image, one
            for a square image. None takes the better of
            those that the encoder can (docs/relevance.md).
        name: What errors call the image.

    A longer image costs more, in proportion to its longer side by its shorter.

    Raises ImageError for an image 20 times longer one way than the other, UsageError for an unknown
    method, and EncoderError for "dense" where the encoder gives no patches.
    """
    if method is not None and method not in METHODS:
        raise UsageError(f"method {method!r} is not known; take {' or '.join(METHODS)}")
    chosen, notes = _choose(encoder, method)
    rgb = to_rgb(image, encoder.preprocessing.transparency)
    check_aspect(name, *rgb.size, encoder.preprocessing)
    look = by_patches if chosen == DENSE else by_windows
    cosines = look(encoder, rgb, vector)
    return HeatMap(cosines.astype(np.float32), rgb.width, rgb.height, chosen, notes)


def _choose(encoder: Encoder, method: str | None) -> tuple[str, tuple[str, ...]]:
    if method is not None:
        return method, ()
    if encoder.gives_patches:
        return DEFAULT_METHOD, ()
    return WINDOWS, (f"{encoder.folder} has no {PATCH_TOWER}: located by {WINDOWS}",)


def by_windows(encoder: Encoder, image: Image.Image, vector: Embedding) -> Float64:
    """Return the mean cosine of the windows over each cell, float64[rows, columns]."""
    grid = _grid(encoder, image, WINDOW_CELLS, WINDOW_CELLS)
    sums, counts = np.zeros(grid), np.zeros(grid)
    for share in WINDOW_SIZES:
        tiles = tiles_of_size(*image.size, share, encoder.preprocessing)
        cosines = np.concatenate(
            [encoder.encode_pixels(pixels) @ vector for pixels in _batches(encoder, image, tiles)]
        )
        added, number = summed(tiles, cosines.reshape(-1, 1, 1), image.size, grid)
        sums += added
        counts += number
    return sums / counts


def by_patches(encoder: Encoder, image: Image.Image, vector: Embedding) -> Float64:
    """Return the mean cosine of the patches over each cell, float64[rows, columns]."""
    tiles = tiles_of_size(*image.size, 1.0, encoder.preprocessing)
    cosines: Float32 = np.concatenate(
        [encoder.encode_patches(pixels) @ vector for pixels in _batches(encoder, image, tiles)]
    )
    grid = _grid(encoder, image, *cosines.shape[1:])
    sums, counts = summed(tiles, cosines, image.size, grid)
    return sums / counts


def _batches(encoder: Encoder, image: Image.Image, tiles: list[Tile]) -> Iterator[Pixels]:
    """Yield the tiles as the tower takes them, uint8[n, h, w, 3], few at a time."""
    for start in range(0, len(tiles), _BATCH):
        chosen = tiles[start : start + _BATCH]
        yield np.stack([resize_whole(image, tile, encoder.preprocessing) for tile in chosen])


def _grid(encoder: Encoder, image: Image.Image, rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of an image whose largest tile has so many."""
    width, height = largest_tile(*image.size, encoder.preprocessing)
    return round(rows * image.height / height), round(columns * image.width / width)
