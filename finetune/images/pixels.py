"""From a decoded image to the pixel values that a tower takes."""

from dataclasses import replace
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.images.open import Box, decode_image, to_rgb
from finetune.images.preprocessing import Preprocessing
from finetune.images.random_crop import RandomCrop
from finetune.images.source import ImageSourceLike

# An image longer than this many times its width is not resized whole, of which only the
# centre would be kept: 1x100,000 pixels would become 224x22,400,000.
MAX_WHOLE_ASPECT = 100

# A JPEG is decoded at a fraction of its size only where so many times the size needed is left.
# Of 400 textbook figures and a ViT of random weights, the least cosine between the embeddings of
# an image decoded so and in full was 0.9992; with 2.0 it was 0.9988, and with 1.0 0.994, since
# the fraction is sharper than what the resampling filter makes of the full image.
DRAFT_MARGIN = 2.5


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Return the part of an image that the tower sees.

    Sizes round as in transformers: the long side down, the crop's offset down; an image that
    is smaller than the crop is centred on black.

    Returns:
        uint8[height, width, 3].
    """
    image = to_rgb(image, preprocessing.transparency)
    return _resize_and_crop(image, (0, 0, *image.size), preprocessing)


def resize_whole(
    image: Image.Image, box: tuple[int, int, int, int], preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    """Resize all of a part of an image to the tower's size; crop nothing of it.

    Args:
        image: In mode RGB.
        box: Left, top, right and bottom in pixels; what lies outside has no influence.
        preprocessing: Its size and filter are used.

    Returns:
        uint8[height, width, 3].
    """
    size = (preprocessing.width, preprocessing.height)
    resample = Image.Resampling[preprocessing.resample.upper()]
    return np.asarray(image.crop(box).resize(size, resample))


def normalize(
    pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Return (pixel / 255 - mean) / std, channels first.

    Args:
        pixels: uint8[..., h, w, 3].
        preprocessing: Its mean and std are used.

    Returns:
        float32[..., 3, h, w].
    """
    std = np.array(preprocessing.std)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (np.array(preprocessing.mean) / std).astype(np.float32)
    values = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), np.float32)
    for channel in range(3):
        plane = values[..., channel, :, :]
        np.multiply(pixels[..., channel], scale[channel], out=plane)
        plane -= shift[channel]
    return values


def pixel_values(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Return float32[3, height, width]: what the image tower takes, of one decoded image."""
    return normalize(resize_and_crop(image, preprocessing), preprocessing)


def load_pixels(
    source: ImageSourceLike,
    preprocessing: Preprocessing,
    *,
    name: str | None = None,
    draft_margin: float = DRAFT_MARGIN,
) -> npt.NDArray[np.uint8]:
    """Read, decode (large JPEGs in draft mode), resize and crop: what decoding workers run.

    Args:
        source: The image's file or its bytes.
        preprocessing: Of the encoder.
        name: What errors call the image, for a source that is bytes.
        draft_margin: How many times the size needed draft mode must leave, in both directions.

    Returns:
        uint8[height, width, 3].

    Raises ImageError.
    """
    return load_image(source, preprocessing, name=name, draft_margin=draft_margin)[0]


def load_image(
    source: ImageSourceLike,
    preprocessing: Preprocessing,
    *,
    name: str | None = None,
    draft_margin: float = DRAFT_MARGIN,
    crop: RandomCrop | None = None,
) -> tuple[npt.NDArray[np.uint8], str | None]:
    """Load as `load_pixels` does, with the note of `DecodedImage`.

    `crop` takes a part, of all pixels.
    """
    if crop is not None:
        image = decode_image(source, name=name, transparency=preprocessing.transparency)
        return _cropped(image.image, crop, preprocessing), image.note
    needed = (preprocessing.width, preprocessing.height)
    if preprocessing.resize == "shortest-edge":
        needed = (preprocessing.resize_to, preprocessing.resize_to)
    draft_size = (ceil(draft_margin * needed[0]), ceil(draft_margin * needed[1]))
    image = decode_image(
        source, draft_size=draft_size, name=name, transparency=preprocessing.transparency
    )
    return _resize_and_crop(image.image, image.box, preprocessing), image.note


def _cropped(
    image: Image.Image, crop: RandomCrop, preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    """Return the crop at the tower's size, by the crop's own filter."""
    box = crop.box(image.size)
    filtered = replace(preprocessing, resample=crop.resample)
    if crop.is_stretched:
        filtered = replace(filtered, resize="exact")
    return _resize_and_crop(image, box, filtered)


def _resize_and_crop(
    image: Image.Image, box: Box, preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    height, width = preprocessing.height, preprocessing.width
    resample = Image.Resampling[preprocessing.resample.upper()]
    if preprocessing.resize == "exact":
        return np.asarray(image.resize((width, height), resample, box))
    extent = (box[2] - box[0], box[3] - box[1])
    size = _resized_size(extent, preprocessing.resize_to)
    if max(extent) > MAX_WHOLE_ASPECT * min(extent):
        centre = (min(size[0], width), min(size[1], height))
        box = _centre_box(box, size, centre)
        size = centre
    image = image.resize(size, resample, box)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _resized_size(size: tuple[float, float], shortest_edge: int) -> tuple[int, int]:
    """Return width and height with the short side at shortest_edge, rounded as in transformers."""
    width, height = size
    if width <= height:
        return shortest_edge, int(shortest_edge * height / width)
    return int(shortest_edge * width / height), shortest_edge


def _centre_box(box: Box, size: tuple[int, int], centre: tuple[int, int]) -> Box:
    """Return the part of a box that becomes the centre when all of it is resized to `size`."""
    edges = []
    for axis in (0, 1):
        scale = (box[axis + 2] - box[axis]) / size[axis]
        start = box[axis] + (size[axis] - centre[axis]) // 2 * scale
        edges.append((start, start + centre[axis] * scale))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]
