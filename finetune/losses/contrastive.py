"""Symmetric contrastive loss (InfoNCE) with any number of positives a row.

With one positive each it is CLIP's loss: cross-entropy over cosines times exp(logit_scale), from
images to texts and from texts to images, averaged (Radford et al. 2021, arXiv:2103.00020, figure
3). With several, for an anchor i with positives P(i), negatives N(i) and logits s:

    loss_i = mean over p in P(i) of  -log( exp(s_ip) / (exp(s_ip) + sum over n in N(i) exp(s_in)) )

This is SINCERE (Feeney and Hughes 2023, arXiv:2309.14277, equation 6). SupCon's L_out (Khosla et
al. 2020, arXiv:2004.11362) has the other positives in the denominator too and so pushes a positive
away as soon as its share is above 1/|P|; here a positive is never a negative: the gradient at its
logit is never above zero.

Two options, both without effect at 0 and both meant for one positive p among N(i) at a time:

- Label smoothing e, as `torch.nn.functional.cross_entropy` has it: the target of the
  classification is 1 - e on p, plus e spread evenly over p and N(i).
- Weights on hard negatives with concentration b (Robinson et al. 2021, arXiv:2010.04592,
  equation 4, with tau+ = 0): in the sum each negative counts times

      w_in = exp(b s_in) / mean over m in N(i) of exp(b s_im)

  so that the sum over N(i) becomes |N(i)| sum(exp((1 + b) s)) / sum(exp(b s)). As in the
  authors' code the gradient goes through the weights.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.losses import MAX_LOGIT_SCALE
from finetune.losses.loss import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveLoss(Loss):
    """`contrastive_loss` with its options, see there.

    Attributes:
        label_smoothing, hard_negative_beta: See `contrastive_loss`.
        max_logit_scale: The factor on cosines stays between 1 and this; 0 bounds it nowhere.
    """

    label_smoothing: float = 0.0
    hard_negative_beta: float = 0.0
    max_logit_scale: float = MAX_LOGIT_SCALE

    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """See `contrastive_loss`."""
        return contrastive_loss(
            image_embeds,
            text_embeds,
            logit_scale,
            positives,
            label_smoothing=self.label_smoothing,
            hard_negative_beta=self.hard_negative_beta,
        )

    @torch.no_grad()
    def clamp(self, logit_scale: nn.Parameter) -> None:
        """Keep the factor within its bounds, as CLIP does (section 2.5)."""
        if self.max_logit_scale:
            logit_scale.clamp_(0.0, math.log(self.max_logit_scale))


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    *,
    label_smoothing: float = 0.0,
    hard_negative_beta: float = 0.0,
) -> Tensor:
    """Return the mean of the image-to-text and the text-to-image loss; a scalar float32.

    Anchors without a positive count in neither mean; an anchor without a negative has loss 0.

    Args:
        image_embeds: float[n, d], unit length.
        text_embeds: float[m, d], unit length.
        logit_scale: Scalar; its exponent multiplies the cosines.
        positives: bool[n, m], true where the text describes the image.
        label_smoothing: Share of the target that is spread evenly, from 0 to below 1.
        hard_negative_beta: How much more a near negative counts than a far one, at least 0. It
            multiplies logits, which reach 100 in a trained CLIP: useful values are well below 1
            there.

    >>> pairs = torch.eye(2, dtype=torch.bool)
    >>> round(contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(0.0), pairs).item(), 4)
    0.3133
    """
    # Half precision would round logits of up to 100 to steps of 0.06.
    if torch.finfo(image_embeds.dtype).bits < 32:
        image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
    with torch.autocast(image_embeds.device.type, enabled=False):
        logits = logit_scale.exp() * image_embeds @ text_embeds.T
        forth = _one_way(logits, positives, label_smoothing, hard_negative_beta)
        back = _one_way(logits.T, positives.T, label_smoothing, hard_negative_beta)
        return (forth + back) / 2


def _one_way(logits: Tensor, positives: Tensor, smoothing: float, beta: float) -> Tensor:
    """Return the mean over rows of the loss in the module's docstring."""
    # Not -inf: a row without negatives would get the gradient nan.
    lowest = torch.finfo(logits.dtype).min / 2
    if beta:
        negatives = _log_sum_of_weighted_negatives(logits, positives, beta, lowest)
    else:
        negatives = logits.masked_fill(positives, lowest).logsumexp(dim=1, keepdim=True)
    # -log(e^s / (e^s + e^n)) = softplus(n - s)
    terms = F.softplus(negatives - logits)
    if smoothing:
        terms = terms + smoothing * _distance_from_even_target(logits, positives)
    terms = terms * positives
    counts = positives.sum(dim=1)
    rows = terms.sum(dim=1) / counts.clamp(min=1)
    return rows.sum() / (counts > 0).sum().clamp(min=1)


def _log_sum_of_weighted_negatives(
    logits: Tensor, positives: Tensor, beta: float, lowest: float
) -> Tensor:
    """Return the logarithm of |N| sum(exp((1 + beta) s)) / sum(exp(beta s)): float[n, 1]."""
    count = (~positives).sum(dim=1, keepdim=True)
    tilted = ((1 + beta) * logits).masked_fill(positives, lowest).logsumexp(dim=1, keepdim=True)
    weights = (beta * logits).masked_fill(positives, lowest).logsumexp(dim=1, keepdim=True)
    log_sum = count.clamp(min=1).to(logits.dtype).log() + tilted - weights
    return log_sum.masked_fill(count == 0, lowest)


def _distance_from_even_target(logits: Tensor, positives: Tensor) -> Tensor:
    """Return s_ip less the mean of s_ip and all negatives' logits, where p is a positive.

    The result is float[n, m].

    Cross-entropy is linear in its target, so this is what an even target adds to a certain one.
    """
    count = (~positives).sum(dim=1, keepdim=True)
    total = logits.masked_fill(positives, 0.0).sum(dim=1, keepdim=True)
    return (count * logits - total) / (count + 1)
