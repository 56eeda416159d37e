"""Patches against transformers' own attention, made to look at one patch at a time."""

import json

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_clip, save_roberta
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from finetune.images.pixels import normalize
from finetune.images.processor_config import preprocessor_config
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.patches import embed_patches, gives_patches


def pixels_of(dual: DualEncoder, count: int = 3) -> torch.Tensor:
    side = dual.preprocessing.height
    random = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(normalize(random, dual.preprocessing))


@torch.inference_mode()
def test_of_clip_they_are_the_last_layer_masked_so_that_each_patch_sees_itself(clip_folder):
    dual = load_dual_encoder(clip_folder)
    pixels = pixels_of(dual)
    tower = dual.model.vision_model
    before = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    alone = torch.full((before.shape[1],) * 2, float("-inf")).fill_diagonal_(0)[None, None]
    after = tower.encoder.layers[-1](before, attention_mask=alone)
    tokens = dual.model.visual_projection(tower.post_layernorm(after[:, 1:]))
    expected = F.normalize(tokens, dim=-1).reshape(3, 2, 2, dual.dimension)
    found = embed_patches(dual, pixels)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)
    # which is not what the model's own attention makes of them
    usual = tower(pixel_values=pixels).last_hidden_state[:, 1:]
    usual = F.normalize(dual.model.visual_projection(tower.post_layernorm(usual)), dim=-1)
    assert np.abs(found.numpy() - usual.reshape(found.shape).numpy()).max() > 1e-3


@torch.inference_mode()
def test_of_siglip_they_are_the_head_of_one_patch_at_a_time(siglip_folder):
    dual = load_dual_encoder(siglip_folder)
    pixels = pixels_of(dual)
    tower = dual.model.vision_model
    hidden = tower(pixel_values=pixels).last_hidden_state
    alone = [tower.head(hidden[:, patch : patch + 1]) for patch in range(hidden.shape[1])]
    expected = F.normalize(torch.stack(alone, dim=1), dim=-1).reshape(3, 2, 2, dual.dimension)
    np.testing.assert_allclose(embed_patches(dual, pixels).numpy(), expected.numpy(), atol=1e-6)


@torch.inference_mode()
def test_rows_and_columns_are_those_of_the_image(clip_folder):
    dual = load_dual_encoder(clip_folder)
    pixels = pixels_of(dual, 1)
    changed = pixels.clone()
    changed[:, :, :16, 16:] += 1  # the patch at the upper right
    # Of the last layer alone, so that no attention spreads the change.
    dual.model.vision_model.encoder.layers = dual.model.vision_model.encoder.layers[-1:]
    moved = (embed_patches(dual, pixels) - embed_patches(dual, changed)).abs().amax(dim=-1)[0]
    assert moved[0, 1] > 1e-3
    moved[0, 1] = 0
    assert moved.max() < 1e-6


@pytest.mark.parametrize("tower", ["clip", "vit"])
@torch.inference_mode()
def test_of_two_towers_a_clip_gives_patches_and_a_vit_none(tower, tmp_path):
    save_roberta(tmp_path / "roberta")
    built = save_clip(tmp_path / "clip")
    if tower == "vit":
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = ViTConfig(**shape, intermediate_size=64, image_size=32, patch_size=16)
        ViTModel(config).save_pretrained(tmp_path / "vit")

        settings = json.dumps(preprocessor_config(built.preprocessing, "clip"))
        (tmp_path / "vit" / "preprocessor_config.json").write_text(settings)
    dual = load_two_towers(tmp_path / tower, tmp_path / "roberta", projection=24)
    assert gives_patches(dual) == (tower == "clip")
    if tower == "clip":
        found = embed_patches(dual, pixels_of(dual))
        assert found.shape == (3, 2, 2, 24)
        np.testing.assert_allclose(found.norm(dim=-1).numpy(), 1, atol=1e-6)
