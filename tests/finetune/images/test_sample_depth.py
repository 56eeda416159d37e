"""Pictures of more than 8 bits a sample: what becomes black, what white, and what is told."""

import io

import numpy as np
import pytest
from deep_pictures import GREY, GREY_ALPHA, RGB, RGBA, chunk, png, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.images.open import decode_image, open_image


def ramp(low: float, high: float, kind: str = "u2") -> np.ndarray:
    """kind[20, 30], from low to high."""
    return np.rint(np.linspace(low, high, 600)).reshape(20, 30).astype(kind)


def scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    levels = (values.astype(np.float64) - black) / (white - black) * 255
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


def pgm(values: np.ndarray, greatest: int) -> bytes:
    height, width = values.shape
    return f"P5\n{width} {height}\n{greatest}\n".encode() + values.astype(">u2").tobytes()


def check(data: bytes, expected: np.ndarray, *, noted: bool, within: int = 0) -> None:
    """The picture has these levels, uint8[h, w(, 3)], and a note or none."""
    image = decode_image(data)
    found = np.asarray(image.image).astype(int)
    if expected.ndim == 2:
        expected = expected[..., None]
    assert np.abs(found - expected).max() <= within
    assert (image.note is not None) == noted, image.note


def significant(*bits: int) -> bytes:
    return chunk(b"sBIT", bytes(bits))


TWELVE = ramp(0, 4095)
WRITERS = {
    "png": lambda values: png(values, GREY),
    "tiff": tiff,
    "tiff of the other byte order": lambda values: tiff(values, ">"),
    "tiff, compressed": lambda values: tiff(values, ">", deflate=True),
    "pgm": lambda values: pgm(values, 65_535),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_part_of_16_bits_is_stretched_with_a_note(kind):
    check(WRITERS[kind](TWELVE), scaled(TWELVE, 0, 4095), noted=True)
    thermal = ramp(30_000, 30_400)
    check(WRITERS[kind](thermal), scaled(thermal, 30_000, 30_400), noted=True)
    assert "use only 30,000 to 30,400" in decode_image(WRITERS[kind](thermal)).note


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("low", "high"), [(0, 65_535), (20_000, 60_000), (0, 32_768)])
def test_half_of_16_bits_or_more_is_taken_as_it_is(kind, low, high):
    values = ramp(low, high)
    check(WRITERS[kind](values), scaled(values, 0, 65_535), noted=False)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("value", [0, 1, 4095, 30_000, 65_535])
def test_a_constant_picture_is_a_picture(kind, value):
    values = np.full((4, 5), value, np.uint16)
    check(WRITERS[kind](values), scaled(values, 0, 65_535), noted=False)


@pytest.mark.parametrize("value", [-5.0, 0.0, 0.5, 200.0, 1e5, np.nan, np.inf])
def test_a_constant_float_picture_is_a_picture(value):
    data = tiff(np.full((4, 5), value, np.float32))
    white = 1 if not value > 1 else 255
    check(data, scaled(np.nan_to_num(np.full((4, 5), value), posinf=0), 0, white), noted=False)


def test_what_the_file_says_comes_first():
    dark = ramp(0, 1000)
    check(png(dark, GREY, significant(12)), scaled(dark, 0, 4095), noted=False)
    check(tiff(dark, smin=0, smax=4095), scaled(dark, 0, 4095), noted=False)
    check(tiff(dark, ">", smin=-1000, smax=2000), scaled(dark, -1000, 2000), noted=False)
    check(pgm(dark, 4095), scaled(dark, 0, 4095), noted=False, within=1)
    floating = ramp(0, 90, "f4")
    check(tiff(floating, smin=0, smax=100), scaled(floating, 0, 100), noted=False)


def test_tiff_of_12_bits():
    values = ramp(0, 2000)
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    data = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)
    made = tiff(data.astype(np.uint8).reshape(20, 45))
    # The width is that of the samples, not of the bytes.
    start = made.index(b"\x00\x01\x03\x00\x01\x00\x00\x00\x2d\x00")
    made = made[: start + 8] + b"\x1e\x00" + made[start + 10 :]
    bits = made.index(b"\x02\x01\x03\x00\x01\x00\x00\x00\x08\x00")
    made = made[: bits + 8] + b"\x0c\x00" + made[bits + 10 :]
    check(made, scaled(values, 0, 4095), noted=False)


def test_what_the_file_says_wrongly_or_needlessly_counts_for_nothing():
    # By the standard the samples fill the container, and sBIT tells where they came from.
    full = ramp(0, 65_535)
    check(png(full, GREY, significant(12)), scaled(full, 0, 65_535), noted=False)
    check(png(TWELVE, GREY, significant(16)), scaled(TWELVE, 0, 4095), noted=True)
    check(png(TWELVE, GREY, significant(10)), scaled(TWELVE, 0, 4095), noted=True)
    for tags in ({"smin": 0, "smax": 65_535}, {"smax": 100}, {"smin": 9, "smax": 3}):
        check(tiff(TWELVE, **tags), scaled(TWELVE, 0, 4095), noted=True)
    check(tiff(TWELVE, maximum=65_535), scaled(TWELVE, 0, 4095), noted=True)


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_white_is_zero(kind):
    values = ramp(0, 60_000) if kind == "u2" else ramp(0, 255, "f4")
    white = 65_535 if kind == "u2" else 255
    expected = 255 - scaled(values, 0, white)
    check(tiff(values, photometric=0), expected, noted=False)


def test_integers_of_32_bits():
    for kind in ("u4", "i4"):
        values = ramp(0, 200_000, kind)
        check(tiff(values), scaled(values, 0, 200_000), noted=True)
    wide = ramp(0, 4_294_967_295, "u4")
    check(tiff(wide), scaled(wide, 0, 4_294_967_295), noted=True)
    signed = ramp(-32_768, 32_767, "i2")
    check(tiff(signed), scaled(signed, -32_768, 32_767), noted=True)
    check(tiff(ramp(0, 255, "i4")), scaled(ramp(0, 255, "i4"), 0, 255), noted=True)


def test_floating_grey_of_which_a_part_is_used():
    values = np.linspace(0, 0.01, 600).reshape(20, 30).astype(np.float32)
    check(tiff(values), scaled(values, 0, float(values.max())), noted=True)
    check(tiff(ramp(0, 2, "f4")), scaled(ramp(0, 2, "f4"), 0, 2), noted=True)
    holed = ramp(1000, 2000, "f4")
    holed[0, :3] = np.nan, np.inf, -np.inf
    expected = scaled(np.nan_to_num(holed, nan=0, posinf=1e9, neginf=0), 1001.6694, 2000)
    check(tiff(holed), expected, noted=True, within=1)


@pytest.mark.parametrize("colour", [RGB, RGBA, GREY_ALPHA])
def test_colours_of_16_bits(colour):
    channels = {RGB: 3, RGBA: 4, GREY_ALPHA: 2}[colour]
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4096, (20, 30, channels))
    values[0, 0] = 4095
    if colour != RGB:
        values[..., -1] = 65_535
    shown = values[..., :1] if colour == GREY_ALPHA else values[..., :3]
    check(png(values, colour), scaled(shown, 0, 4095), noted=True)
    bits = (13,) * (channels - 1) + (16 if colour != RGB else 13,)
    check(png(values, colour, significant(*bits)), scaled(shown, 0, 8191), noted=False)
    bright = values * 16
    bright[..., -1] = 65_535
    shown = bright[..., :1] if colour == GREY_ALPHA else bright[..., :3]
    check(png(bright, colour), scaled(shown, 0, 65_535), noted=False, within=1)
    constant = np.zeros((3, 4, channels)) + 65_535
    constant[..., 0] = 0
    expected = constant[..., :1] if colour == GREY_ALPHA else constant[..., :3]
    check(png(constant, colour), scaled(expected, 0, 65_535), noted=False)


def test_transparency_of_16_bits():
    values = np.stack([ramp(0, 4095), np.full((20, 30), 4095)], axis=-1)
    values[:, :10, 1] = 0
    expected = scaled(values[..., 0], 0, 4095)
    expected[:, :10] = 255
    check(png(values, GREY_ALPHA), expected, noted=True)
    check(png(values, GREY_ALPHA, significant(12, 12)), expected, noted=False)
    hidden = int(TWELVE[3, 4])
    expected = np.where(hidden == TWELVE, 255, scaled(TWELVE, 0, 4095))
    check(png(TWELVE, GREY, chunk(b"tRNS", hidden.to_bytes(2, "big"))), expected, noted=True)
    colours = np.full((4, 5, 3), 60_000)
    colours[1, 2] = (1000, 2000, 3000)
    transparent = chunk(b"tRNS", np.array([1000, 2000, 3000], ">u2").tobytes())
    expected = scaled(colours, 0, 65_535)
    expected[1, 2] = 255
    check(png(colours, RGB, transparent), expected, noted=False)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_16_bits_in_a_tiff(order, deflate):
    values = np.random.default_rng(0).integers(0, 4000, (20, 30, 3)).astype(np.uint16)
    greatest = values.max()
    check(tiff(values, order, deflate=deflate), scaled(values, 0, greatest), noted=True)
    cmyk = np.concatenate([values, np.zeros((20, 30, 1), np.uint16)], axis=-1)
    expected = 255 - scaled(values, 0, greatest).astype(int)
    data = tiff(cmyk, order, deflate=deflate, photometric=5)
    check(data, expected, noted=True, within=1)
    with Image.open(io.BytesIO(tiff(values, order))) as image:
        assert image.mode == "RGB"


@settings(max_examples=40, deadline=None)
@given(
    low=st.integers(0, 65_535),
    high=st.integers(0, 65_535),
    colour=st.sampled_from([GREY, RGB]),
)
def test_whatever_the_range_a_lighter_sample_is_never_darker(low, high, colour):
    values = ramp(min(low, high), max(low, high))
    if colour == RGB:
        values = np.stack([values] * 3, axis=-1)
    image = decode_image(png(values, colour))
    found = np.asarray(image.image)[..., 0].astype(int).ravel()
    assert np.all(np.diff(found) >= 0)
    if low != high:
        # Half of the levels are used at the least: nothing comes out black in silence.
        assert found.max() >= 127


def test_a_large_picture_is_scaled_in_strips():
    values = np.zeros((2100, 2100), np.uint16)
    values[-1, -1], values[0, 0] = 4095, 1000
    found = np.asarray(open_image(png(values, GREY)))
    assert found[-1, -1, 0] == 255 and found[0, 0, 0] == 62 and found[1000, 1000, 0] == 0
