"""Crops of original images, before they are resized, as torchvision and OpenCLIP take them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.config.image_augmentation import AugmentConfig
from finetune.data.cropped_pixels import CroppedPixels, draw_crops
from finetune.errors import TrainingError, UsageError
from finetune.images.decode_workers import Decoder
from finetune.images.pixels import load_image, resize_and_crop
from finetune.images.preprocessing import Preprocessing
from finetune.images.random_crop import RandomCrop
from finetune.images.source import ImageSource

SIDE = 32
PREPROCESSING = Preprocessing(
    SIDE, SIDE, "shortest-edge", SIDE, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
)
# huggingface.co/JianLiao's icons, and CLIP-rsicd
OPENCLIP = AugmentConfig(
    crop_before_resizing=True, interpolation="bicubic", resized_crop_scale=(0.9, 1.0)
)
RSICD = AugmentConfig(
    crop_before_resizing=True, interpolation="bicubic", random_crop_pixels=20,
    resized_crop_scale=(0.8, 1.0), resized_crop_ratio=(1, 1),
)  # fmt: skip


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.sampled_from([OPENCLIP, RSICD, AugmentConfig(crop_before_resizing=True, random_crop=0.4)]),
    st.integers(0, 50),
)
def test_a_crop_lies_within_its_picture(size, config, step) -> None:
    for crop in draw_crops(config, 3, 1, step):
        left, top, right, bottom = crop.box(size)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_areas_and_ratios_are_those_of_a_random_resized_crop() -> None:
    wide = AugmentConfig(
        crop_before_resizing=True, resized_crop_scale=(0.3, 0.6), resized_crop_ratio=(0.75, 1.5)
    )
    boxes = np.array([crop.box((400, 300)) for crop in draw_crops(wide, 2000, 0, 0)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = width * height / (400 * 300), width / height
    assert (area.min(), area.max()) == pytest.approx((0.3, 0.6), abs=0.01)
    assert (ratio.min(), ratio.max()) == pytest.approx((0.75, 1.5), abs=0.01)
    # log-uniform, and all over the image
    assert np.mean(np.log(ratio)) == pytest.approx(np.log(0.75 * 1.5) / 2, abs=0.02)
    assert boxes[:, :2].min() < 5
    assert np.median(boxes[:, 0] / (400 - width)) == pytest.approx(0.5, abs=0.05)


def test_a_crop_of_pixels_is_one_of_the_original() -> None:
    """179 px are 70 % of a side of UCM's 256 and 36 % of one of Sydney's 500."""
    for side, share in ((256, 0.70), (500, 0.36)):
        (crop,) = draw_crops(
            AugmentConfig(crop_before_resizing=True, random_crop_pixels=179), 1, 0, 0
        )
        left, top, right, bottom = crop.box((side, side))
        assert right - left == bottom - top == 179
        assert (right - left) / side == pytest.approx(share, abs=0.01)
    assert crop.box((100, 300))[::2] == (0, 100), "a smaller image stays whole"


def test_pixels_are_pillows_of_the_box(tmp_path: Path) -> None:
    image = noise(90, 70)
    image.save(tmp_path / "a.png")
    source = ImageSource(tmp_path / "a.png")
    crop = RandomCrop(
        area=0.5, log_ratio=0.1, place_within=(0.3, -0.2), resample="bicubic", share=0.9
    )
    found, _ = load_image(source, PREPROCESSING, crop=crop)
    stretched = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, crop.box(image.size))
    np.testing.assert_array_equal(found, np.asarray(stretched))
    # without the second crop the image keeps its shape: short side, then the centre
    whole = RandomCrop(resample="bicubic")
    found, _ = load_image(source, PREPROCESSING, crop=whole)
    np.testing.assert_array_equal(found, resize_and_crop(image, PREPROCESSING))


@pytest.fixture
def sources(tmp_path: Path) -> list[ImageSource]:
    for number in range(6):
        noise(60 + number, 50, number).save(tmp_path / f"{number}.png")
    return [ImageSource(tmp_path / f"{number}.png") for number in range(6)]


def steps(first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for step in range(first, 4):
        images = np.random.default_rng(step).permutation(6)[:4]
        yield images, np.array([1, 3])


def test_a_step_is_cropped_by_seed_and_step_alone_and_by_any_process(sources) -> None:
    with Decoder(PREPROCESSING, 0) as here, Decoder(PREPROCESSING, 1) as worker:
        all_steps = list(CroppedPixels(here, sources, RSICD, 5).batches(0, steps(0)))
        resumed = list(CroppedPixels(worker, sources, RSICD, 5).batches(2, steps(2)))
        other = list(CroppedPixels(here, sources, RSICD, 6).batches(0, steps(0)))
    assert all_steps[0].shape == (2, SIDE, SIDE, 3)
    for found, again in zip(all_steps[2:], resumed, strict=True):
        np.testing.assert_array_equal(found, again)
    assert not np.array_equal(all_steps[0], other[0])
    # two processes of a run share a step's crops: the first and third row are the other's
    images, _ = next(steps(0))
    crop = draw_crops(RSICD, 4, 5, 0)[3]
    expected, _ = load_image(sources[images[3]], PREPROCESSING, crop=crop)
    np.testing.assert_array_equal(all_steps[0][1], expected)


def test_a_picture_that_is_gone_is_named(sources) -> None:
    sources[0].path.unlink()
    with Decoder(PREPROCESSING, 0) as decoder:
        cropped = CroppedPixels(decoder, sources, RSICD, 0)
        with pytest.raises(TrainingError, match=r"an image changed during training: .*0\.png"):
            next(cropped.batches(0, iter([(np.arange(6), np.arange(6))])))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["random_crop_pixels=179"], "pixels of the original image; add crop_before_resizing"),
        (["crop_before_resizing=maybe"], "crop_before_resizing is true or false, not maybe"),
        (["interpolation=nearest"], "interpolation must be bilinear or bicubic, not nearest"),
        (["crop_before_resizing=true", "random_crop_pixels=1.5"], "a whole number of pixels"),
        (["crop_before_resizing=true", "random_crop_pixels=-1"], "a whole number of pixels"),
        (
            ["crop_before_resizing=true", "random_crop_pixels=9", "random_crop=0.5"],
            "two sizes of one crop",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message) -> None:
    with pytest.raises(UsageError, match=message):
        AugmentConfig().override(values)


def test_settings_come_back_from_a_mapping() -> None:
    for config in (OPENCLIP, RSICD):
        assert AugmentConfig.from_mapping(config.as_dict()) == config
    assert AugmentConfig().override(["crop-before-resizing=True"]).crops_originals is False
    assert RSICD.crops_originals
