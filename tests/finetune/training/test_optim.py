import math
from functools import partial

import pytest
import torch
from transformers import (
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
)
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup as cosine_with_restarts

from finetune.config.run_parts import Optimization
from finetune.config.settings import TrainConfig
from finetune.losses import MAX_LOGIT_SCALE
from finetune.losses.contrastive import ContrastiveLoss
from finetune.losses.sigmoid import SigmoidLoss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.freezing import freeze
from finetune.optimization.optimizers import OPTIMIZERS, set_learning_rate
from finetune.optimization.schedules import SCHEDULES, Schedule
from finetune.training.prepare import build_optimizer


@pytest.mark.parametrize(("total", "warmup"), [(50, 10), (7, 0), (20, 1)])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("cosine", get_cosine_schedule_with_warmup),
        ("linear", get_linear_schedule_with_warmup),
        ("cosine-restarts", partial(cosine_with_restarts, num_cycles=3)),
    ],
)
def test_schedules_equal_transformers_but_for_a_first_step_of_nothing(
    name, theirs, total, warmup
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor_of = theirs(optimizer, warmup, total).lr_lambdas[0]
    cycles = 3 if name == "cosine-restarts" else 1
    schedule = Schedule(name, total, warmup, cycles)
    for step in range(total):
        expected = factor_of(step + 1 if step < warmup else step)
        assert schedule.factor(step) == pytest.approx(expected, abs=1e-9)
        assert schedule.factor(step) > 0


def test_inverse_sqrt_equals_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_inverse_sqrt_schedule(optimizer, 9).lr_lambdas[0]
    schedule = Schedule("inverse-sqrt", 200, 9)
    for step in range(9, 200):
        assert schedule.factor(step) == pytest.approx(theirs(step))


def test_constant_keeps_the_rate_after_warm_up() -> None:
    schedule = Schedule("constant", 6, 2)
    assert [schedule.factor(step) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_stay_between_nothing_and_the_top(name) -> None:
    schedule = Schedule(name, 30, 5, 2)
    factors = [schedule.factor(step) for step in range(30)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == factors[4] == 1


@pytest.fixture
def dual() -> DualEncoder:
    return load_dual_encoder("tiny", ["a red square", "a blue square"])


def test_only_matrices_decay_and_no_parameter_is_forgotten(dual) -> None:
    optimizer = build_optimizer(
        dual, Optimization.of(TrainConfig(manifest="m", model="tiny", weight_decay=0.3))
    )
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in dual.named_parameters():
        is_gain_or_bias = name.endswith("bias") or "norm" in name or "logit_scale" in name
        # CLIP's class embedding is a vector too.
        vector = is_gain_or_bias or name.endswith("class_embedding")
        assert decay[id(parameter)] == (0.0 if vector else 0.3), name


def test_groups_keep_their_own_top_rate(dual) -> None:
    config = TrainConfig(
        manifest="m", model="tiny", learning_rate=1e-3, text_learning_rate=0.5, layer_decay=0.5
    )
    optimizer = build_optimizer(dual, Optimization.of(config))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    set_learning_rate(optimizer, 0.1)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        name: pytest.approx(0.1 * rate) for name, rate in rates.items()
    }
    assert rates["text.head.matrices"] == 0.5
    assert rates["image.head.matrices"] == 1e-3
    assert rates["image.layer.0.matrices"] < rates["image.layer.1.matrices"] < 1e-3


def test_frozen_parameters_are_left_alone(dual) -> None:
    freeze(dual, ["text"])
    optimizer = build_optimizer(dual, Optimization.of(TrainConfig(manifest="m", model="tiny")))
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in dual.named_parameters():
        assert (id(parameter) in stepped) == ("text" not in name), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_downhill(dual, name) -> None:
    config = TrainConfig(manifest="m", model="tiny", optimizer=name, learning_rate=1e-2)
    optimizer = build_optimizer(dual, Optimization.of(config))
    losses = []
    for _ in range(30):
        loss = sum(p.square().mean() for p in dual.parameters())
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("value", "kept"), [(9.0, math.log(MAX_LOGIT_SCALE)), (-1.0, 0.0), (2.5, 2.5)]
)
def test_the_logit_scale_stays_between_1_and_100(value: float, kept: float) -> None:
    scale = torch.nn.Parameter(torch.tensor(value))
    ContrastiveLoss().clamp(scale)
    assert scale.item() == pytest.approx(kept)


@pytest.mark.parametrize(("most", "kept"), [(0.0, 9.0), (50.0, math.log(50))])
def test_the_bound_of_the_logit_scale_can_be_moved_or_left_out(most: float, kept: float) -> None:
    scale = torch.nn.Parameter(torch.tensor(9.0))
    ContrastiveLoss(max_logit_scale=most).clamp(scale)
    assert scale.item() == pytest.approx(kept)


def test_the_sigmoid_loss_lets_the_logit_scale_be() -> None:
    scale = torch.nn.Parameter(torch.tensor(5.0))
    SigmoidLoss(logit_bias=torch.tensor(-10.0)).clamp(scale)
    assert scale.item() == 5.0
