"""A run with many options at once, killed in the middle, ends in the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import write_squares

import finetune.training.loop
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import TrainConfig
from finetune.training.train import train


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("squares")
    return (
        write_squares(folder / "one", train=24, val=6),
        write_squares(folder / "two", train=16, val=4),
    )


@pytest.fixture
def config(manifests: tuple[Path, Path], tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        manifest=manifests[0], model="tiny", out=tmp_path / "out", batch_size=8, epochs=3,
        threads=1, workers=0, keep_checkpoints=True, checkpoint_minutes=0, patience=0,
    )  # fmt: skip


class Crash(Exception):  # noqa: N818  # no error, a kill
    """Stands for a kill between two steps."""


@contextmanager
def crash_before(step: int) -> Iterator[None]:
    real, done = finetune.training.loop.training_step, 0

    def failing(*values, **named):
        nonlocal done
        if done == step:
            raise Crash
        done += 1
        return real(*values, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.training.loop.training_step", failing)
        yield


def all_bits(config: TrainConfig) -> dict[str, Any]:
    """Everything in the last checkpoint and the kept weights, by a flat name."""
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                walk(f"{name}.{key}", each)
        elif isinstance(value, list | tuple):
            for number, each in enumerate(value):
                walk(f"{name}.{number}", each)
        else:
            found[name] = value

    for file in sorted(config.work_folder.glob("*.pt")):
        walk(file.name, torch.load(file, weights_only=True))
    found["history"] = (config.work_folder / "history.csv").read_text()
    return found


def assert_same(one: TrainConfig, other: TrainConfig) -> None:
    ours, theirs = all_bits(one), all_bits(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.startswith("checkpoint.pt.cost."):
            continue  # the time it took
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


OPTIONS = {
    "average, adapters with dropout, chunks, two kept": {
        "ema": 0.9, "lora": 2, "lora_dropout": 0.2, "chunk_size": 3, "keep_best": 2,
    },
    "hard negatives, pictures and captions varied, a part of two datasets": {
        "hard_negatives": 2, "samples_per_epoch": 32, "dataset_weights": (1.0, 1.0),
        "augment": AugmentConfig(horizontal_flip=0.5, color_jitter=(0.2, 0.2, 0.1, 0.0)),
        "caption_augment": CaptionAugmentConfig(word_drop=0.3, case=0.3, punctuation=0.3),
        "eval_every": 3,
    },
    "all captions, separate batches, Adafactor, sigmoid": {
        "captions": "all", "accumulate_separate_batches": 2, "optimizer": "adafactor",
        "loss": "sigmoid", "schedule": "cosine-restarts", "cycles": 2, "metric": "val_loss",
        "min_delta": 0.01,
    },
    "bf16, checkpointed layers, decoded anew, slower layers": {
        "precision": "bf16", "gradient_checkpointing": True, "cache_images": "off",
        "layer_decay": 0.7, "optimizer": "adam", "eval_every": "never", "ema": 0.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_a_killed_run_ends_in_the_same_bits(
    config, manifests, no_export, tmp_path, changes
) -> None:
    if "dataset_weights" in changes:
        changes = changes | {"more_manifests": manifests[1:]}
    whole = replace(config, out=tmp_path / "whole", checkpoint_minutes=60.0, **changes)
    train(whole, quiet=True)
    killed = replace(config, **changes)
    for steps in (5, 0):  # in the middle of an epoch
        with crash_before(steps), pytest.raises(Crash):
            train(killed, quiet=True)
        torch.rand(3)
    with crash_before(1), pytest.raises(Crash):
        train(replace(killed, checkpoint_minutes=60.0), quiet=True)
    train(killed, quiet=True)
    assert_same(killed, whole)
