"""Sigmoid loss: every pair of an image and a text is a yes-or-no question of its own.

With z = 1 for a pair that belongs together, else -1 (SigLIP, Zhai et al. 2023, arXiv:2303.15343,
equation 1 and algorithm 1; t' is `logit_scale`, b is `logit_bias`):

    loss = -1/m * sum over images i and texts j of  log sigmoid(z_ij (exp(t') cos_ij + b))

where m is the number of texts: of pairs, where every text has one image. As no softmax joins the
pairs, a text with several images, or an image with several texts, needs no other treatment.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.losses.loss import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidLoss(Loss):
    """`sigmoid_loss` with the bias of a model.

    The scale of its logits has no bounds: that of SigLIP's checkpoints is above 100, CLIP's most.
    """

    needs_bias: ClassVar[bool] = True
    logit_bias: Tensor

    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """See `sigmoid_loss`."""
        return sigmoid_loss(
            image_embeds, text_embeds, logit_scale, positives, logit_bias=self.logit_bias
        )


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    *,
    logit_bias: Tensor,
) -> Tensor:
    """Return the sum over all pairs, divided by the number of texts; a scalar float32.

    Args:
        image_embeds: float[n, d], unit length.
        text_embeds: float[m, d], unit length.
        logit_scale: Scalar; its exponent multiplies the cosines.
        positives: bool[n, m], true where the text describes the image.
        logit_bias: Scalar, added to the scaled cosines. About minus the logarithm of the number
            of negatives to each positive: at 0 the many negatives would drown the start.

    >>> pairs = torch.eye(2, dtype=torch.bool)
    >>> zero = torch.tensor(0.0)
    >>> round(sigmoid_loss(torch.eye(2), torch.eye(2), zero, pairs, logit_bias=zero).item(), 4)
    1.0064
    """
    # Half precision would round logits of up to 100 to steps of 0.06.
    if torch.finfo(image_embeds.dtype).bits < 32:
        image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
    with torch.autocast(image_embeds.device.type, enabled=False):
        logits = logit_scale.exp() * image_embeds @ text_embeds.T + logit_bias
        return -F.logsigmoid(torch.where(positives, logits, -logits)).sum() / len(text_embeds)
