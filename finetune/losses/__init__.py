"""Losses of dual encoders, one a file, all called alike."""

from typing import Protocol

from torch import Tensor


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
