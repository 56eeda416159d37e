"""Training images cropped before they are resized: decoded anew each time, a random part of each.

Imports without torch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.arrays import Int64, Pixels
from finetune.config.image_augmentation import AugmentConfig
from finetune.data.pixel_store import decoded_batches
from finetune.images.decode import CroppedSource
from finetune.images.decode_workers import Decoder
from finetune.images.random_crop import RandomCrop
from finetune.images.source import ImageSource

# Keeps these draws apart from those of `finetune.data.image_augmentation` and its like.
_STREAM = 0xC70


def draw_crops(config: AugmentConfig, count: int, seed: int, step: int) -> list[RandomCrop]:
    """Draw the crops of the `count` images of a step: a pure function of its arguments."""
    chance = np.random.default_rng([seed, step, _STREAM])
    places = chance.uniform(-1, 1, (count, 4)).tolist()
    areas = chance.uniform(*config.resized_crop_scale, count).tolist()
    low, high = (math.log(ratio) for ratio in config.resized_crop_ratio)
    ratios = chance.uniform(low, high, count).tolist()
    is_resized = config.resized_crop_scale != (1.0, 1.0)
    return [
        RandomCrop(
            pixels=int(config.random_crop_pixels),
            share=config.random_crop,
            place=(place[0], place[1]),
            area=area if is_resized else None,
            log_ratio=ratio,
            place_within=(place[2], place[3]),
            resample=config.interpolation,
        )
        for place, area, ratio in zip(places, areas, ratios, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class CroppedPixels:
    """The images of training steps, each cropped by chance from its original.

    Attributes:
        decoder: Decodes; it must live as long.
        sources: Of the training images.
        config: What is cropped.
        seed: Of the run.
    """

    decoder: Decoder
    sources: Sequence[ImageSource]
    config: AugmentConfig
    seed: int

    def batches(self, first: int, steps: Iterable[tuple[Int64, Int64]]) -> Iterator[Pixels]:
        """Yield uint8[k, h, w, 3] for each step from `first` on.

        `steps` gives the images of a whole step, int64[b], and which of them are wanted, int64[k].
        Raises TrainingError where an image that could be read before no longer can.
        """
        wanted = (
            [CroppedSource(self.sources[images[row]], crops[row]) for row in own.tolist()]
            for images, own, crops in (
                (images, own, draw_crops(self.config, len(images), self.seed, step))
                for step, (images, own) in enumerate(steps, first)
            )
        )
        return decoded_batches(self.decoder, wanted)
