"""What is trained, and at which rate: by tower, by layer, and after a real step."""

import math

import pytest
import torch
from random_batch import random_batch, small_dual
from tiny_checkpoints import save_clip, save_roberta, save_siglip

from finetune.errors import UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.freezing import freeze, parameter_groups
from finetune.models.layers import layer_stack, places
from finetune.training.gradients.backward import whole_backward

FAMILIES = ["clip", "siglip", "vision-text-dual-encoder"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_clip(folder / "clip")
    save_siglip(folder / "siglip")
    save_roberta(folder / "roberta")
    return folder


@pytest.fixture(params=FAMILIES)
def dual(request, folders) -> DualEncoder:
    if request.param == "vision-text-dual-encoder":
        return load_two_towers(folders / "clip", folders / "roberta", projection=24).train()
    return load_dual_encoder(folders / request.param).train()


def step(dual: DualEncoder, optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the parameters that a step of training changes."""
    before = {name: value.detach().clone() for name, value in dual.model.named_parameters()}
    whole_backward(dual, random_batch(dual, 6), contrastive_loss)
    optimizer.step()
    return {n for n, value in dual.model.named_parameters() if not torch.equal(before[n], value)}


def sgd(dual: DualEncoder) -> torch.optim.SGD:
    trained = [parameter for parameter in dual.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=100.0)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_does_not_move(dual, tower: str) -> None:
    prefixes = {
        "image": ("vision_model.", "visual_projection."),
        "text": ("text_model.", "text_projection."),
    }
    values = {name: value.numel() for name, value in dual.named_parameters()}
    trained = freeze(dual, [tower])
    frozen = {name for name in dual.state_dict() if name[6:].startswith(prefixes[tower])}
    assert trained == sum(count for name, count in values.items() if name not in frozen)
    moved = step(dual, sgd(dual))
    other = prefixes["text" if tower == "image" else "image"]
    assert moved
    assert all(name.startswith((*other, "logit_scale", "logit_bias")) for name in moved)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_last_layers_still_learn(dual, count: int) -> None:
    freeze(dual, last_layers={"image": count, "text": None})
    moved = step(dual, sgd(dual))
    stack, layers = layer_stack(dual, "image")
    assert (stack, layers) == ("vision_model.encoder.layers", 2)
    learning = {n.removeprefix(stack + ".")[0] for n in moved if n.startswith(stack)}
    assert learning == {str(index) for index in range(layers - count, layers)}
    assert not any(name.startswith("vision_model.embeddings") for name in moved)
    assert any(name.startswith("vision_model.post_layernorm") for name in moved)
    assert any(name.startswith("text_model.embeddings") for name in moved)


def test_layers_are_found_by_their_place_and_not_their_name(dual) -> None:
    by_depth: dict[tuple[str | None, int], set[str]] = {}
    for place in places(dual):
        by_depth.setdefault((place.tower, place.depth), set()).add(place.name)
    assert {depth for tower, depth in by_depth if tower == "text"} == {0, 1, 2, 3}
    assert all("embeddings" in name or "pre_layrnorm" in name for name in by_depth["image", 0])
    assert all("embeddings" in name for name in by_depth["text", 0])
    for tower in ("image", "text"):
        for layer in (1, 2):
            assert all(f".{layer - 1}." in name for name in by_depth[tower, layer])
        assert not any(".layers." in n or ".layer." in n for n in by_depth[tower, 3])
    count = sum(1 for _ in dual.parameters())
    assert sum(len(names) for names in by_depth.values()) == count


def test_the_groups_hold_every_parameter_once(dual) -> None:
    freeze(dual, last_layers={"text": 1})
    groups = parameter_groups(
        dual, learning_rate=1e-3, weight_decay=0.2, vision_learning_rate=1e-5, layer_decay=0.5
    )
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in dual.parameters() if p.requires_grad}
    for group in groups:
        assert group["weight_decay"] == (0.2 if group["name"].endswith("matrices") else 0.0)
        assert {p.ndim >= 2 for p in group["params"]} == {group["name"].endswith("matrices")}
        assert group["lr"] == group["base_lr"]
    assert groups[0]["lr"] == max(group["lr"] for group in groups)


def test_rates_by_layer_written_out(dual) -> None:
    groups = parameter_groups(
        dual,
        learning_rate=1.0,
        weight_decay=0.0,
        vision_learning_rate=10.0,
        text_learning_rate=0.1,
        layer_decay=0.5,
    )
    found = {group["name"].rpartition(".")[0]: group["lr"] for group in groups}
    expected = {"scale": 1.0}
    for tower, rate in (("image", 10.0), ("text", 0.1)):
        expected |= {
            f"{tower}.head": rate,
            f"{tower}.layer.1": rate / 2,
            f"{tower}.layer.0": rate / 4,
            f"{tower}.embeddings": rate / 8,
        }
    assert found == pytest.approx(expected)


def test_without_options_the_rate_is_one_for_all(dual) -> None:
    groups = parameter_groups(dual, learning_rate=1e-4, weight_decay=0.2)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("all.matrices", 1e-4), ("all.vectors", 1e-4),
    ]  # fmt: skip


def test_a_step_is_as_large_as_the_rate_says() -> None:
    """With plain SGD each tensor moves by its own rate times its gradient."""
    dual = small_dual()
    groups = parameter_groups(dual, learning_rate=0.5, weight_decay=0.0, layer_decay=0.7)
    optimizer = torch.optim.SGD(groups)
    before = {name: value.detach().clone() for name, value in dual.model.named_parameters()}
    whole_backward(dual, random_batch(dual, 6), contrastive_loss)
    gradients = {name: value.grad.clone() for name, value in dual.model.named_parameters()}
    optimizer.step()
    for place in places(dual):
        below = 0 if place.is_head else place.layers + 1 - place.depth
        expected = before[place.name] - 0.5 * 0.7**below * gradients[place.name]
        torch.testing.assert_close(place.parameter.detach(), expected)
    assert any(not math.isclose(group["lr"], 0.5) for group in groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towers": ["vision"]}, "--freeze vision is not known; give image or text"),
        ({"towers": ["image", "text"]}, "leaves nothing to train"),
        ({"last_layers": {"image": 3}}, "--train-last-image-layers 3: .* has 2 layers; give 0 to"),
        ({"last_layers": {"text": -1}}, "--train-last-text-layers -1"),
        ({"towers": ["image"], "last_layers": {"image": 1}}, "contradict each other"),
    ],
)
def test_what_cannot_be_frozen(options: dict, message: str) -> None:
    dual = small_dual()
    with pytest.raises(UsageError, match=message):
        freeze(dual, **options)
    assert all(parameter.requires_grad for parameter in dual.parameters()), "nothing is half done"


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0])
def test_a_layer_decay_that_cannot_be(decay: float) -> None:
    with pytest.raises(UsageError, match="--layer-decay must be above 0 and at most 1"):
        parameter_groups(small_dual(), learning_rate=1.0, weight_decay=0.0, layer_decay=decay)


def test_nothing_left_to_train() -> None:
    dual = small_dual()
    dual.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing is left to train"):
        parameter_groups(dual, learning_rate=1.0, weight_decay=0.0)
