"""Pictures: from any readable file to pixels, the same for training, feed and query.

Needs Pillow and numpy only. From the decoded RGB picture on, `pixel_values` equals the image
processors of transformers (CLIP, SigLIP, SigLIP 2 of fixed resolution, ViT) to 1e-5. As these do,
it takes colours as they are stored: a colour profile (ICC) in the file is not applied.
"""

import io
import os
import warnings
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from finetune import image_formats, png_chunks, sample_depth
from finetune.encoder_folder import Preprocessing
from finetune.errors import ImageError
from finetune.image_processor import preprocessing_from_config as preprocessing_from_config
from finetune.image_processor import preprocessor_config as preprocessor_config
from finetune.regular_files import NotRegularError, open_regular

# Both are refused before anything is decoded; a picture of MAX_PIXELS takes 0.7 GB of memory.
# It is also the size at which Pillow itself refuses (twice its Image.MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970
MAX_FILE_BYTES = 1 << 30

# A picture longer than this many times its width is not resized whole, of which only the
# centre would be kept: 1x100,000 pixels would become 224x22,400,000.
MAX_WHOLE_ASPECT = 100

# A JPEG is decoded at a fraction of its size only where so many times the size needed is left.
# Of 400 textbook figures and a ViT of random weights, the least cosine between the embeddings of
# a picture decoded so and in full was 0.9992; with 2.0 it was 0.9988, and with 1.0 0.994, since
# the fraction is sharper than what the resampling filter makes of the full picture.
DRAFT_MARGIN = 2.5

WHITE = (255, 255, 255)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where the bytes of a picture lie: a file, or a part of a tar shard.

    Attributes:
        path: The picture's file, or the tar shard.
        offset, size: Of the picture within the shard, in bytes; None for a file of its own.
    """

    path: Path
    offset: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.offset is None else f"{self.path} (at byte {self.offset})"

    def open(self) -> BinaryIO:
        """The picture's bytes as a file that ends where the picture ends. Raises as `read`."""
        return open_regular(self.path) if self.offset is None else io.BytesIO(self.read())

    def read(self) -> bytes:
        """All bytes of the picture, as many as the file has when it is opened.

        Raises OSError, also for what is no regular file; ImageError above MAX_FILE_BYTES; EOFError
        where the shard ends before.
        """
        with open_regular(self.path) as file:
            whole = os.fstat(file.fileno()).st_size
            size = whole if self.size is None else self.size
            _check_size(self, size)
            file.seek(self.offset or 0)
            data = file.read(size)
        if self.offset is not None and len(data) < size:
            raise EOFError(f"{self.path} ends within the picture at byte {self.offset}")
        return data


Source = ImageSource | Path | bytes | BinaryIO
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def read_bytes(source: Source) -> bytes:
    """All bytes of a picture's file.

    Raises ImageError where it is missing, no regular file, empty, or above MAX_FILE_BYTES.
    """
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (ImageSource, Path)):
        data = _read_file(source if isinstance(source, ImageSource) else ImageSource(source))
    else:
        data = source.read()
    if not data:
        raise ImageError(f"{_name(source)}: is empty (0 bytes); replace it or drop its row")
    return data


def open_image(
    source: Source, *, draft_size: tuple[int, int] | None = None, name: str | None = None
) -> Image.Image:
    """The picture, fully decoded, upright, in mode RGB.

    The EXIF orientation is applied. Transparency is laid on white, samples of more than 8 bits
    are scaled (see `finetune.sample_depth`), and of an animation the first frame is taken.
    Colour profiles are not applied.

    Args:
        source: The picture's file or its bytes.
        draft_size: Width and height that are needed of the upright picture: a JPEG at least
            twice (4, 8 times) as large in both directions is decoded at 1/2 (1/4, 1/8), which
            is several times faster, and never below this size. Other formats come in full.
        name: What errors call the picture, for a source that is bytes.

    Raises ImageError, in one sentence with the reason.
    """
    return open_picture(source, draft_size=draft_size, name=name).image


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was decoded.

    Attributes:
        image: Upright, in mode RGB.
        box: The part of the image that the picture fills: a side of 901 pixels decoded at 1/4
            becomes 226, of which the picture fills 225.25.
        note: What a user should know of how it was read, in a sentence; None for most.
    """

    image: Image.Image
    box: Box
    note: str | None = None


def open_picture(
    source: Source, *, draft_size: tuple[int, int] | None = None, name: str | None = None
) -> Picture:
    """As open_image, with what is known beside."""
    name = _name(source) if name is None else name
    data = read_bytes(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of MAX_PIXELS, and of broken EXIF that we do without.
            warnings.simplefilter("ignore")
            return _decode(data, draft_size)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {image_formats.what_else(data)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has more than {MAX_PIXELS:,} pixels; scale it down") from None
    except MemoryError:
        raise ImageError(f"{name}: does not fit in memory; scale it down") from None
    except Exception as error:
        # Pillow's plugins raise nearly anything (struct.error, SyntaxError, KeyError) on
        # damaged files, and one damaged picture must not stop the rest.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: is damaged or truncated ({reason})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as RGB, 8 bits a channel, transparency laid on white.

    Grey of more than 8 bits is scaled as `finetune.sample_depth` says, but for what Pillow does
    not keep of a file: the significant bits of a PNG.
    """
    return _to_rgb(image, sample_depth.statement(image))[0]


def _to_rgb(image: Image.Image, said: sample_depth.Statement) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, None
    if image.mode in sample_depth.GREY_MODES:
        grey, note = sample_depth.grey_to_8_bits(image, said)
        return grey.convert("RGB"), note
    if image.has_transparency_data:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, WHITE)
        flat.paste(image, mask=image.getchannel("A"))
        return flat, None
    return image.convert("RGB"), None


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The part of a picture that the tower sees.

    Sizes round as in transformers: the long side down, the crop's offset down; a picture that
    is smaller than the crop is centred on black.

    Returns:
        uint8[height, width, 3].
    """
    image = to_rgb(image)
    return _resize_and_crop(image, (0, 0, *image.size), preprocessing)


def normalize(
    pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """(pixel / 255 - mean) / std, channels first.

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
    """float32[3, height, width]: what the image tower takes, of one decoded picture."""
    return normalize(resize_and_crop(image, preprocessing), preprocessing)


def load_pixels(
    source: Source,
    preprocessing: Preprocessing,
    *,
    name: str | None = None,
    draft_margin: float = DRAFT_MARGIN,
) -> npt.NDArray[np.uint8]:
    """Read, decode (large JPEGs in draft mode), resize and crop: what decoding workers run.

    Args:
        source: The picture's file or its bytes.
        preprocessing: Of the encoder.
        name: What errors call the picture, for a source that is bytes.
        draft_margin: How many times the size needed draft mode must leave, in both directions.

    Returns:
        uint8[height, width, 3].

    Raises ImageError.
    """
    return load_picture(source, preprocessing, name=name, draft_margin=draft_margin)[0]


def load_picture(
    source: Source,
    preprocessing: Preprocessing,
    *,
    name: str | None = None,
    draft_margin: float = DRAFT_MARGIN,
) -> tuple[npt.NDArray[np.uint8], str | None]:
    """As load_pixels, with the note of `Picture`."""
    needed = (preprocessing.width, preprocessing.height)
    if preprocessing.resize == "shortest-edge":
        needed = (preprocessing.resize_to, preprocessing.resize_to)
    draft_size = (ceil(draft_margin * needed[0]), ceil(draft_margin * needed[1]))
    picture = open_picture(source, draft_size=draft_size, name=name)
    return _resize_and_crop(picture.image, picture.box, preprocessing), picture.note


def _name(source: Source) -> str:
    if isinstance(source, (ImageSource, Path)):
        return str(source)
    return "the picture" if isinstance(source, bytes) else getattr(source, "name", "the picture")


def _read_file(source: ImageSource) -> bytes:
    try:
        return source.read()
    except FileNotFoundError:
        raise ImageError(f"{source}: no such file") from None
    except NotRegularError as error:
        raise ImageError(f"{source}: {error.strerror}") from None
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{source}: cannot be read ({reason})") from error


def _check_size(source: ImageSource, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{source}: has {size / 2**30:.1f} GiB, above the limit of"
            f" {MAX_FILE_BYTES >> 30} GiB; scale it down"
        )


def _decode(data: bytes, draft_size: tuple[int, int] | None) -> Picture:
    if data.startswith(png_chunks.MAGIC):
        data = png_chunks.without_needless_chunks(data)
    with Image.open(io.BytesIO(data), formats=image_formats.formats_for(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"has {image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,};"
                f" scale it down"
            )
        if image.width < 1 or image.height < 1:
            raise ImageError("has no pixels; replace it or drop its row")
        draft = None
        if draft_size is not None and image.format in ("JPEG", "MPO"):
            swap = _orientation(image) in _SWAPS_SIDES
            draft = image.draft("RGB", (draft_size[1], draft_size[0]) if swap else draft_size)
        said = sample_depth.statement(image, data)
        is_deep = sample_depth.is_deep_colour(image)
        image.load()
        box = (0.0, 0.0, float(image.width), float(image.height)) if draft is None else draft[1]
        # After loading: Pillow turns TIFFs upright itself, and takes the tag away.
        orientation = _orientation(image)
        rgb, note = _decoded_to_rgb(image, data, said, is_deep)
        if orientation not in _TRANSPOSE:
            return Picture(rgb, box, note)
        upright = rgb.transpose(_TRANSPOSE[orientation])
        return Picture(upright, _turn_box(box, rgb.size, orientation), note)


def _decoded_to_rgb(
    image: Image.Image, data: bytes, said: sample_depth.Statement, is_deep: bool
) -> tuple[Image.Image, str | None]:
    if not is_deep:
        return _to_rgb(image, said)
    image, note = sample_depth.deep_colour_to_8_bits(image, data, said)
    return _to_rgb(image, said)[0], note


def _turn_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a box at the image's upper left lies once the image is upright."""
    right, bottom = box[2:]
    width, height = size
    horizontal = (width - right, float(width)) if orientation in (2, 3, 7, 8) else (0.0, right)
    vertical = (height - bottom, float(height)) if orientation in (3, 4, 6, 7) else (0.0, bottom)
    if orientation in _SWAPS_SIDES:
        horizontal, vertical = vertical, horizontal
    return horizontal[0], vertical[0], horizontal[1], vertical[1]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where EXIF is broken, which is no reason to refuse."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


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
    """Width and height with the short side at shortest_edge, as transformers rounds them."""
    width, height = size
    if width <= height:
        return shortest_edge, int(shortest_edge * height / width)
    return int(shortest_edge * width / height), shortest_edge


def _centre_box(box: Box, size: tuple[int, int], centre: tuple[int, int]) -> Box:
    """The part of a box that becomes the centre when the whole of it is resized to `size`."""
    edges = []
    for axis in (0, 1):
        scale = (box[axis + 2] - box[axis]) / size[axis]
        start = box[axis] + (size[axis] - centre[axis]) // 2 * scale
        edges.append((start, start + centre[axis] * scale))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]
