"""WiSE-FT: weights between those of the base model and the fine-tuned one (arXiv:2109.01903).

theta = (1 - alpha) * base + alpha * fine-tuned, for every tensor (equation 1). Fine-tuned models
often gain on their own data what they lose elsewhere; values of alpha between keep most of both.
"""

from collections.abc import Mapping

import torch

from finetune.errors import UsageError
from finetune.models.dual_encoder import DualEncoder

Tensors = dict[str, torch.Tensor]


def check_alpha(alpha: float) -> None:
    """Raise UsageError where alpha is not in 0..1."""
    if not 0 <= alpha <= 1:
        raise UsageError(
            f"--wise-ft must be 0 (the base model) to 1 (the fine-tuned one), not {alpha:g}"
        )


@torch.no_grad()
def interpolated(
    base: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], alpha: float
) -> Tensors:
    """Return the weights between two state dicts of the same names and shapes; 0 and 1 are exact.

    Whole numbers are taken from `tuned`.

    Raises UsageError for an alpha out of 0..1, and where the two are of different models.
    """
    check_alpha(alpha)
    if odd := sorted(set(base) ^ set(tuned)):
        raise UsageError(
            f"--wise-ft: the two models have different tensors ({len(odd)}, the first {odd[0]});"
            f" the base must be the model that training started from"
        )
    for name, value in tuned.items():
        if base[name].shape != value.shape:
            raise UsageError(
                f"--wise-ft: {name} is {list(base[name].shape)} in the base model, but"
                f" {list(value.shape)} in the fine-tuned one; the base must be the model that"
                f" training started from"
            )
    return {name: _between(base[name], value, alpha) for name, value in tuned.items()}


def interpolate_with_base(dual: DualEncoder, base: DualEncoder, alpha: float) -> None:
    """Put `dual` between `base` (alpha 0) and itself (alpha 1), in place.

    Raises UsageError where the two are different models or read texts differently.
    """
    if base.tokenizer.get_vocab() != dual.tokenizer.get_vocab():
        raise UsageError(
            f"--wise-ft: {base.base_model} has another vocabulary than the fine-tuned model; the"
            f" base must be the model that training started from"
        )
    dual.model.load_state_dict(
        interpolated(base.model.state_dict(), dual.model.state_dict(), alpha)
    )


def _between(base: torch.Tensor, tuned: torch.Tensor, alpha: float) -> torch.Tensor:
    if not tuned.is_floating_point():
        return tuned.clone()
    return torch.lerp(base.to(tuned), tuned, alpha)
