"""The optimizer, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from finetune.config import TrainConfig
from finetune.freezing import parameter_groups
from finetune.model import DualEncoder

MAX_LOGIT_SCALE = math.log(100)


def build_optimizer(dual: DualEncoder, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters that want a gradient.

    Decay applies to matrices alone (CLIP, arXiv:2103.00020, section 2.5: "all weights that are
    not gains or biases"). Each group remembers its top rate as `base_lr`.

    AdamW is arXiv:1711.05101, Adam arXiv:1412.6980 with the decay added to the gradient, Adafactor
    arXiv:1804.04235, whose steps are relative to each parameter's own size.
    """
    groups = parameter_groups(
        dual,
        learning_rate=config.effective_learning_rate,
        weight_decay=config.weight_decay,
        vision_learning_rate=config.vision_learning_rate,
        text_learning_rate=config.text_learning_rate,
        layer_decay=config.layer_decay,
    )
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.effective_learning_rate)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=config.effective_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a share of its top, step by step.

    Attributes:
        name: One of SCHEDULES.
        total: Steps in all.
        warmup: Steps over which the rate rises from 1/warmup (the first step already learns
            something).
        cycles: Of "cosine-restarts".
    """

    name: str
    total: int
    warmup: int = 0
    cycles: int = 1

    def factor(self, step: int) -> float:
        """Of step `step` (0-based), in 0..1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.name](self, step - self.warmup)

    def progress(self, after_warmup: int) -> float:
        """Share of the steps after warm-up that are done, in 0..1."""
        return after_warmup / max(self.total - self.warmup, 1)


def cosine(schedule: Schedule, after_warmup: int) -> float:
    """From 1 to 0 along half a cosine (arXiv:1608.03983, equation 5)."""
    return 0.5 * (1 + math.cos(math.pi * schedule.progress(after_warmup)))


def cosine_restarts(schedule: Schedule, after_warmup: int) -> float:
    """`cycles` times from 1 to 0 along half a cosine, each as long (arXiv:1608.03983)."""
    position = schedule.cycles * schedule.progress(after_warmup)
    return 0.5 * (1 + math.cos(math.pi * (position % 1.0)))


def linear(schedule: Schedule, after_warmup: int) -> float:
    """From 1 to 0 along a line."""
    return 1 - schedule.progress(after_warmup)


def constant(schedule: Schedule, after_warmup: int) -> float:
    """1 throughout."""
    return 1.0


def inverse_sqrt(schedule: Schedule, after_warmup: int) -> float:
    """1 / sqrt(step / warmup), as in arXiv:1706.03762, equation 3; without warm-up 1 / sqrt(step).

    Steps are counted from 1 here, so that the first one after warm-up is just below the top.
    """
    warmup = max(schedule.warmup, 1)
    return math.sqrt(warmup / (warmup + after_warmup))


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "cosine": cosine,
    "linear": linear,
    "cosine-restarts": cosine_restarts,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
}


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
