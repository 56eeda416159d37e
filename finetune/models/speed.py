"""The same towers in less time or memory: cheaper arithmetic, recomputed activations.

CLIP's towers stay the same up to rounding. QuickGELU is x sigmoid(1.702 x)
(https://github.com/hendrycks/GELUs). Left to autograd it takes five passes over the widest tensors
backward, and keeps two of them. It is silu(1.702 x) / 1.702 with silu(z) = z sigmoid(z), so its
derivative at x is that of silu at 1.702 x: two passes, and one tensor kept. An image is its class
token, which the last layer's MLP needs not compute for all the others.

Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) makes activations again in the backward
pass instead of keeping them; transformers wraps each layer of a tower. It takes about a third more
time, and memory for one layer's activations instead of all layers'.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel, VisionTextDualEncoderModel
from transformers.activations import QuickGELUActivation

from finetune.errors import UsageError
from finetune.models.dual_encoder import DualEncoder

FACTOR = 1.702
# Autocast casts weights and biases of these; sums, norms and embeddings stay in float32.
CAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
        """Apply it to any shape; written out where nothing is to be differentiated."""
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
    """Cut float[n, t, d] to float[n, 1, d].

    The layer adds it to all tokens, of which one is read.
    """
    return (given[0][:, :1],)


def cast_layers(tower: nn.Module, dtype: torch.dtype) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Bring the matrices that autocast would cast to `dtype`, in place; returns what they were.

    Under autocast the tower then computes the same to the bit, without casting them each time.
    """
    before = []
    for layer in tower.modules():
        if isinstance(layer, CAST_LAYERS):
            for parameter in layer.parameters(recurse=False):
                before.append((parameter, parameter.data))
                parameter.data = parameter.data.to(dtype)
    return before


def enable_gradient_checkpointing(dual: DualEncoder) -> None:
    """Recompute the layers of both towers in the backward pass while `dual` is in training mode.

    Raises UsageError where the model cannot, or where a tower's layers would go on keeping all.
    """
    model = dual.model
    towers = (model.vision_model, model.text_model)
    # the class that joins two checkpoints knows nothing of it, but its towers do
    is_joined = isinstance(model, VisionTextDualEncoderModel)
    try:
        for part in towers if is_joined else (model,):
            _enable(part)
    except ValueError as error:
        raise _unsupported(dual) from error
    if not all(checkpointed_layers(tower) for tower in towers):
        raise _unsupported(dual)


def _enable(model: PreTrainedModel) -> None:
    # the first is the name since transformers 5.1x, the second goes with version 6
    enable = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or model.gradient_checkpointing_enable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # with re-entrant checkpoints a frozen first layer would cut off all gradients; for
        # their sake transformers makes frozen layers take part too, which here is not needed
        enable({"use_reentrant": False})
        model.disable_input_require_grads()


def checkpointed_layers(tower: nn.Module) -> int:
    """Return how many of a tower's layers recompute their activations when training."""
    return sum(
        1
        for module in tower.modules()
        if getattr(module, "gradient_checkpointing", False)
        and hasattr(module, "_gradient_checkpointing_func")
    )


def _unsupported(dual: DualEncoder) -> UsageError:
    return UsageError(
        f"--gradient-checkpointing does not work with {dual.base_model}"
        f" ({type(dual.model).__name__}); save memory with --chunk-size instead"
    )
