"""Optimizers by name; torch is imported when one is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """How an optimizer averages gradients and their squares.

    Attributes:
        beta1, beta2: Decay of the averages of gradients and of their squares, in 0..1.
        eps: Added to the root of the latter, above 0.
    """

    beta1: float
    beta2: float
    eps: float


ParameterGroups = Sequence[dict[str, Any]]


def adamw(groups: ParameterGroups, moments: Moments) -> "Optimizer":
    """Make AdamW (arXiv:1711.05101)."""
    import torch  # heavy, and the names are needed without

    betas = moments.beta1, moments.beta2
    return torch.optim.AdamW(groups, betas=betas, eps=moments.eps, fused=True)


def adam(groups: ParameterGroups, moments: Moments) -> "Optimizer":
    """Make Adam (arXiv:1412.6980), with the decay added to the gradient."""
    import torch  # as above

    betas = moments.beta1, moments.beta2
    return torch.optim.Adam(groups, betas=betas, eps=moments.eps, fused=True)


def adafactor(groups: ParameterGroups, moments: Moments) -> "Optimizer":
    """Make Adafactor (arXiv:1804.04235), without `moments`.

    Its steps are relative to each parameter's size.
    """
    import torch  # as above

    return torch.optim.Adafactor(groups)


OPTIMIZERS: Mapping[str, Callable[[ParameterGroups, Moments], "Optimizer"]] = {
    "adamw": adamw,
    "adam": adam,
    "adafactor": adafactor,
}


def set_learning_rate(optimizer: "Optimizer", factor: float) -> float:
    """Give each group its top rate, `base_lr`, times `factor`; return the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    return rate
