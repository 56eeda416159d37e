"""A heat map drawn over its image."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch.localization.heat_map import HeatMap
from finetune.errors import ClipsearchError
from finetune.files.outputs import write_png
from finetune.images.open import to_rgb

# From the weakest part to the strongest.
_COLOURS = ((38, 52, 148), (0, 150, 170), (120, 200, 80), (250, 200, 40), (220, 40, 30))
# How much of a pixel is the map, where it is weakest and where it is strongest.
_OPACITY = (0.35, 0.6)
# Longer sides are scaled down: a map has no finer detail.
MOST_PIXELS = 2048


def draw_heat_map(
    heat_map: HeatMap, image: Image.Image, most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Return an image, RGB, with its heat map over it: blue is weakest and red strongest.

    The colours span this map from its weakest to its strongest cell; a map without any difference
    leaves the image as it is. The longer side is at most `most_pixels`.
    """
    drawn = to_rgb(image).copy()
    drawn.thumbnail((most_pixels, most_pixels))
    cosines = heat_map.cosines
    weakest, strongest = float(cosines.min()), float(cosines.max())
    if not strongest > weakest:
        return drawn
    share = Image.fromarray(((cosines - weakest) / (strongest - weakest)).astype(np.float32))
    heat = np.asarray(share.resize(drawn.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    stops = np.linspace(0, 1, len(_COLOURS))
    channels = np.array(_COLOURS).T
    colours = np.concatenate([np.interp(heat, stops, channel) for channel in channels], -1)
    opacity = _OPACITY[0] + (_OPACITY[1] - _OPACITY[0]) * heat
    mixed = np.asarray(drawn) * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.round().astype(np.uint8))


def write_heat_map(path: Path, heat_map: HeatMap, image: Image.Image) -> None:
    """Write the image with its heat map as a PNG; an older one is replaced whole.

    Raises ClipsearchError where the disk refuses.
    """
    buffer = io.BytesIO()
    draw_heat_map(heat_map, image).save(buffer, format="PNG")
    try:
        write_png(path, buffer.getvalue())
    except OSError as error:
        raise ClipsearchError(f"{path}: cannot be written ({error.strerror or error})") from error
