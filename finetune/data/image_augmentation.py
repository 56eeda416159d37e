"""Vary training images on the device: flips, crops, rotation, colours.

All chances of a step are drawn on the CPU from the seed and the step alone (`draw`), and then
applied to the whole batch at once (`apply_draws`), on the CPU or a GPU without waiting for it. So
a resumed run varies every image as the uninterrupted one would have, no other random state is
read or moved, and two devices get the same draws.

Colours change by kornia's functions, which follow Pillow's and torchvision's formulas; its own
augmentation classes draw from torch's global state and decide crops for a whole batch at once.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from torch.nn import functional as F

from finetune.arrays import Bools, Float32, Int64
from finetune.config.image_augmentation import AugmentConfig
from finetune.data.tensors import to_device

# Keeps these draws apart from those of `finetune.data.batches`; not 0, which would add nothing.
_STREAM = 0xA06
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance decided for n images.

    Attributes:
        horizontal, vertical: bool[n], flipped that way.
        affine: float32[n, 2, 3], from places in the new image to places in the old one, both
            from -1 to 1 between the outer edges; None where there is neither crop nor rotation.
        interpolation: What samples the old image by it: "bilinear" or "bicubic".
        jittered: bool[n], whose colours are jittered.
        jitter: float32[n, 4], factors of brightness, contrast and saturation, and the shift of
            the hue in turns.
        order: In which the four are done, for the whole batch.
        gray: bool[n], turned grey.
    """

    horizontal: Bools
    vertical: Bools
    affine: Float32 | None
    interpolation: str
    jittered: Bools
    jitter: Float32
    order: tuple[int, ...]
    gray: Bools

    def take(self, rows: slice | Int64) -> "Draws":
        """Return those of some of the images: a process's share of a joint batch."""
        return Draws(
            self.horizontal[rows],
            self.vertical[rows],
            None if self.affine is None else self.affine[rows],
            self.interpolation,
            self.jittered[rows],
            self.jitter[rows],
            self.order,
            self.gray[rows],
        )


@dataclass(frozen=True, slots=True)
class ImageAugmentation:
    """The variations of one training run.

    Attributes:
        config: What is done, checked.
        seed: Of the run.
    """

    config: AugmentConfig
    seed: int

    def __call__(self, pixels: torch.Tensor, step: int) -> torch.Tensor:
        """Vary the batch of a step: [n, 3, h, w] on any device, uint8 or float32 in 0..1.

        Gives float32 in 0..1, not normalised, on the same device; `pixels` stays as it is.
        """
        return apply_draws(pixels, draw(self.config, tuple(pixels.shape), self.seed, step))


def draw(config: AugmentConfig, shape: tuple[int, ...], seed: int, step: int) -> Draws:
    """Draw what happens to a step's images [n, 3, h, w]: a pure function of its arguments."""
    count, _, height, width = shape
    chance = np.random.default_rng([seed, step, _STREAM])
    horizontal = chance.random(count) < config.horizontal_flip
    vertical = chance.random(count) < config.vertical_flip
    affine = _draw_affine(config, count, width / height, chance)
    jittered = chance.random(count) < (config.color_jitter_p if config.jitters else 0)
    strengths = np.array(config.color_jitter)
    jitter = 1 + chance.uniform(-1, 1, (count, 4)) * strengths
    jitter[:, HUE] -= 1
    jitter[:, :HUE] = np.maximum(jitter[:, :HUE], 0)
    order = tuple(int(part) for part in chance.permutation(4) if strengths[part])
    gray = chance.random(count) < config.grayscale
    return Draws(
        horizontal,
        vertical,
        affine,
        config.interpolation,
        jittered,
        jitter.astype(np.float32),
        order,
        gray,
    )


def _draw_affine(
    config: AugmentConfig, count: int, aspect: float, chance: np.random.Generator
) -> Float32 | None:
    """Crop, crop within the crop, and rotation as one map, so that pixels are sampled once."""
    places = chance.uniform(-1, 1, (2, count, 2))
    area = chance.uniform(*config.resized_crop_scale, count)
    low, high = np.log(config.resized_crop_ratio)
    ratio = np.exp(chance.uniform(low, high, count)) / aspect
    angle = np.radians(config.rotation) * chance.uniform(-1, 1, count)
    if not (config.rotation or (config.crops and not config.crop_before_resizing)):
        return None

    outer = np.full((count, 2), 1.0 if config.crop_before_resizing else config.random_crop)
    if config.crop_before_resizing or config.resized_crop_scale == (1.0, 1.0):
        inner = np.ones((count, 2))
    else:
        # at these two the crop is as wide, or as high, as the image
        ratio = np.clip(ratio, area, 1 / area)
        inner = np.sqrt(np.stack([area * ratio, area / ratio], axis=1))
    extent = outer * inner
    centre = places[0] * (1 - outer) + places[1] * (1 - inner) * outer

    cos, sin = np.cos(angle), np.sin(angle)
    # a turn in pixels, not in shares of two sides that may differ
    turn = np.stack(
        [np.stack([cos, -sin / aspect], axis=1), np.stack([sin * aspect, cos], axis=1)], axis=1
    )
    affine = np.concatenate([extent[:, :, None] * turn, centre[:, :, None]], axis=2)
    return affine.astype(np.float32)


@torch.no_grad()
def apply_draws(pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Vary images [n, 3, h, w], uint8 or float32 in 0..1; return new float32 in 0..1."""
    is_bytes = pixels.dtype == torch.uint8
    varied = pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if is_bytes:
        varied.div_(255)
    for flipped, axis in ((draws.horizontal, -1), (draws.vertical, -2)):
        rows = _rows(flipped, varied.device)
        if len(rows):
            varied[rows] = varied[rows].flip(axis)
    if draws.affine is not None:
        theta = to_device(draws.affine, varied.device)
        grid = F.affine_grid(theta, list(varied.shape), align_corners=False)
        varied = F.grid_sample(
            varied, grid, draws.interpolation, padding_mode="reflection", align_corners=False
        )
        if draws.interpolation == "bicubic":  # overshoots at edges
            varied.clamp_(0, 1)
    rows = _rows(draws.jittered, varied.device)
    if len(rows):
        factors = draws.jitter[draws.jittered]
        varied[rows] = _jitter(varied[rows], to_device(factors, varied.device), draws.order)
    rows = _rows(draws.gray, varied.device)
    if len(rows):
        varied[rows] = rgb_to_grayscale(varied[rows]).expand(-1, 3, -1, -1)
    # sampling and grey are weighted means, which rounding can carry a little beyond the ends
    return varied.clamp_(0, 1)


def _jitter(pixels: torch.Tensor, factors: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    for part in order:
        factor = factors[:, part]
        if part == BRIGHTNESS:
            pixels = adjust_brightness_accumulative(pixels, factor)
        elif part == CONTRAST:
            pixels = adjust_contrast_with_mean_subtraction(pixels, factor)
        elif part == SATURATION:
            pixels = adjust_saturation_with_gray_subtraction(pixels, factor)
        else:
            pixels = adjust_hue(pixels, factor * (2 * math.pi))
    return pixels


def _rows(chosen: Bools, device: torch.device) -> torch.Tensor:
    """Return the indices of the chosen.

    Indexing by them, unlike by a mask, does not wait for a GPU.
    """
    return to_device(np.flatnonzero(chosen), device)
