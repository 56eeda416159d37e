from functools import partial

import pytest
import torch
from random_batch import gradients, random_batch, small_dual
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.data.world import World
from finetune.losses.contrastive import contrastive_loss
from finetune.models.freezing import freeze
from finetune.models.lora import add_lora
from finetune.models.speed import enable_gradient_checkpointing
from finetune.training.gradients.backward import whole_backward
from finetune.training.gradients.weight_copies import WeightCopies
from finetune.training.step import build_backward

WORLD = World(0, 1, torch.device("cpu"))
PLANS = {"whole": {}, "chunks": {"chunk_size": 5}, "parts": {"parts": 3}}


class Casts(TorchDispatchMode):
    """Counts casts between precisions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*arguments, **(options or {}))


def both_ways(dual, dtype, **plan):
    """Loss and gradients of autocast's own casts, and of copies."""
    batch = random_batch(dual, 12)
    copied = build_backward(contrastive_loss, WORLD, dtype, **plan)
    for backward in (copied._backward, copied):
        torch.manual_seed(3)
        yield backward(dual, batch, scaler=None), gradients(dual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", PLANS)
def test_loss_and_gradients_are_those_of_autocast_to_the_bit(plan, dtype) -> None:
    dual = small_dual(dropout=0.3)
    (loss, expected), (found_loss, found) = both_ways(dual, dtype, **PLANS[plan])
    assert torch.equal(found_loss, loss)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("change", ["frozen", "adapters", "checkpointing", "shared"])
def test_with_what_changes_the_model_too(change) -> None:
    dual = small_dual()
    if change == "frozen":
        freeze(dual, ["text"])
    elif change == "adapters":
        torch.manual_seed(0)
        add_lora(dual, rank=2)
    elif change == "checkpointing":
        enable_gradient_checkpointing(dual)
    else:
        layers = dual.model.vision_model.encoder.layers
        layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight
    (loss, expected), (found_loss, found) = both_ways(dual, torch.bfloat16)
    assert torch.equal(found_loss, loss)
    assert found.keys() == expected.keys()
    # of a shared weight autocast adds up both uses' gradients in half precision, as a copy does
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_far_fewer_casts_than_autocast_makes() -> None:
    dual = small_dual()
    batch = random_batch(dual, 12)
    copied = build_backward(contrastive_loss, WORLD, torch.bfloat16)
    copied(dual, batch)  # makes the copies
    counts = []
    for backward in (
        partial(whole_backward, loss_of=contrastive_loss, dtype=torch.bfloat16),
        copied,
    ):
        with Casts() as casts:
            backward(dual, batch)
        counts.append(casts.count)
    weights = sum(
        len(list(layer.parameters(recurse=False)))
        for layer in dual.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    )
    # one for each weight and one for its gradient less
    assert counts[0] - counts[1] == 2 * weights


def test_gradients_add_up_over_batches_in_float32() -> None:
    dual = small_dual()
    copied = build_backward(contrastive_loss, WORLD, torch.bfloat16)
    single = []
    for size in (12, 9):
        copied(dual, random_batch(dual, size))
        single.append(gradients(dual))
    for size in (12, 9):
        copied(dual, random_batch(dual, size))
    for name, gradient in gradients(dual).items():
        assert torch.equal(gradient, single[0][name] + single[1][name]), name


def test_copies_follow_the_weights_and_are_out_of_sight_afterwards() -> None:
    dual = small_dual()
    names = [name for name, _ in dual.named_parameters()]
    fc1 = dual.model.text_model.encoder.layers[0].mlp.fc1
    weight = fc1.weight
    copies = WeightCopies(dual, torch.bfloat16)
    with torch.no_grad():
        weight.add_(1.0)
    with pytest.raises(RuntimeError, match="out of patience"), copies.applied():
        assert fc1.weight.dtype == torch.bfloat16
        assert torch.equal(fc1.weight, weight.bfloat16())
        raise RuntimeError("out of patience")
    assert fc1.weight is weight
    assert [name for name, _ in dual.named_parameters()] == names
    assert all(parameter.dtype == torch.float32 for parameter in dual.parameters())
