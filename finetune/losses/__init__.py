"""Losses of dual encoders, one a file, all called alike."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from finetune.errors import UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.losses.sigmoid import sigmoid_loss

if TYPE_CHECKING:
    from finetune.model import DualEncoder


class Loss(Protocol):
    """Scores a batch of n images and m texts; lower is better."""

    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """The mean loss, a scalar float32.

        Args:
            image_embeds: float[n, d], unit length.
            text_embeds: float[m, d], unit length.
            logit_scale: The model's scalar parameter; its exponent multiplies cosines.
            positives: bool[n, m], true where the text describes the image.
        """
        ...


def build_loss(
    name: str,
    dual: "DualEncoder",
    *,
    label_smoothing: float = 0.0,
    hard_negative_beta: float = 0.0,
) -> Loss:
    """The loss of that name, for this model.

    Call it before the optimizer is made: the sigmoid loss gives a model without a bias one.

    Args:
        name: One of LOSSES.
        dual: The model that will be trained.
        label_smoothing, hard_negative_beta: See `contrastive_loss`; no other loss has them.

    Raises UsageError for an unknown name, a value out of range, or an option of another loss.
    """
    if name not in LOSSES:
        raise UsageError(f"--loss must be one of {', '.join(LOSSES)}, not {name}")
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"--label-smoothing must be at least 0 and below 1, not {label_smoothing}")
    if not 0 <= hard_negative_beta < float("inf"):
        raise UsageError(f"--hard-negative-beta must be at least 0, not {hard_negative_beta}")
    return LOSSES[name](dual, label_smoothing, hard_negative_beta)


def _contrastive(dual: "DualEncoder", label_smoothing: float, hard_negative_beta: float) -> Loss:
    return partial(
        contrastive_loss, label_smoothing=label_smoothing, hard_negative_beta=hard_negative_beta
    )


def _sigmoid(dual: "DualEncoder", label_smoothing: float, hard_negative_beta: float) -> Loss:
    for option, value in (
        ("--label-smoothing", label_smoothing),
        ("--hard-negative-beta", hard_negative_beta),
    ):
        if value:
            raise UsageError(
                f"{option} {value} is for --loss contrastive; leave it out with --loss sigmoid"
            )
    return partial(sigmoid_loss, logit_bias=dual.ensure_logit_bias())


LOSSES: Mapping[str, Callable[["DualEncoder", float, float], Loss]] = {
    "contrastive": _contrastive,
    "sigmoid": _sigmoid,
}
