"""CLIP's towers as transformers has them, the same up to rounding, with less work in a step.

QuickGELU is x sigmoid(1.702 x) (https://github.com/hendrycks/GELUs). Left to autograd it takes
five passes over the widest tensors backward, and keeps two of them. It is silu(1.702 x) / 1.702
with silu(z) = z sigmoid(z), so its derivative at x is that of silu at 1.702 x: two passes, and one
tensor kept.

An image is its class token, which the last layer's MLP needs not compute for all the others.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.activations import QuickGELUActivation

FACTOR = 1.702


def speed_up(model: nn.Module) -> None:
    """Make a CLIP, or what is CLIP of a model, faster in place; other models stay as they are.

    Names, shapes and values of parameters do not change. Of the image tower's
    `last_hidden_state` only the class token keeps its meaning.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, QuickGELUActivation):
                setattr(module, name, QuickGELU())
        # transformers had both before it joined them
        if type(module).__name__ in ("CLIPVisionTransformer", "CLIPVisionModel"):
            encoder = getattr(module, "encoder", None)
            if encoder is not None:
                encoder.layers[-1].mlp.register_forward_pre_hook(_class_token)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of any shape; written out where nothing is to be differentiated."""
        # traced and compiled towers hold plain operations
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return x * torch.sigmoid(FACTOR * x)
        value: torch.Tensor = _QuickGELU.apply(x)  # type: ignore[no-untyped-call]
        return value


class _QuickGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (FACTOR * x).sigmoid_().mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        gradient: torch.Tensor = torch.ops.aten.silu_backward(gradients[0], FACTOR * x)
        return gradient


def _class_token(mlp: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """float[n, 1, d] of float[n, t, d]; the layer adds it to all tokens, of which one is read."""
    return (given[0][:, :1],)
