"""`clipsearch finetune`'s own run, with its data from files."""

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from trainers.measured import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Clock,
    Measured,
    Options,
    read_pairs,
)

from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import TrainConfig
from finetune.training.train import train

VARIED = AugmentConfig(
    horizontal_flip=0.5,
    vertical_flip=0.5,
    random_crop=0.8,
    resized_crop_scale=(0.8, 1.0),
    color_jitter=(0.2, 0.2, 0.1, 0.0),
    color_jitter_p=0.7,
)


class Enough(Exception):  # noqa: N818  (no error: a way out of the loop)
    """The last step is done; what comes after is not measured."""


def ours(
    options: Options, augment: AugmentConfig, *, compiled: bool = False, mode: str = "default"
) -> Measured:
    """The whole of `train`, with marks before the first image and after each epoch."""
    import finetune.training.loop
    import finetune.training.train

    clock, epochs = Clock(torch.device(options.device)), 1 + options.later
    load, step = finetune.training.train.load_training_data, finetune.training.loop.training_step
    steps_per_epoch = done = 0

    def timed_load(*arguments: Any, **options: Any) -> Any:
        nonlocal steps_per_epoch
        clock.mark()
        data = load(*arguments, **options)
        steps_per_epoch = data.steps_per_epoch
        return data

    def timed_step(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        result = step(*arguments, **options)
        done += 1
        if done % steps_per_epoch == 0:
            clock.mark()
        if done == epochs * steps_per_epoch:
            raise Enough
        return result

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            manifest=options.manifest,
            model=options.model,
            out=Path(folder) / "encoder",
            epochs=epochs,
            batch_size=options.batch_size,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPS,
            precision=options.precision,
            eval_every="never",
            checkpoint_minutes=1000,
            device=options.device,
            threads=options.threads,
            augment=augment,
            compile=compiled,
            compile_mode=mode,
        )
        try:
            with (
                mock.patch("finetune.training.train.load_training_data", timed_load),
                mock.patch("finetune.training.loop.training_step", timed_step),
            ):
                train(config, quiet=True)
        except Enough:
            pass
    return clock.measured(len(read_pairs(options.manifest)))
