"""How training images are varied: the settings, checked, without torch and kornia.

`finetune.data.image_augmentation` does the work.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

from finetune.errors import UsageError
from finetune.installing import install_command
from finetune.near_names import near_or_known


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What is done to a training image, in this order; all of it is off by default.

    Images are varied after they were resized and cropped to the tower's size, so crops are
    enlarged from there; with `crop_before_resizing` they are taken from the whole image.

    Attributes:
        horizontal_flip, vertical_flip: Chance of each, 0 to 1.
        crop_before_resizing: Whether crops are taken from the original image, before it is
            resized, as torchvision's and OpenCLIP's transforms do. Images are then decoded
            in full, and anew each epoch.
        interpolation: Filter of crops and rotations, one of INTERPOLATIONS.
        random_crop: Share of width and height that is kept, at a random place; 1 is off. As a
            random crop of 224 pixels from images of 280, which is 0.8.
        random_crop_pixels: The same as the side of a square in pixels of the original image, of
            which a smaller image stays whole; 0 is off.
        resized_crop_scale: Smallest and largest share of the area that is kept, at a random
            place and enlarged again; (1, 1) is off.
        resized_crop_ratio: Narrowest and widest ratio of its width to its height. What would
            not fit into the image is brought nearer to the image's own ratio.
        rotation: Largest angle in degrees, either way; corners are filled by reflection.
        color_jitter: Strengths of brightness, contrast, saturation and hue; 0.2 is a factor of
            0.8 to 1.2, for the hue a shift of up to a fifth of the colour circle (0.5 at most).
        color_jitter_p: Chance that an image's colours are jittered.
        grayscale: Chance that an image becomes grey.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    crop_before_resizing: bool = False
    interpolation: str = "bilinear"
    random_crop: float = 1.0
    random_crop_pixels: int = 0
    resized_crop_scale: tuple[float, float] = (1.0, 1.0)
    resized_crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation: float = 0.0
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_p: float = 1.0
    grayscale: float = 0.0

    @property
    def crops(self) -> bool:
        """Whether a part of the image is taken."""
        of_pixels = self.random_crop_pixels > 0
        return of_pixels or self.random_crop < 1 or self.resized_crop_scale != (1.0, 1.0)

    @property
    def crops_originals(self) -> bool:
        """Whether that is done before images are resized."""
        return self.crops and self.crop_before_resizing

    @property
    def jitters(self) -> bool:
        """Whether colours change, other than to grey."""
        return self.color_jitter_p > 0 and any(self.color_jitter)

    @property
    def is_on(self) -> bool:
        """Whether anything is done at all."""
        flips = self.horizontal_flip or self.vertical_flip
        return bool(flips or self.crops or self.rotation or self.jitters or self.grayscale)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Read the settings of a recipe's mapping and check them; numbers may be written as text.

        Raises UsageError for an unknown name, for what is no number, and from `check`.
        """
        return cls()._replaced(values)

    def override(self, settings: Sequence[str]) -> Self:
        """Return the same settings with "name=value" each, lists as "0.2,0.2,0.1,0"; checked.

        Raises UsageError as `from_mapping`.
        """
        values: dict[str, object] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise UsageError(
                    f"--augment {setting}: write NAME=VALUE, such as horizontal_flip=0.5"
                )
            parts = [part.strip() for part in value.split(",")]
            values[name.strip().replace("-", "_")] = parts if len(parts) > 1 else parts[0]
        return self._replaced(values)

    def check(self) -> None:
        """Raise UsageError for a wrong value, or where kornia is needed but not installed."""
        for name in ("horizontal_flip", "vertical_flip", "color_jitter_p", "grayscale"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("rotation", self.rotation, 0, 180)
        for name in ("random_crop", *_PAIRS):
            if not all(math.isfinite(value) and value > 0 for value in self._list(name)):
                raise UsageError(f"augment: {name} must be above 0, not {self._text(name)}")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"augment: interpolation must be {' or '.join(INTERPOLATIONS)}, not"
                f" {self.interpolation}"
            )
        self._check_pixels()
        for name in ("random_crop", "resized_crop_scale"):
            if max(self._list(name)) > 1:
                raise UsageError(f"augment: {name} must be at most 1, not {self._text(name)}")
        for name in _PAIRS:
            low, high = getattr(self, name)
            if low > high:
                raise UsageError(
                    f"augment: {name} is the smallest and the largest value,"
                    f" so not {self._text(name)}; swap them"
                )
        for part, strength in zip(_JITTER_PARTS, self.color_jitter, strict=True):
            limit = 0.5 if part == "hue" else math.inf
            _check_range(f"color_jitter ({part})", strength, 0, limit)
        if self.is_on and importlib.util.find_spec("kornia") is None:
            raise UsageError(
                f"augmentation needs the package kornia; {install_command('finetune')}"
            )

    def _check_pixels(self) -> None:
        pixels = self.random_crop_pixels
        if pixels < 0 or not float(pixels).is_integer():
            raise UsageError(
                f"augment: random_crop_pixels must be a whole number of pixels, not {pixels:g}"
            )
        if pixels and not self.crop_before_resizing:
            raise UsageError(
                "augment: random_crop_pixels counts pixels of the original image; add"
                " crop_before_resizing=true, or give random_crop a share"
            )
        if pixels and self.random_crop < 1:
            raise UsageError(
                "augment: random_crop and random_crop_pixels are two sizes of one crop; give one"
            )

    def as_dict(self) -> dict[str, object]:
        """Return the settings as JSON and YAML hold them; `from_mapping` reads them."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def _replaced(self, values: Mapping[str, object]) -> Self:
        known = {item.name: item.default for item in fields(self)}
        changes: dict[str, object] = {}
        for name, value in values.items():
            if name not in known:
                mend = near_or_known(name, known)
                raise UsageError(f"augment: there is no setting {name}; {mend}")
            default = known[name]
            if isinstance(default, bool):
                changes[name] = _switch(name, value)
                continue
            if isinstance(default, str):
                changes[name] = str(value)
                continue
            wanted = len(default) if isinstance(default, tuple) else None
            numbers = _numbers(name, value, wanted)
            if isinstance(default, int) and isinstance(numbers, float) and numbers.is_integer():
                changes[name] = int(numbers)
            else:
                changes[name] = numbers
        # The types of a frozen dataclass's fields are not known to `replace`.
        changed: Self = replace(self, **changes)  # type: ignore[arg-type]
        changed.check()
        return changed

    def _list(self, name: str) -> Sequence[float]:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    def _text(self, name: str) -> str:
        return ", ".join(f"{value:g}" for value in self._list(name))


INTERPOLATIONS = ("bilinear", "bicubic")
_PAIRS = ("resized_crop_scale", "resized_crop_ratio")
_JITTER_PARTS = ("brightness", "contrast", "saturation", "hue")


def _numbers(name: str, value: object, wanted: int | None) -> float | tuple[float, ...]:
    """Return a number, or as many as `wanted` says."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if len(parts) != (wanted or 1):
        count = "one number" if wanted is None else f"{wanted} numbers"
        raise UsageError(f"augment: {name} takes {count}, not {value}")
    try:
        if any(isinstance(part, bool) for part in parts):
            raise ValueError
        numbers = tuple(float(str(part)) for part in parts)
    except ValueError as error:
        raise UsageError(f"augment: {name} must be a number, not {value}") from error
    return numbers if wanted else numbers[0]


def _switch(name: str, value: object) -> bool:
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise UsageError(f"augment: {name} is true or false, not {value}")
    return words[str(value).lower()]


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        limits = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
        raise UsageError(f"augment: {name} must be {limits}, not {value:g}")
