"""What every loss of dual encoders is."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from torch import Tensor, nn


class ScoresBatch(Protocol):
    """Scores a batch of n images and m texts; lower is better."""

    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """Return the mean loss, a scalar float32.

        Args:
            image_embeds: float[n, d], unit length.
            text_embeds: float[m, d], unit length.
            logit_scale: The model's scalar parameter; its exponent multiplies cosines.
            positives: bool[n, m], true where the text describes the image.
        """
        ...


class Loss(ABC):
    """A loss that a model is trained with: it scores batches, and knows what it needs.

    Subclasses are frozen dataclasses. Their fields are their options, named in
    `finetune.losses.LOSSES`, and with `needs_bias` the model's `logit_bias`.

    Attributes:
        needs_bias: Whether a bias is added to the scaled cosines; a model without one gets one.
    """

    needs_bias: ClassVar[bool] = False
    __slots__ = ()

    @abstractmethod
    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """See `ScoresBatch`."""

    def clamp(self, logit_scale: nn.Parameter) -> None:  # noqa: B027  # most have no bounds
        """Keep the scale of the logits in bounds, in place; called after every step.

        Without bounds unless a loss says otherwise.
        """


class BiasedModel(Protocol):
    """A model that can be given a bias on its logits."""

    def ensure_logit_bias(self) -> nn.Parameter:
        """Return the bias, made where there is none."""
        ...
