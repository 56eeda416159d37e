"""PNGs with chunks that Pillow stumbles over, though no pixel depends on them."""

import io
import struct
import zlib

import numpy as np
import pytest
from deep_pictures import RGB, chunk, png
from PIL import Image

from finetune.errors import ImageError
from finetune.images import png_chunks
from finetune.images.open import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3))
LARGE = zlib.compress(b"x" * 80_000_000, 1)
XMP = b'<x:xmpmeta xmlns:tiff="t"><rdf tiff:Orientation="6"/></x:xmpmeta>'
STUMBLING = {
    "large profile": chunk(b"iCCP", b"icc\0\0" + LARGE),
    "profile of another method": chunk(b"iCCP", b"icc\0\7abc"),
    "large compressed text": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "large international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "many texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 1_000_000)) * 70,
    "large XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0text", checksum=1),
    "time with a wrong checksum": chunk(b"tIME", b"1234567", checksum=1),
    "unknown chunk with a wrong checksum": chunk(b"abCd", b"12", checksum=1),
    "gamma that is too short": chunk(b"gAMA", b"1", checksum=1),
}


@pytest.mark.parametrize("case", STUMBLING)
@pytest.mark.parametrize("behind", [False, True])
def test_what_no_pixel_depends_on_is_no_reason_to_refuse(case, behind):
    extra = STUMBLING[case]
    data = png(PIXELS, RGB, after=extra, bits=8) if behind else png(PIXELS, RGB, extra, bits=8)
    np.testing.assert_array_equal(np.asarray(open_image(data)), PIXELS)


def test_pillow_alone_would_refuse_most():
    refused = 0
    for extra in STUMBLING.values():
        try:
            with Image.open(io.BytesIO(png(PIXELS, RGB, extra, bits=8))) as image:
                image.load()
        except (ValueError, OSError, SyntaxError):
            refused += 1
    assert refused >= 7


def test_the_orientation_in_a_text_is_kept():
    for content in (
        b"XML:com.adobe.xmp\0\0\0\0\0" + XMP,
        b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP),
    ):
        data = png(PIXELS, RGB, chunk(b"iTXt", content), bits=8)
        assert open_image(data).size == (6, 9)
    exif = Image.Exif()
    exif[0x0112] = 8
    raw = exif.tobytes()
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    assert open_image(png(PIXELS, RGB, text, bits=8)).size == (6, 9)


def test_a_wrong_checksum_where_pixels_depend_on_it_is_refused():
    damaged = [
        png(PIXELS, RGB, chunk(b"tRNS", b"\0\1\0\2\0\3", checksum=1), bits=8),
        png(PIXELS, RGB, bits=8).replace(b"IHDR", b"IHDR", 1)[:29]
        + b"abcd"
        + png(PIXELS, RGB, bits=8)[33:],
    ]
    for data in damaged:
        with pytest.raises(ImageError, match="damaged"):
            open_image(data)


def test_a_file_without_anything_needless_is_not_copied():
    data = png(PIXELS, RGB, chunk(b"pHYs", struct.pack(">IIB", 1, 1, 1)), bits=8)
    assert png_chunks.without_needless_chunks(data) is data


def test_colour_profiles_are_not_applied_as_in_transformers():
    """A profile that swaps nothing and one of another space give the same pixels."""
    from PIL import ImageCms
    from transformers import CLIPImageProcessorPil

    from finetune.images.pixels import pixel_values
    from finetune.images.processor_config import preprocessing_from_config

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    ours = preprocessing_from_config({"image_processor_type": "CLIPImageProcessor"})
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        stored = io.BytesIO()
        image.save(stored, kind, icc_profile=profile)
        with Image.open(stored) as opened:
            assert opened.info.get("icc_profile")
            expected = CLIPImageProcessorPil()(opened, return_tensors="np")["pixel_values"][0]
        found = pixel_values(open_image(stored.getvalue()), ours)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
