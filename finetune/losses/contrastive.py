"""Symmetric contrastive loss (InfoNCE) with any number of positives a row.

With one positive each it is CLIP's loss: cross-entropy over cosines times exp(logit_scale), from
images to texts and from texts to images, averaged (Radford et al. 2021, arXiv:2103.00020, figure
3). With several, for an anchor i with positives P(i), negatives N(i) and logits s:

    loss_i = mean over p in P(i) of  -log( exp(s_ip) / (exp(s_ip) + sum over n in N(i) exp(s_in)) )

This is SINCERE (Feeney and Hughes 2023, arXiv:2309.14277, equation 6). SupCon's L_out (Khosla et
al. 2020, arXiv:2004.11362) has the other positives in the denominator too and so pushes a positive
away as soon as its share is above 1/|P|; here a positive is never a negative: the gradient at its
logit is never above zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
) -> Tensor:
    """The mean of the image-to-text and the text-to-image loss; a scalar float32.

    Anchors without a positive count in neither mean; an anchor without a negative has loss 0.

    Args:
        image_embeds: float[n, d], unit length.
        text_embeds: float[m, d], unit length.
        logit_scale: Scalar; its exponent multiplies the cosines.
        positives: bool[n, m], true where the text describes the image.

    >>> pairs = torch.eye(2, dtype=torch.bool)
    >>> round(contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(0.0), pairs).item(), 4)
    0.3133
    """
    # Half precision would round logits of up to 100 to steps of 0.06.
    if torch.finfo(image_embeds.dtype).bits < 32:
        image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
    with torch.autocast(image_embeds.device.type, enabled=False):
        logits = logit_scale.exp() * image_embeds @ text_embeds.T
        return (_one_way(logits, positives) + _one_way(logits.T, positives.T)) / 2


def _one_way(logits: Tensor, positives: Tensor) -> Tensor:
    """The mean over rows of the loss in the module's docstring."""
    # Not -inf: a row without negatives would get the gradient nan.
    lowest = torch.finfo(logits.dtype).min / 2
    negatives = logits.masked_fill(positives, lowest).logsumexp(dim=1, keepdim=True)
    # -log(e^s / (e^s + e^n)) = softplus(n - s)
    terms = F.softplus(negatives - logits) * positives
    counts = positives.sum(dim=1)
    rows = terms.sum(dim=1) / counts.clamp(min=1)
    return rows.sum() / (counts > 0).sum().clamp(min=1)
