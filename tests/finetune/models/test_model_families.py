"""Runs of the families other than CLIP, end to end on tiny checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from squares import write_squares
from steps_alone import leave_out_what_follows
from tiny_checkpoints import save_siglip
from transformers import SiglipModel

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.settings import TrainConfig
from finetune.models.dual_encoder import load_dual_encoder
from finetune.training.train import train

SCALE = 4.77  # about that of google/siglip-base-patch16-224, whose exponent is above 100


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=24, val=6)


@pytest.fixture
def config(manifest: Path, tmp_path: Path) -> TrainConfig:
    folder = tmp_path / "siglip"
    save_siglip(folder, max_tokens=64)  # no caption is cut
    model = SiglipModel.from_pretrained(folder)
    with torch.no_grad():
        model.logit_scale.fill_(SCALE)
        model.logit_bias.fill_(-12.0)
    model.save_pretrained(folder)
    return TrainConfig(
        manifest=manifest, model=str(folder), out=tmp_path / "out", batch_size=12, epochs=1,
        threads=1, workers=0, metric="val_loss", learning_rate=1e-3,
    )  # fmt: skip


def test_a_siglip_keeps_its_scale_and_learns_its_bias(config) -> None:
    """Texts of full length, varied or not; the bias is in the checkpoint and in the export."""
    result = train(
        replace(
            config, loss="sigmoid", chunk_size=5,
            caption_augment=CaptionAugmentConfig(word_drop=0.2),
        ),
        quiet=True,
    )  # fmt: skip
    assert result.best_step == 2
    dual = load_dual_encoder(result.out)
    assert dual.logit_bias is not None
    # a step of AdamW moves by no more than the rate
    assert dual.logit_scale.item() == pytest.approx(SCALE, abs=2.1e-3)
    assert 0 < abs(dual.logit_bias.item() + 12.0) < 2.1e-3


def test_the_contrastive_loss_clamps_a_siglip_as_a_clip(config, monkeypatch) -> None:
    leave_out_what_follows(monkeypatch)
    result = train(config, quiet=True)
    assert [row["logit_scale"] for row in result.history if "loss" in row] == pytest.approx(
        [4.60517] * 2, abs=2.1e-3
    )
