"""Augmentation of pictures: against numpy and colorsys, and on its properties."""

import colorsys
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from finetune.config.image_augmentation import AugmentConfig
from finetune.data.image_augmentation import HUE, ImageAugmentation, apply_draws, draw
from finetune.errors import UsageError

EVERYTHING = AugmentConfig(
    horizontal_flip=0.5,
    vertical_flip=0.5,
    random_crop=0.9,
    resized_crop_scale=(0.3, 1.0),
    rotation=15,
    color_jitter=(0.4, 0.4, 0.4, 0.2),
    color_jitter_p=0.8,
    grayscale=0.2,
)


def bytes_of(count: int, height: int = 24, width: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def augmented(config: AugmentConfig, pixels: np.ndarray, seed: int = 0, step: int = 0):
    return ImageAugmentation(config, seed)(torch.from_numpy(pixels), step).numpy()


def test_off_is_the_picture_itself() -> None:
    config = AugmentConfig()
    assert not config.is_on
    pixels = bytes_of(4)
    np.testing.assert_array_equal(
        augmented(config, pixels), pixels.astype(np.float32) / np.float32(255)
    )
    floats = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(augmented(config, floats), floats)


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", -1), ("vertical_flip", -2)])
def test_flips_are_numpys(name: str, axis: int) -> None:
    pixels = bytes_of(64, 10, 14)
    plain = pixels.astype(np.float32) / np.float32(255)
    mirrored = np.flip(plain, axis)
    np.testing.assert_array_equal(augmented(AugmentConfig(**{name: 1.0}), pixels), mirrored)
    half = augmented(AugmentConfig(**{name: 0.5}), pixels)
    is_mirrored = [np.array_equal(a, b) for a, b in zip(half, mirrored, strict=True)]
    is_plain = [np.array_equal(a, b) for a, b in zip(half, plain, strict=True)]
    assert all(a != b for a, b in zip(is_mirrored, is_plain, strict=True))
    assert 16 < sum(is_mirrored) < 48


def test_everything_stays_within_zero_and_one_and_leaves_its_input_alone() -> None:
    for pixels in (bytes_of(48), bytes_of(48).astype(np.float32) / 255):
        before = pixels.copy()
        varied = augmented(EVERYTHING, pixels)
        assert varied.shape == pixels.shape
        assert varied.dtype == np.float32
        assert varied.min() >= 0
        assert varied.max() <= 1
        np.testing.assert_array_equal(pixels, before)


def test_a_view_with_colours_last_gives_the_same() -> None:
    pixels = bytes_of(6)
    view = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(
        ImageAugmentation(EVERYTHING, 3)(view, 5).numpy(), augmented(EVERYTHING, pixels, 3, 5)
    )


def test_seed_and_step_decide_and_nothing_else() -> None:
    pixels = bytes_of(8)
    torch.manual_seed(1)
    first = augmented(EVERYTHING, pixels, seed=7, step=11)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = augmented(EVERYTHING, pixels, seed=7, step=11)
    np.testing.assert_array_equal(first, again)
    torch.manual_seed(1)
    augmented(EVERYTHING, pixels, seed=7, step=12)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random state was moved"
    assert not np.array_equal(first, augmented(EVERYTHING, pixels, seed=7, step=12))
    assert not np.array_equal(first, augmented(EVERYTHING, pixels, seed=8, step=11))


def test_pictures_of_a_batch_are_varied_each_in_its_own_way() -> None:
    same = np.repeat(bytes_of(1), 16, axis=0)
    varied = augmented(EVERYTHING, same)
    assert len({image.tobytes() for image in varied}) == 16


def test_a_share_of_the_draws_gives_a_share_of_the_batch() -> None:
    pixels = bytes_of(10)
    draws = draw(EVERYTHING, pixels.shape, 0, 4)
    whole = apply_draws(torch.from_numpy(pixels), draws)
    part = apply_draws(torch.from_numpy(pixels[4:]), draws.take(slice(4, None)))
    torch.testing.assert_close(part, whole[4:])


def test_gray_pictures_have_equal_channels_and_the_luma_of_bt_601() -> None:
    pixels = bytes_of(40)
    gray = augmented(AugmentConfig(grayscale=1.0), pixels)
    np.testing.assert_array_equal(gray[:, 0], gray[:, 1])
    np.testing.assert_array_equal(gray[:, 0], gray[:, 2])
    luma = np.tensordot([0.299, 0.587, 0.114], pixels / 255, (0, 1))
    np.testing.assert_allclose(gray[:, 0], luma, atol=1e-6)
    some = augmented(AugmentConfig(grayscale=0.3), pixels)
    assert 4 <= sum(np.array_equal(each[0], each[2]) for each in some) <= 20


def coordinates(height: int, width: int, count: int) -> np.ndarray:
    """Float pictures whose red is the pixel's x and whose green is its y, from 0 to 1."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    image = np.stack([x, y, np.zeros_like(x)]).astype(np.float32)
    return np.repeat(image[None], count, axis=0)


def crop_boxes(config: AugmentConfig, height: int, width: int, count: int) -> np.ndarray:
    """Left, top, width and height of each crop as shares, read from the pixels themselves."""
    varied = augmented(config, coordinates(height, width, count))
    # away from the border, where half a pixel is reflected, x and y rise evenly
    a, b = 8, -9
    step_x = (varied[:, 0, 16, b] - varied[:, 0, 16, a]) / (width - 17)
    step_y = (varied[:, 1, b, 16] - varied[:, 1, a, 16]) / (height - 17)
    left = varied[:, 0, 16, a] - (a + 0.5) * step_x
    top = varied[:, 1, a, 16] - (a + 0.5) * step_y
    return np.stack([left, top, step_x * width, step_y * height], axis=1)


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
def test_resized_crops_have_the_asked_areas_and_ratios(shape: tuple[int, int]) -> None:
    config = AugmentConfig(resized_crop_scale=(0.25, 0.75), resized_crop_ratio=(0.8, 1.25))
    boxes = crop_boxes(config, *shape, count=400)
    areas = boxes[:, 2] * boxes[:, 3]
    assert 0.249 < areas.min() < 0.27
    assert 0.73 < areas.max() < 0.751
    np.testing.assert_allclose(np.histogram(areas, bins=4)[0], 100, atol=35)
    ratios = boxes[:, 2] * shape[1] / (boxes[:, 3] * shape[0])
    assert ratios.min() > 0.799
    fits = boxes[:, 3] < 0.999  # a wide picture has no squarish crop of most of its area
    assert ratios[fits].max() < 1.251
    assert (boxes[:, :2] > -1e-3).all()
    assert (boxes[:, :2] + boxes[:, 2:] < 1.001).all()
    assert np.ptp(boxes[:, 0]) > 0.3


def test_random_crops_keep_the_asked_share_of_each_side() -> None:
    boxes = crop_boxes(AugmentConfig(random_crop=0.8), 64, 64, count=200)
    np.testing.assert_allclose(boxes[:, 2:], 0.8, atol=1e-3)
    assert boxes[:, :2].min() == pytest.approx(0, abs=0.02)
    assert boxes[:, :2].max() == pytest.approx(0.2, abs=0.02)
    # a crop within the crop
    both = AugmentConfig(random_crop=0.8, resized_crop_scale=(0.5, 0.5), resized_crop_ratio=(1, 1))
    boxes = crop_boxes(both, 64, 64, count=200)
    np.testing.assert_allclose(boxes[:, 2:], 0.8 * 0.5**0.5, atol=1e-3)
    assert (boxes[:, :2] > -1e-3).all()
    assert (boxes[:, :2] + boxes[:, 2:] < 1.001).all()


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
def test_rotation_turns_in_pixels_and_by_no_more_than_asked(shape: tuple[int, int]) -> None:
    height, width = shape
    varied = augmented(AugmentConfig(rotation=20), coordinates(height, width, 200))
    y, x = height // 2, width // 2
    right = (varied[:, :2, y, x + 8] - varied[:, :2, y, x - 8]) * np.array([width, height])
    down = (varied[:, :2, y + 8, x] - varied[:, :2, y - 8, x]) * np.array([width, height])
    for way in (right, down):
        np.testing.assert_allclose(np.hypot(*way.T), 16, rtol=1e-3)
    np.testing.assert_allclose((right * down).sum(1), 0, atol=0.05)
    angles = np.degrees(np.arctan2(right[:, 1], right[:, 0]))
    assert -20.01 < angles.min() < -18
    assert 18 < angles.max() < 20.01


def test_jitter_follows_the_formulas_in_the_drawn_order() -> None:
    pixels = bytes_of(12, 6, 6)
    config = AugmentConfig(color_jitter=(0.4, 0.5, 0.6, 0.3), color_jitter_p=0.7)
    orders = set()
    for step in range(6):
        draws = draw(config, pixels.shape, 0, step)
        orders.add(draws.order)
        expected = [
            jitter_oracle(image / 255, factors, draws.order) if chosen else image / 255
            for image, factors, chosen in zip(pixels, draws.jitter, draws.jittered, strict=True)
        ]
        np.testing.assert_allclose(
            augmented(config, pixels, step=step), np.stack(expected), atol=2e-5
        )
    assert len(orders) > 2


def jitter_oracle(image: np.ndarray, factors: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    luma = np.array([0.299, 0.587, 0.114])
    for part in order:
        factor = float(factors[part])
        gray = np.tensordot(luma, image, (0, 0))
        if part == HUE:
            height, width = gray.shape
            turned = [
                colorsys.hsv_to_rgb((hue + factor) % 1, saturation, value)
                for hue, saturation, value in (
                    colorsys.rgb_to_hsv(*image[:, y, x])
                    for y in range(height)
                    for x in range(width)
                )
            ]
            image = np.array(turned).T.reshape(3, height, width)
        else:
            towards = (0.0, gray.mean(), gray)[part]
            image = np.clip(factor * image + (1 - factor) * towards, 0, 1)
    return image


def test_jitter_factors_cover_their_range_and_what_is_off_is_not_done() -> None:
    config = AugmentConfig(color_jitter=(0.2, 0.2, 0.1, 0), color_jitter_p=0.7)
    draws = draw(config, (2000, 3, 4, 4), 0, 0)
    assert sorted(draws.order) == [0, 1, 2]
    assert 0.66 < draws.jittered.mean() < 0.74
    np.testing.assert_allclose(draws.jitter.min(0), [0.8, 0.8, 0.9, 0], atol=0.005)
    np.testing.assert_allclose(draws.jitter.max(0), [1.2, 1.2, 1.1, 0], atol=0.005)
    strong = draw(AugmentConfig(color_jitter=(3, 0, 0, 0)), (2000, 3, 4, 4), 0, 0)
    assert strong.jitter[:, 0].min() == 0
    pixels = bytes_of(4)
    untouched = augmented(AugmentConfig(color_jitter=(1, 1, 1, 0.5), color_jitter_p=0), pixels)
    np.testing.assert_array_equal(untouched, pixels / np.float32(255))


def test_recipe_and_command_line_settings() -> None:
    recipe = {"color_jitter": [0.2, 0.2, 0.1, 0], "color_jitter_p": "0.7", "grayscale": 0.2}
    config = AugmentConfig.from_mapping(recipe)
    assert config == AugmentConfig(
        color_jitter=(0.2, 0.2, 0.1, 0.0), color_jitter_p=0.7, grayscale=0.2
    )
    changed = config.override(["grayscale=0", "resized-crop-scale=0.5,1", "horizontal_flip=.5"])
    assert changed == AugmentConfig(
        color_jitter=(0.2, 0.2, 0.1, 0.0),
        color_jitter_p=0.7,
        resized_crop_scale=(0.5, 1.0),
        horizontal_flip=0.5,
    )
    assert AugmentConfig.from_mapping(json.loads(json.dumps(changed.as_dict()))) == changed


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("horizontal_flip=1.5", "horizontal_flip must be 0 to 1, not 1.5"),
        ("grayscale=nan", "grayscale must be 0 to 1"),
        ("random_crop=0", "random_crop must be above 0"),
        ("random_crop=1.2", "random_crop must be at most 1"),
        ("resized_crop_scale=0.9,0.5", "swap them"),
        ("resized_crop_scale=0.8,1.2", "at most 1, not 0.8, 1.2"),
        ("resized_crop_scale=0.8", "takes 2 numbers"),
        ("rotation=-3", "rotation must be 0 to 180"),
        ("color_jitter=0.1,0.1,0.1,0.7", r"color_jitter \(hue\) must be 0 to 0.5"),
        ("color_jitter=0.1,-1,0,0", r"color_jitter \(contrast\) must be at least 0"),
        ("color_jitter=0.1", "takes 4 numbers"),
        ("grayscale=often", "must be a number, not often"),
        ("greyscale=0.2", "did you mean grayscale"),
        ("sharpness=0.2", "known are horizontal_flip"),
        ("grayscale", "write NAME=VALUE"),
    ],
)
def test_wrong_settings_are_refused(setting: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        AugmentConfig().override([setting])


def test_a_missing_kornia_is_named_before_anything_starts(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    AugmentConfig().check()
    with pytest.raises(UsageError, match="kornia"):
        AugmentConfig(grayscale=0.1).check()


def imported_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_settings_import_neither_torch_nor_kornia_and_nothing_imports_torchvision() -> None:
    light = imported_by(
        "from finetune.config import image_augmentation; image_augmentation.AugmentConfig()"
    )
    assert not light & {"torch", "kornia", "numpy", "torchvision"}
    heavy = imported_by(
        "import torch\n"
        "from finetune.data.image_augmentation import AugmentConfig, ImageAugmentation\n"
        "config = AugmentConfig(grayscale=.5, color_jitter=(.1, .1, .1, .1), random_crop=.5)\n"
        "ImageAugmentation(config, 0)(torch.rand(2, 3, 8, 8), 0)"
    )
    assert "kornia" in heavy
    assert "torchvision" not in heavy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_pictures() -> None:
    pixels = torch.from_numpy(bytes_of(16))
    augmentation = ImageAugmentation(EVERYTHING, 0)
    on_gpu = augmentation(pixels.cuda(), 3)
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), augmentation(pixels, 3), atol=1e-4, rtol=0)


def test_bicubic_crops_are_torchs_and_stay_within_bounds() -> None:
    pixels = bytes_of(8)
    linear = AugmentConfig(random_crop=0.6)
    cubic = AugmentConfig(random_crop=0.6, interpolation="bicubic")
    draws = draw(cubic, pixels.shape, 0, 0)
    assert draws.affine is not None
    plain = torch.from_numpy(pixels).float() / 255
    grid = torch.nn.functional.affine_grid(
        torch.from_numpy(draws.affine), list(pixels.shape), align_corners=False
    )
    expected = torch.nn.functional.grid_sample(
        plain, grid, "bicubic", padding_mode="reflection", align_corners=False
    )
    assert expected.max() > 1, "it overshoots"
    found = augmented(cubic, pixels)
    np.testing.assert_allclose(found, expected.clamp(0, 1).numpy(), atol=1e-6)
    assert np.abs(found - augmented(linear, pixels)).max() > 0.01


def test_what_is_cropped_before_resizing_is_not_cropped_again() -> None:
    pixels = bytes_of(4)
    before = AugmentConfig(crop_before_resizing=True, resized_crop_scale=(0.3, 0.5))
    np.testing.assert_array_equal(
        augmented(before, pixels), pixels.astype(np.float32) / np.float32(255)
    )
    turned = AugmentConfig(crop_before_resizing=True, resized_crop_scale=(0.3, 0.5), rotation=20)
    np.testing.assert_array_equal(
        augmented(turned, pixels), augmented(AugmentConfig(rotation=20), pixels)
    )
