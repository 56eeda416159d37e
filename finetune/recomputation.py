"""Gradient checkpointing: activations made again in the backward pass instead of kept.

Chen et al. 2016 (arXiv:1604.06174); transformers wraps each layer of a tower. It takes about a
third more time, and memory for one layer's activations instead of all layers'.
"""

import warnings

from torch import nn
from transformers import PreTrainedModel, VisionTextDualEncoderModel

from finetune.errors import UsageError
from finetune.model import DualEncoder


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
    """How many of a tower's layers recompute their activations when training."""
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
