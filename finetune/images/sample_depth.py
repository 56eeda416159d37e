"""Images of more than 8 bits a sample: what becomes black, and what white.

16 bits are a container: microscopes, scanners and cameras put 10, 12 or 14 bits into it, and taken
for 16 they come out black. So, in this order:

1. What the file says: significant bits (PNG's sBIT), bits a sample (TIFF of 12), the range of the
   samples (TIFF's SMinSampleValue and SMaxSampleValue), the largest value (PGM). A statement that
   the samples contradict, or that says no more than the container, counts as none. TIFF's
   MinSampleValue and MaxSampleValue are statistics, "not to be used" for display (TIFF 6.0).
2. The whole container, 0 to 65,535 (floating grey: 0 to 1, or 0 to 255), where the samples use at
   least half of it.
3. The samples' own range, from the least to the greatest (colours: from 0, so that hues stay),
   with a note.

A constant image is scaled by its container, and cut off where it lies outside.
"""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from finetune.images import png_chunks

GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")

_FULL = 65_535.0
_FLOAT_RANGES = (1.0, 255.0)
_WHITE_IS_ZERO = 0
_SMIN, _SMAX = 340, 341
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_STRIP_SAMPLES = 1 << 22

# The same bytes, read as of the other byte order: what is the lower byte of a sample then comes
# out as if it were the upper one.
_SWAPPED = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX", "CMYK")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_GREY_AND_ALPHA = "LA;16B"

SampleRange = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a file says about its samples.

    Attributes:
        range: What is black and what is white; None where it does not say.
        alpha_bits: Significant bits of the transparency; None where it does not say.
        unsigned: Whether Pillow's signed integers of 32 bits are unsigned ones.
        white_is_zero: Whether the least sample is white.
    """

    range: SampleRange | None = None
    alpha_bits: int | None = None
    unsigned: bool = False
    white_is_zero: bool = False


def statement(image: Image.Image, data: bytes = b"") -> Statement:
    """Return what is said by the file that Pillow has opened; of a PNG also by its bytes.

    Call it before the image is loaded.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_statement(image)
    if data.startswith(png_chunks.MAGIC):
        bits = png_chunks.significant_bits(data)
        if not bits:
            return Statement()
        has_alpha = len(bits) in (2, 4)
        most = max(bits[:-1] if has_alpha else bits)
        stated = (0.0, float((1 << most) - 1)) if 0 < most < 16 else None
        return Statement(stated, bits[-1] if has_alpha and 0 < bits[-1] < 16 else None)
    tiles: Any = getattr(image, "tile", ())
    # Pillow scales a PGM by its largest value to 16 bits.
    if tiles and tiles[0][0].startswith("ppm") and image.mode == "I":
        return Statement((0.0, _FULL))
    return Statement()


def grey_to_8_bits(image: Image.Image, said: Statement) -> tuple[Image.Image, str | None]:
    """Return an image of one of GREY_MODES in mode L, and the note where its own range was taken.

    A transparent grey (PNG's tRNS) becomes white.
    """
    low, high = _extrema(image, said)
    black, white, note = _choose(low, high, image.mode, said.range)
    transparent = image.info.get("transparency")
    result = Image.new("L", image.size)
    for top, values in _strips(image, said):
        shown = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        levels = _levels((shown - black) / (white - black) * 255)
        if said.white_is_zero:
            levels = 255 - levels
        if isinstance(transparent, int) and values.dtype.kind != "f":
            levels[values == transparent] = 255
        result.paste(Image.fromarray(levels), (0, top))
    return result, note


def is_deep(image: Image.Image) -> bool:
    """Return whether an image that is not yet loaded has more than 8 bits a sample."""
    return image.mode in GREY_MODES or is_deep_colour(image)


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether an image that is not yet loaded has several channels of 16 bits."""
    rawmodes = {_rawmode(tile) for tile in getattr(image, "tile", ())}
    return len(rawmodes) == 1 and rawmodes <= {*_SWAPPED, _GREY_AND_ALPHA}


def deep_colour_to_8_bits(
    image: Image.Image, data: bytes, said: Statement
) -> tuple[Image.Image, str | None]:
    """Return a loaded image with several channels of 16 bits, scaled as grey is; note as there.

    Args:
        image: As Pillow gives it: the upper byte of each sample.
        data: The file, to read the lower bytes from where they are needed.
        said: By the file.
    """
    with Image.open(io.BytesIO(data), formats=(image.format or "",)) as again:
        is_grey = _rawmode(again.tile[0]) == _GREY_AND_ALPHA
        transparent = image.info.get("transparency")
        colours = 1 if is_grey else 4 if image.mode == "CMYK" else 3
        extrema: Any = image.getextrema()
        upper = max(high for _, high in extrema[:colours])
        is_stated = said.range is not None or said.alpha_bits is not None
        if 2 * upper > 255 and not is_stated and not isinstance(transparent, tuple):
            return image, None
        _read_lower_bytes(again, is_grey)
        again.load()
        strips = _Samples(image, again, is_grey)
        greatest = strips.greatest()
        high, alpha_high = float(greatest[:colours].max()), float(greatest[-1])
        white, note = _white(high, said.range)
        alpha_white = _alpha_white(alpha_high, said.alpha_bits)
        mode = "RGBA" if is_grey else image.mode
        result = Image.new(mode, image.size)
        for top, samples in strips:
            whites = np.full(samples.shape[-1], white)
            if mode == "RGBA":
                whites[-1] = alpha_white
            levels = _levels(samples / whites * 255)
            if is_grey:
                levels = levels[..., (0, 0, 0, 1)]
            if mode == "RGB" and isinstance(transparent, tuple):
                levels[(samples == transparent).all(axis=-1)] = 255
            size = (levels.shape[1], levels.shape[0])
            result.paste(Image.frombytes(mode, size, levels.tobytes()), (0, top))
        return result, note


class _Samples:
    """The 16-bit samples of an image, from its upper and its lower bytes, in strips."""

    def __init__(self, upper: Image.Image, lower: Image.Image, is_grey: bool) -> None:
        self._upper, self._lower, self._is_grey = upper, lower, is_grey

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield the first row and float32[rows, width, channels] of each strip."""
        for top, box in _boxes(self._upper):
            lower = np.asarray(self._lower.crop(box)).astype(np.uint16)
            if self._is_grey:
                # Grey and transparency, two bytes each, read as four channels.
                samples = lower[..., 0::2] << 8 | lower[..., 1::2]
            else:
                samples = np.asarray(self._upper.crop(box)).astype(np.uint16) << 8 | lower
            yield top, samples.astype(np.float32)

    def greatest(self) -> npt.NDArray[np.float32]:
        """Return the greatest sample of each channel."""
        most = [samples.max(axis=(0, 1)) for _, samples in self]
        greatest: npt.NDArray[np.float32] = np.max(most, axis=0)
        return greatest


def _read_lower_bytes(image: Any, is_grey: bool) -> None:
    if is_grey:
        image._mode = "RGBA"
    tiles = []
    for tile in image.tile:
        rawmode = "RGBA" if is_grey else _SWAPPED[_rawmode(tile)]
        arguments = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
        tiles.append((*tile[:3], arguments))
    image.tile = [type(old)(*new) for old, new in zip(image.tile, tiles, strict=True)]


def _rawmode(tile: Any) -> str:
    arguments = tile[3]
    first = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return str(first)


def _tiff_statement(image: TiffImagePlugin.TiffImageFile) -> Statement:
    tags = image.tag_v2
    bits, sample_format = _first(tags.get(_BITS_PER_SAMPLE)), _first(tags.get(_SAMPLE_FORMAT, 1))
    low, high = _first(tags.get(_SMIN, 0)), _first(tags.get(_SMAX))
    stated = None
    if high is not None and low is not None and np.isfinite([low, high]).all() and low < high:
        stated = (low, high)
        if sample_format != 3 and bits and high - low >= 2**bits - 1:
            stated = None
    if stated is None and image.mode.startswith("I;16") and bits and bits < 16:
        stated = (0.0, 2**bits - 1)
    return Statement(
        stated,
        unsigned=image.mode == "I" and bits == 32 and sample_format == 1,
        # Of 8 bits and fewer, Pillow turns them itself.
        white_is_zero=image.mode in GREY_MODES and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def _first(value: Any) -> float | None:
    """Return the first number of a tag, as files give one for each channel or one for all."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _choose(
    low: float, high: float, mode: str, stated: SampleRange | None
) -> tuple[float, float, str | None]:
    """Return what becomes black and white, and the note where that is the image's own range."""
    if stated is not None and stated[0] <= low and high <= stated[1]:
        return *stated, None
    ranges = _FLOAT_RANGES if mode == "F" else (_FULL,)
    full = next((each for each in ranges if low >= 0 and high <= each), None)
    if low == high:
        return 0.0, full or ranges[-1], None
    if full is not None and 2 * (high - low) >= full:
        return 0.0, full, None
    return low, high, _own_range(low, high)


def _white(high: float, stated: SampleRange | None) -> tuple[float, str | None]:
    if stated is not None and high <= stated[1]:
        return stated[1], None
    if high == 0 or 2 * high >= _FULL:
        return _FULL, None
    return high, _own_range(0, high)


def _alpha_white(high: float, bits: int | None) -> float:
    """Return what is opaque: an image nowhere half opaque uses a part of the range alone."""
    if bits is not None and high <= (1 << bits) - 1:
        return float((1 << bits) - 1)
    return _FULL if high == 0 or 2 * high >= _FULL else high


def _levels(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return levels


def _own_range(low: float, high: float) -> str:
    return f"its samples use only {low:,.7g} to {high:,.7g}, which were taken for black and white"


def _extrema(image: Image.Image, said: Statement) -> SampleRange:
    """Return the least and the greatest finite sample; 0 and 0 where there is none."""
    low, high = np.inf, -np.inf
    for _, values in _strips(image, said):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _strips(image: Image.Image, said: Statement) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the first row and the samples of each strip, so that memory stays bounded."""
    for top, box in _boxes(image):
        values = np.asarray(image.crop(box))
        yield top, values.view(np.uint32) if said.unsigned else values


def _boxes(image: Image.Image) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    rows = max(1, _STRIP_SAMPLES // image.width)
    for top in range(0, image.height, rows):
        yield top, (0, top, image.width, min(top + rows, image.height))
