"""Reading and preparing pictures, against transformers' own processors and Pillow's own files."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw
from transformers import AutoImageProcessor

from finetune.errors import EncoderError, ImageError
from finetune.images import pixels as pixels_room
from finetune.images import source as source_room
from finetune.images.open import open_image, to_rgb
from finetune.images.pixels import load_pixels, normalize, pixel_values, resize_and_crop
from finetune.images.processor_config import preprocessing_from_config, preprocessor_config
from finetune.images.source import ImageSource

CLIP = preprocessing_from_config({"image_processor_type": "CLIPImageProcessor"})
SIZES = [
    (1, 1), (1, 7), (7, 1), (1, 90), (90, 1), (2, 3), (223, 224), (224, 223), (224, 224),
    (225, 224), (448, 448), (447, 449), (300, 301), (333, 57), (31, 999), (640, 480), (517, 1033),
]  # fmt: skip


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Something like a photograph: the power falls with the frequency, and there are edges."""
    rng = np.random.default_rng(seed)
    width, height = size
    values = np.zeros((height, width, 3))
    for step in (128, 64, 32, 16, 8, 4, 2):
        small = rng.normal(size=(height // step + 2, width // step + 2, 3)) * step
        planes = [
            Image.fromarray(small[..., channel].astype(np.float32)).resize(size, 3)
            for channel in range(3)
        ]
        values += np.stack([np.asarray(plane) for plane in planes], axis=-1)
    values = 127 + values * (50 / values.std())
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = rng.integers(0, width), rng.integers(0, height), rng.integers(5, width // 4 + 6)
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        draw.rectangle((x, y, x + r, y + r // 2), outline=colour, width=4)
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


# --- against transformers ---------------------------------------------------------------------


def processor(name: str, **config):
    import transformers

    return getattr(transformers, name + "Pil")(**config)


CONFIGS = [
    ("CLIPImageProcessor", {}),
    (
        "CLIPImageProcessor",
        {
            "size": {"shortest_edge": 97},
            "crop_size": {"height": 90, "width": 61},
            "resample": 2,
            "image_mean": [0.1, 0.5, 0.9],
            "image_std": [0.2, 0.3, 0.4],
        },
    ),
    # the crop is larger than what was resized: black borders, of odd widths
    (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 45, "width": 52}},
    ),
    ("SiglipImageProcessor", {}),
    ("SiglipImageProcessor", {"size": {"height": 96, "width": 128}, "resample": 1}),
    ("ViTImageProcessor", {}),
    ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "resample": 0}),
]


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_equals_the_processors_of_transformers(name, config):
    reference = processor(name, **config)
    ours = preprocessing_from_config({"image_processor_type": name, **config})
    for number, size in enumerate(SIZES):
        rng = np.random.default_rng(number)
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        expected = reference(image, return_tensors="np")["pixel_values"][0]
        found = pixel_values(image, ours)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=str(size))


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 120), height=st.integers(1, 120), edge=st.integers(1, 60))
def test_equals_transformers_at_every_size(width, height, edge):
    config = {"size": {"shortest_edge": edge}, "crop_size": {"height": 24, "width": 31}}
    image = gradient(width, height)
    expected = processor("CLIPImageProcessor", **config)(image, return_tensors="np")
    ours = preprocessing_from_config({"image_processor_type": "CLIPImageProcessor", **config})
    np.testing.assert_allclose(
        pixel_values(image, ours), expected["pixel_values"][0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (2, 201)])
def test_a_very_long_picture_is_resized_at_its_centre_alone(size, monkeypatch):
    # Not up to 0 and 255, since Pillow takes the axes of tall pictures in the other order, and
    # cuts off what overshoots in between.
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(60, 196, (size[1], size[0], 3), dtype=np.uint8))
    centre = resize_and_crop(image, CLIP)
    monkeypatch.setattr(pixels_room, "MAX_WHOLE_ASPECT", 1000)
    whole = resize_and_crop(image, CLIP)
    assert np.abs(centre.astype(int) - whole.astype(int)).max() <= 2


def test_a_strip_of_extreme_length_takes_no_memory_worth_naming():
    image = Image.new("RGB", (1, 2_000_000), (10, 20, 30))
    assert np.all(resize_and_crop(image, CLIP) == (10, 20, 30))


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_the_written_config_makes_the_same_pixels_in_transformers(name, config, tmp_path):
    ours = preprocessing_from_config({"image_processor_type": name, **config})
    family = "siglip" if name.startswith("Siglip") else "clip"
    written = preprocessor_config(ours, family)
    assert preprocessing_from_config(written) == ours
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    image = gradient(101, 67)
    expected = loaded(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixel_values(image, ours), expected, atol=1e-5, rtol=0)


def test_normalize_takes_batches():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 3), dtype=np.uint8)
    found = normalize(pixels, CLIP)
    assert found.shape == (2, 3, 3, 5, 4)
    expected = (pixels / 255 - np.array(CLIP.mean)) / np.array(CLIP.std)
    np.testing.assert_allclose(found, np.moveaxis(expected, -1, -3), atol=1e-5)


# --- modes and formats ------------------------------------------------------------------------


def test_every_orientation_comes_upright():
    upright = gradient(41, 30)
    undo = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    for orientation, turn in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF", "WEBP"):
            options = {"lossless": True} if kind == "WEBP" else {}
            data = saved(turn(upright), kind, exif=exif, **options)
            np.testing.assert_array_equal(
                np.asarray(open_image(data)), np.asarray(upright), f"{kind} {orientation}"
            )


def test_draft_mode_respects_a_turned_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photograph((800, 200)), "JPEG", exif=exif)
    assert open_image(data).size == (200, 800)
    assert open_image(data, draft_size=(50, 400)).size == (100, 400)
    assert open_image(data, draft_size=(400, 50)).size == (200, 800)


def test_broken_exif_is_no_reason_to_refuse():
    data = saved(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert open_image(data).size == (40, 30)


def test_transparency_is_laid_on_white():
    alpha = Image.new("L", (40, 30), 0)
    alpha.paste(128, (10, 0, 20, 30))
    alpha.paste(255, (20, 0, 40, 30))
    image = gradient()
    image.putalpha(alpha)
    expected = np.asarray(image).astype(float)
    share = expected[..., 3:] / 255
    expected = expected[..., :3] * share + 255 * (1 - share)
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        found = np.asarray(open_image(saved(image, kind, **options))).astype(float)
        assert np.abs(found - expected).max() <= 1, kind
    grey = Image.merge("LA", (gradient().convert("L"), alpha))
    found = np.asarray(open_image(saved(grey, "PNG")))
    assert np.all(found[:, :10] == 255)
    assert np.all(found[:, 20:] == np.asarray(gradient().convert("L"))[:, 20:, None])


def test_alpha_is_dropped_where_that_is_asked_for_as_openclip_does(tmp_path):
    picture = gradient(101, 67)
    alpha = np.random.default_rng(0).integers(0, 256, (67, 101), dtype=np.uint8)
    picture.putalpha(Image.fromarray(alpha))
    dropped = replace(CLIP, transparency="dropped")
    # open_clip's transform is image.convert("RGB")
    expected = pixel_values(picture.convert("RGB"), CLIP)
    np.testing.assert_array_equal(pixel_values(picture, dropped), expected)
    white = processor("CLIPImageProcessor")(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixel_values(picture, CLIP), white, atol=0.03)
    assert np.abs(white - expected).max() > 1
    path = tmp_path / "icon.png"
    picture.save(path)
    plain = load_pixels(ImageSource(path), dropped)
    np.testing.assert_array_equal(plain, resize_and_crop(picture.convert("RGB"), CLIP))
    # the word travels in the configuration, which the fingerprint counts and transformers reads
    written = preprocessor_config(dropped, "clip")
    assert preprocessing_from_config(written) == dropped
    assert "transparency" not in preprocessor_config(CLIP, "clip")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    loaded = AutoImageProcessor.from_pretrained(tmp_path)(
        picture.convert("RGB"), return_tensors="np"
    )
    np.testing.assert_allclose(loaded["pixel_values"][0], expected, atol=1e-5)
    with pytest.raises(EncoderError, match="transparency=black is not supported"):
        preprocessing_from_config({**written, "transparency": "black"})


def test_palettes_with_and_without_transparency():
    palette = gradient().quantize(16, dither=Image.Dither.NONE)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(saved(palette, "PNG"))), expected)
    hidden = int(np.asarray(palette)[0, 0])
    found = np.asarray(open_image(saved(palette, "PNG", transparency=hidden)))
    where = np.asarray(palette) == hidden
    assert np.all(found[where] == 255)
    np.testing.assert_array_equal(found[~where], expected[~where])


def test_a_transparent_colour_of_a_picture_without_palette():
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    image.putpixel((0, 0), (1, 2, 3))
    found = np.asarray(open_image(saved(image, "PNG", transparency=(1, 2, 3))))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [10, 20, 30]


def test_black_and_white_and_grey():
    for mode in ("1", "L"):
        image = gradient().convert(mode)
        found = np.asarray(open_image(saved(image, "PNG")))
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")), mode)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.linspace(0, 65_535, 40 * 30).reshape(30, 40).astype(np.uint16)
    found = np.asarray(open_image(saved(Image.fromarray(values), kind)))
    expected = np.rint(values / 257)
    assert np.all(found == expected[..., None])
    assert found.max() == 255 and 120 < found.mean() < 135


def test_16_bit_grey_of_the_other_byte_order():
    values = np.linspace(0, 65_535, 12).reshape(3, 4).astype(">u2")
    data = saved(Image.frombytes("I;16B", (4, 3), values.tobytes()), "TIFF")
    np.testing.assert_array_equal(
        np.asarray(open_image(data))[..., 0], np.rint(values.astype(float) / 257)
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 200.0]], np.float32), [0, 100, 200]),
        (np.array([[-5.0, 0.0, 5.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.0, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[0, 32_896, 65_535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100_000]], np.int32), [0, 0, 255]),
    ],
)
def test_floating_and_integer_grey(values, expected):
    found = np.asarray(open_image(saved(Image.fromarray(values), "TIFF")))
    assert np.abs(found[0, :, 0].astype(int) - expected).max() <= 1


def test_cmyk_jpegs_are_not_inverted():
    # Adobe's programs store CMYK inverted, and Pillow writes them the same way.
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for data in (saved(red, "JPEG", quality=95), saved(red, "TIFF")):
        found = np.asarray(open_image(data)).reshape(-1, 3).mean(axis=0)
        assert found[0] > 240 and found[1] < 15 and found[2] < 15
    assert b"Adobe" in saved(red, "JPEG")


def test_other_modes():
    for mode in ("YCbCr", "RGBX", "HSV"):
        image = gradient().convert("RGB").convert(mode)
        assert to_rgb(image).mode == "RGB"
    lab = ImageCms.profileToProfile(
        gradient(),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    found = np.asarray(open_image(saved(lab, "TIFF"))).astype(int)
    assert np.abs(found - np.asarray(gradient()).astype(int)).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue", "lime")]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50}
    if kind == "WEBP":
        options["lossless"] = True
    found = np.asarray(open_image(saved(frames[0], kind, **options)))
    assert found.shape == (10, 20, 3)
    assert np.all(found == (255, 0, 0))


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "JPEG2000", "AVIF", "ICO", "TGA"])
def test_other_formats(kind):
    image = gradient(64, 64)
    options = {"sizes": [(64, 64)]} if kind == "ICO" else {}
    found = np.asarray(open_image(saved(image, kind, **options))).astype(int)
    assert np.abs(found - np.asarray(image)).mean() < 12


def test_jpegs_of_several_pictures():
    data = saved(gradient(), "MPO", save_all=True, append_images=[gradient()])
    assert open_image(data, draft_size=(10, 10)).size == (20, 15)


# --- sources ----------------------------------------------------------------------------------


def test_a_picture_within_a_shard(tmp_path):
    first, second = saved(gradient(), "PNG"), saved(gradient(12, 9), "PNG")
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"x" * 100 + first + second + b"y" * 100)
    source = ImageSource(shard, 100 + len(first), len(second))
    assert source.read() == second
    with source.open() as file:
        assert file.read() == second
    assert open_image(source).size == (12, 9)
    with pytest.raises(ImageError, match=r"shard.tar \(at byte 90000\).*ends within"):
        open_image(ImageSource(shard, 90_000, 10))


def test_files_of_every_kind_of_source(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(gradient(), "PNG"))
    with path.open("rb") as file:
        for source in (path, ImageSource(path), path.read_bytes(), file):
            assert open_image(source).size == (40, 30)


# --- what is refused --------------------------------------------------------------------------

REFUSED = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"this is no picture", "holds text"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "web page"),
    "drawing.png": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
    "phone.jpg": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
    "page.tif": (b"%PDF-1.7 \x00", "PDF"),
    "noise.png": (bytes(range(128, 256)) + b"\x00", "no picture of a known format"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "half.jpg": (saved(photograph((64, 64)), "JPEG")[:-700], "damaged or truncated"),
    "start.jpg": (saved(gradient(), "JPEG")[:30], "damaged or truncated"),
    "half.png": (saved(photograph((64, 64)), "PNG")[:2000], "damaged or truncated"),
    "start.png": (saved(gradient(), "PNG")[:12], "damaged or truncated"),
    "half.gif": (saved(photograph((64, 64)), "GIF")[:900], "damaged or truncated"),
    "half.webp": (saved(photograph((64, 64)), "WEBP")[:300], "damaged or truncated"),
    "half.tif": (saved(photograph((64, 64)), "TIFF")[:900], "damaged or truncated"),
    "half.bmp": (saved(photograph((64, 64)), "BMP")[:900], "damaged or truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_sentence_says_what_is_wrong(name, tmp_path):
    data, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        load_pixels(ImageSource(path), CLIP)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and "BytesIO" not in message


def test_what_is_no_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is a pipe"):
        open_image(tmp_path / "pipe.jpg")


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(source_room.MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match=r"1\.0 GiB, above the limit"):
        open_image(path)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("side", [13_400, 100_000])
def test_decompression_bombs_are_refused(side):
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="more than 178,956,970"):
        open_image(bomb(side))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error")
def test_a_large_picture_below_the_limit_is_read_without_a_warning():
    data = saved(Image.new("L", (10_000, 9_500), 77), "JPEG")
    assert load_pixels(data, CLIP).shape == (224, 224, 3)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_give_pixels_or_an_image_error(kind, places):
    data = bytearray(saved(gradient(), kind))
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    try:
        assert load_pixels(bytes(data), CLIP).shape == (224, 224, 3)
    except ImageError as error:
        assert "\n" not in str(error)


# --- draft mode -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((447, 900), (447, 900)),
        ((448, 448), (224, 224)),
        ((640, 480), (320, 240)),
        ((900, 895), (450, 448)),
        ((900, 897), (225, 225)),
        ((2000, 3000), (250, 375)),
    ],
)
def test_draft_mode_starts_at_twice_the_size_needed(size, decoded):
    data = saved(gradient(*size), "JPEG")
    assert open_image(data).size == size
    assert open_image(data, draft_size=(224, 224)).size == decoded


def random_vit(side: int):
    """A ViT of random weights, whose embeddings of unlike pictures differ."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=side,
        patch_size=side // 7,
        projection_dim=64,
        initializer_factor=3.0,
    )
    return CLIPVisionModelWithProjection(config).eval()


def draft_and_full(side: int, files: list[bytes]) -> np.ndarray:
    """Cosine of the embeddings of a file decoded in draft mode and in full, float[n]."""
    import torch

    model = random_vit(side)
    preprocessing = preprocessing_from_config(
        {"image_processor_type": "CLIPImageProcessor", "size": side, "crop_size": side}
    )

    def embeddings(pixels: list[np.ndarray]) -> np.ndarray:
        values = torch.from_numpy(normalize(np.stack(pixels), preprocessing))
        with torch.inference_mode():
            found = model(pixel_values=values).image_embeds.numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    draft = embeddings([load_pixels(data, preprocessing) for data in files])
    full = embeddings([resize_and_crop(open_image(data), preprocessing) for data in files])
    unlike = (full @ full.T)[~np.eye(len(files), dtype=bool)]
    assert np.median(unlike) < 0.95, "this model cannot tell pictures apart"
    return (draft * full).sum(axis=1)


def test_draft_mode_is_kept_for_pictures_much_larger_than_needed():
    for size in [(640, 480), (1119, 1500)]:
        data = saved(photograph(size), "JPEG")
        np.testing.assert_array_equal(
            load_pixels(data, CLIP), resize_and_crop(open_image(data), CLIP)
        )
    data = saved(photograph((1120, 1500)), "JPEG")
    assert np.any(load_pixels(data, CLIP) != resize_and_crop(open_image(data), CLIP))


def test_draft_mode_hardly_moves_the_embedding():
    # For a tower of 56 px these are decoded at 1/2, 1/4 and 1/8.
    sizes = [(640, 480), (480, 640), (449, 451), (1024, 768), (901, 1203), (2000, 1500)]
    files = []
    for seed, size in enumerate(sizes):
        exif = Image.Exif()
        exif[0x0112] = seed + 1
        files += [
            saved(photograph(size, seed), "JPEG", quality=quality, exif=exif)
            for quality in (75, 92)
        ]
    cosines = draft_and_full(56, files)
    assert np.median(cosines) < 1 - 1e-6, "nothing was decoded in draft mode"
    assert cosines.min() >= 0.999, cosines


def test_draft_mode_hardly_moves_the_embedding_of_real_pictures(shared):
    # These are small, so the tower is too: all are decoded at 1/2.
    folder = shared / "data" / "openstax-figures" / "images"
    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:4000:20]]
    cosines = draft_and_full(28, files)
    assert np.median(cosines) < 1 - 1e-6, "nothing was decoded in draft mode"
    assert cosines.min() >= 0.999, np.sort(cosines)[:10]


def test_needs_neither_torch_nor_transformers():
    code = "import sys, finetune.images; print([m for m in ('torch', 'transformers', 'pandas',"
    code += " 'lancedb', 'onnxruntime', 'multiprocessing') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
