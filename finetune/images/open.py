"""Images: from any readable file to pixels, the same for training, feed and query.

Needs Pillow and numpy only. From the decoded RGB image on, `pixel_values` equals the image
processors of transformers (CLIP, SigLIP, SigLIP 2 of fixed resolution, ViT) to 1e-5. As these do,
it takes colours as they are stored: a colour profile (ICC) in the file is not applied.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from finetune.errors import ImageError
from finetune.images import formats as image_formats
from finetune.images import png_chunks, sample_depth
from finetune.images.preprocessing import Transparency
from finetune.images.source import ImageSourceLike, read_bytes, shown_name

# Refused before anything is decoded; an image of MAX_PIXELS takes 0.7 GB of memory.
# It is also the size at which Pillow itself refuses (twice its Image.MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970

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
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def open_image(
    source: ImageSourceLike, *, draft_size: tuple[int, int] | None = None, name: str | None = None
) -> Image.Image:
    """Open the image, fully decoded, upright, in mode RGB.

    The EXIF orientation is applied. Transparency is laid on white, samples of more than 8 bits
    are scaled (see `finetune.images.sample_depth`), and of an animation the first frame is taken.
    Colour profiles are not applied.

    Args:
        source: The image's file or its bytes.
        draft_size: Width and height that are needed of the upright image: a JPEG at least
            twice (4, 8 times) as large in both directions is decoded at 1/2 (1/4, 1/8), which
            is several times faster, and never below this size. Other formats come in full.
        name: What errors call the image, for a source that is bytes.

    Raises ImageError, in one sentence with the reason.
    """
    return decode_image(source, draft_size=draft_size, name=name).image


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as it was decoded.

    Attributes:
        image: Upright, in mode RGB.
        box: The part of the image that the image fills: a side of 901 pixels decoded at 1/4
            becomes 226, of which the image fills 225.25.
        note: What a user should know of how it was read, in a sentence; None for most.
    """

    image: Image.Image
    box: Box
    note: str | None = None


def decode_image(
    source: ImageSourceLike,
    *,
    draft_size: tuple[int, int] | None = None,
    name: str | None = None,
    transparency: Transparency = "white",
) -> DecodedImage:
    """Open as `open_image` does, with what is known beside.

    With alpha "dropped", transparency is not seen.
    """
    name = shown_name(source) if name is None else name
    data = read_bytes(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of MAX_PIXELS, and of broken EXIF that we do without.
            warnings.simplefilter("ignore")
            return _decode(data, draft_size, transparency)
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
        # damaged files, and one damaged image must not stop the rest.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: is damaged or truncated ({reason})") from error


def count_pixels(source: ImageSourceLike) -> int:
    """Count the image's pixels as its file says, without decoding; 0 where it does not say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = read_bytes(source)
            with Image.open(io.BytesIO(data), formats=image_formats.formats_for(data)) as image:
                return image.width * image.height
    except Exception:
        # Whatever is wrong with it is said where it is decoded.
        return 0


def to_rgb(image: Image.Image, transparency: Transparency = "white") -> Image.Image:
    """Turn a decoded image of any mode into RGB, 8 bits a channel, transparency laid on white.

    With alpha "dropped", a transparent pixel has the colour that the picture has there.

    Grey of more than 8 bits is scaled as `finetune.images.sample_depth` says, but for what Pillow
    does not keep of a file: the significant bits of a PNG.
    """
    return _to_rgb(image, sample_depth.statement(image), transparency)[0]


def _to_rgb(
    image: Image.Image, said: sample_depth.Statement, transparency: Transparency
) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, None
    if image.mode in sample_depth.GREY_MODES:
        grey, note = sample_depth.grey_to_8_bits(image, said)
        return grey.convert("RGB"), note
    if image.has_transparency_data and transparency == "white":
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, WHITE)
        flat.paste(image, mask=image.getchannel("A"))
        return flat, None
    return image.convert("RGB"), None


def _decode(
    data: bytes, draft_size: tuple[int, int] | None, transparency: Transparency
) -> DecodedImage:
    if data.startswith(png_chunks.MAGIC):
        data = png_chunks.without_needless_chunks(data)
    with Image.open(io.BytesIO(data), formats=image_formats.formats_for(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"has {image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,};"
                f" scale it down"
            )
        if image.width < 1 or image.height < 1:
            raise ImageError("has no pixels; replace or remove it")
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
        rgb, note = _decoded_to_rgb(image, data, said, is_deep, transparency)
        if orientation not in _TRANSPOSE:
            return DecodedImage(rgb, box, note)
        upright = rgb.transpose(_TRANSPOSE[orientation])
        return DecodedImage(upright, _turn_box(box, rgb.size, orientation), note)


def _decoded_to_rgb(
    image: Image.Image,
    data: bytes,
    said: sample_depth.Statement,
    is_deep: bool,
    transparency: Transparency,
) -> tuple[Image.Image, str | None]:
    if not is_deep:
        return _to_rgb(image, said, transparency)
    image, note = sample_depth.deep_colour_to_8_bits(image, data, said)
    return _to_rgb(image, said, transparency)[0], note


def _turn_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Return where a box at the image's upper left lies once the image is upright."""
    right, bottom = box[2:]
    width, height = size
    horizontal = (width - right, float(width)) if orientation in (2, 3, 7, 8) else (0.0, right)
    vertical = (height - bottom, float(height)) if orientation in (3, 4, 6, 7) else (0.0, bottom)
    if orientation in _SWAPS_SIDES:
        horizontal, vertical = vertical, horizontal
    return horizontal[0], vertical[0], horizontal[1], vertical[1]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where EXIF is broken.

    Broken EXIF is no reason to refuse.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1
