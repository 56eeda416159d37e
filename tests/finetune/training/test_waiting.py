"""A step queues its work without waiting for what was queued before."""

import warnings
from dataclasses import replace

import pytest
import torch
from squares import write_squares
from steps_alone import leave_out_what_follows
from tiny_checkpoints import save_clip, save_roberta, save_siglip
from waiting import NoWaiting, WaitError

import finetune.training.loop
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import TrainConfig
from finetune.training.history import READ_EVERY
from finetune.training.train import train

AUGMENT = AugmentConfig(
    horizontal_flip=0.5,
    rotation=10,
    resized_crop_scale=(0.5, 1.0),
    color_jitter=(0.2, 0.2, 0.2, 0.1),
    color_jitter_p=0.5,
    grayscale=0.3,
)
SETTINGS = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "varied": {"augment": AUGMENT},
    "chunks": {"chunk_size": 5, "precision": "bf16"},
    "parts": {"accumulate_separate_batches": 2},
    "adam, averaged": {"optimizer": "adam", "ema": 0.9},
    "sigmoid": {"loss": "sigmoid"},
    "smoothed, hard": {"label_smoothing": 0.1, "hard_negative_beta": 0.1},
    "adapters": {"lora": 2, "precision": "bf16"},
    "recomputed": {"gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory):
    return write_squares(tmp_path_factory.mktemp("squares"), train=24, val=8)


@pytest.fixture
def config(manifest, tmp_path) -> TrainConfig:
    return TrainConfig(
        manifest=manifest,
        model="tiny",
        out=tmp_path / "out",
        batch_size=8,
        epochs=1,
        eval_every="never",
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each step that was taken without waiting; nothing is exported."""
    taken: list[int] = []
    step = finetune.training.loop.training_step

    def watched(state, *arguments):
        with NoWaiting():
            result = step(state, *arguments)
        taken.append(state.step)
        return result

    monkeypatch.setattr("finetune.training.loop.training_step", watched)
    leave_out_what_follows(monkeypatch)
    return taken


@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_reads_what_it_computes(name, config, steps) -> None:
    train(replace(config, **SETTINGS[name]), quiet=True)
    assert len(steps) >= 2


@pytest.mark.parametrize("family", ["clip", "siglip", "two towers"])
def test_nor_does_a_step_of_another_family(family, config, steps, tmp_path) -> None:
    if family == "siglip":
        save_siglip(tmp_path / "model")
    else:
        save_clip(tmp_path / "model")
    if family == "two towers":
        save_roberta(tmp_path / "text")
        config = replace(config, text_model=str(tmp_path / "text"))
    train(replace(config, model=str(tmp_path / "model")), quiet=True)
    assert len(steps) >= 2


def test_adafactor_waits_as_the_documentation_says(config, steps) -> None:
    with pytest.raises(WaitError):
        train(replace(config, optimizer="adafactor"), quiet=True)


def test_the_watch_sees_what_waits(config, steps, monkeypatch) -> None:
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        "torch.nn.utils.clip_grad_norm_",
        lambda *values, **named: clip(*values, error_if_nonfinite=True, **named),
    )
    with pytest.raises(WaitError):
        train(config, quiet=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_on_the_gpu_steps_wait_for_nothing_but_their_figures(name, config, monkeypatch) -> None:
    leave_out_what_follows(monkeypatch)
    waits: list[int] = []
    take = finetune.training.loop.take_step

    def counted(run, state, batches, log):
        # the first steps allocate memory; figures are read every few steps, at once
        watched = state.step > 2 and state.step % READ_EVERY not in (0, READ_EVERY - 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn" if watched else "default")
            try:
                take(run, state, batches, log)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        if watched:
            waits.append(sum("synchroniz" in str(each.message) for each in caught))

    monkeypatch.setattr("finetune.training.loop.take_step", counted)
    train(replace(config, epochs=10, device="cuda", **SETTINGS[name]), quiet=True)
    assert len(waits) > 10
    assert not any(waits)
