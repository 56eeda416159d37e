"""Low-rank adapters: nothing at first, alone in learning, and gone after merging."""

import pytest
import torch
from random_batch import random_batch, small_dual
from tiny_checkpoints import save_clip, save_roberta, save_siglip

from clipsearch.encoder.encoder import Encoder
from finetune.errors import ClipsearchError, UsageError
from finetune.export.encoder import export_encoder
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.freezing import freeze, parameter_groups
from finetune.models.lora import add_lora, attention_layers, has_lora, merge_lora
from finetune.training.gradients.backward import whole_backward

TEXTS = ["a red car", "two dogs on a beach " * 9, "", "two red circles"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_clip(folder / "clip")
    save_siglip(folder / "siglip")
    save_roberta(folder / "roberta")
    return folder


@pytest.fixture(params=["clip", "siglip", "vision-text-dual-encoder"])
def dual(request, folders) -> DualEncoder:
    if request.param == "vision-text-dual-encoder":
        return load_two_towers(folders / "clip", folders / "roberta", projection=24)
    return load_dual_encoder(folders / request.param)


@torch.inference_mode()
def embeddings(dual: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    dual.eval()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return dual.embed_texts(*dual.tokenize(TEXTS)), dual.embed_images(pixels)


def train(dual: DualEncoder, steps: int = 3) -> None:
    dual.train()
    optimizer = torch.optim.AdamW(parameter_groups(dual, learning_rate=0.05, weight_decay=0.0))
    for number in range(steps):
        whole_backward(dual, random_batch(dual, 6 + number), contrastive_loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_adapters_are_nothing_at_first_then_learn_alone(dual) -> None:
    plain = embeddings(dual)
    values = {name: value.clone() for name, value in dual.model.state_dict().items()}
    count = add_lora(dual, rank=2)
    assert count == 16, "query, key, value and output of two layers of two towers"
    for found, expected in zip(embeddings(dual), plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    train(dual)
    for found, expected in zip(embeddings(dual), plain, strict=True):
        assert (found - expected).abs().max() > 0.01
    moved = set()
    for name, value in dual.model.state_dict().items():
        base = name.replace(".base_layer", "")
        if base in values and not torch.equal(value, values[base]):
            moved.add(base)
    free = ("visual_projection.", "text_projection.", "logit_scale", "logit_bias")
    assert all(name.startswith(free) for name in moved), moved


def test_merging_leaves_embeddings_and_a_plain_checkpoint(dual, tmp_path) -> None:
    names = list(dual.model.state_dict())
    add_lora(dual, rank=4, alpha=32, dropout=0.1)
    train(dual)
    expected = embeddings(dual)
    assert has_lora(dual)
    merge_lora(dual)
    assert not has_lora(dual)
    assert list(dual.model.state_dict()) == names
    for found, wanted in zip(embeddings(dual), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    merge_lora(dual)
    dual.model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    assert "peft" not in (tmp_path / "saved" / "config.json").read_text()


def test_an_export_merges(dual, tmp_path) -> None:
    add_lora(dual, rank=2)
    train(dual)
    texts, _ = embeddings(dual)
    export_encoder(dual, tmp_path / "encoder")
    found = Encoder.load(tmp_path / "encoder").encode_texts(TEXTS)
    torch.testing.assert_close(torch.from_numpy(found), texts, atol=1e-5, rtol=0)


def test_the_merge_is_the_papers_formula() -> None:
    """W + alpha / rank * B A (arXiv:2106.09685, section 4.1)."""
    dual = small_dual()
    name = attention_layers(dual, "image")[0]
    before = dual.model.get_submodule(name).weight.detach().clone()
    add_lora(dual, rank=2, alpha=6, towers=["image"])
    train(dual, 1)
    layer = dual.model.get_submodule(name)
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    assert (a.shape[0], b.shape[1]) == (2, 2)
    assert b.abs().max() > 0
    merge_lora(dual)
    torch.testing.assert_close(dual.model.get_submodule(name).weight.detach(), before + 3 * b @ a)


def test_one_tower_alone() -> None:
    dual = small_dual()
    assert add_lora(dual, rank=2, towers=["text"]) == 8
    adapted = {name for name, _ in dual.model.named_parameters() if ".lora_" in name}
    assert adapted
    assert all(name.startswith("text_model.") for name in adapted)
    for name, parameter in dual.model.named_parameters():
        if name.startswith(("vision_model.", "visual_projection.")):
            assert parameter.requires_grad, "the other tower learns as before"


def test_a_frozen_tower_stays_frozen() -> None:
    dual = small_dual()
    freeze(dual, ["image"])
    add_lora(dual, rank=2, towers=["text"])
    for name, parameter in dual.model.named_parameters():
        if name.startswith(("vision_model.", "visual_projection.")):
            assert not parameter.requires_grad
    assert dual.model.text_projection.weight.requires_grad


def test_frozen_layers_get_no_adapters() -> None:
    dual = small_dual()
    freeze(dual, ["image"], last_layers={"text": 1})
    assert add_lora(dual, rank=2) == 4
    learn = {name for name, value in dual.model.named_parameters() if value.requires_grad}
    assert not [name for name in learn if name.startswith("vision_model.")]
    assert {name.split(".")[3] for name in learn if ".lora_" in name} == {"1"}
    dual = small_dual()
    freeze(dual, ["image"])
    with pytest.raises(UsageError, match="--lora has nothing to adapt"):
        add_lora(dual, rank=2, towers=["image"])


def test_layer_decay_reaches_the_adapters() -> None:
    dual = small_dual()
    add_lora(dual, rank=2)
    groups = parameter_groups(dual, learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in dual.model.named_parameters():
        if ".lora_" in name:
            assert rates[id(parameter)] == (0.25 if ".layers.0." in name else 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank of at least 1"),
        ({"dropout": 1.0}, "below 1"),
        ({"towers": ["vision"]}, "--lora-towers vision is not known"),
        ({"towers": []}, "names no tower"),
    ],
)
def test_adapters_that_cannot_be(options: dict, message: str) -> None:
    dual = small_dual()
    with pytest.raises(UsageError, match=message):
        add_lora(dual, **options)
    assert not has_lora(dual)


def test_adapters_that_are_not_finite_are_not_merged() -> None:
    dual = small_dual()
    add_lora(dual, rank=2)
    with torch.no_grad():
        for name, parameter in dual.model.named_parameters():
            if ".lora_B" in name:
                parameter.fill_(float("nan"))
    with pytest.raises(ClipsearchError, match=r"the adapter of .* is not finite"):
        merge_lora(dual)
