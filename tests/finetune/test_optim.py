import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from finetune.config import TrainConfig
from finetune.model import load_dual_encoder
from finetune.optim import MAX_LOGIT_SCALE, adamw, clamp_logit_scale, rate_factor, set_learning_rate


@pytest.mark.parametrize(("total", "warmup"), [(50, 10), (7, 0), (20, 1)])
def test_cosine_equals_transformers_but_for_a_first_step_of_nothing(total, warmup) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0]
    for step in range(total):
        factor = rate_factor(step, total=total, warmup=warmup, schedule="cosine")
        assert factor == pytest.approx(theirs(step + 1 if step < warmup else step))
        assert factor > 0


def test_constant_keeps_the_rate_after_warm_up() -> None:
    factors = [rate_factor(s, total=6, warmup=2, schedule="constant") for s in range(6)]
    assert factors == [0.5, 1, 1, 1, 1, 1]


def test_only_matrices_decay_and_no_parameter_is_forgotten() -> None:
    dual = load_dual_encoder("tiny", ["a red square", "a blue square"])
    optimizer = adamw(dual, TrainConfig(manifest="m", model="tiny", weight_decay=0.3))
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


def test_frozen_parameters_are_left_alone() -> None:
    model = torch.nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    optimizer = adamw(model, TrainConfig(manifest="m", model="tiny"))
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 1]


def test_groups_keep_their_own_top_rate() -> None:
    optimizer = adamw(torch.nn.Linear(3, 3), TrainConfig(manifest="m", model="tiny"))
    optimizer.param_groups[1]["base_lr"] = 0.5
    assert set_learning_rate(optimizer, 0.1) == pytest.approx(1e-4)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(("value", "kept"), [(9.0, MAX_LOGIT_SCALE), (-1.0, 0.0), (2.5, 2.5)])
def test_the_logit_scale_stays_between_1_and_100(value: float, kept: float) -> None:
    scale = torch.nn.Parameter(torch.tensor(value))
    clamp_logit_scale(scale)
    assert scale.item() == pytest.approx(kept)
