"""AdamW, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable

import torch
from torch import nn

from finetune.config import TrainConfig

MAX_LOGIT_SCALE = math.log(100)


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the parameters that want a gradient.

    Decay applies to matrices alone (CLIP, arXiv:2103.00020, section 2.5: "all weights that are
    not gains or biases"). Each group remembers its top rate as `base_lr`.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate = config.effective_learning_rate
    for group in groups:
        group["base_lr"] = rate
    return torch.optim.AdamW(
        groups, lr=rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine; `progress` is in 0..1 (arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine, "constant": constant}


def rate_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """What the top learning rate is multiplied by in step `step` (0-based), in 0..1.

    Linear warm-up from 1/warmup (the first step already learns something), then the schedule
    over the steps that are left.
    """
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(total - warmup, 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give each group its top rate times `factor`; the first group's rate is returned."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


@torch.no_grad()
def clamp_logit_scale(logit_scale: nn.Parameter) -> None:
    """Keep the scale of the logits between 1 and 100, as CLIP does (section 2.5)."""
    logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
