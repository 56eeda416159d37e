"""The model of a run: loaded, then frozen, adapted and compiled as the settings say."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.config.run_parts import BaseModel, Optimization, Preparation
from finetune.images.preprocessing import with_transparency
from finetune.losses import build_loss
from finetune.losses.loss import Loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.freezing import freeze, parameter_groups
from finetune.models.lora import add_lora, merge_lora
from finetune.models.speed import enable_gradient_checkpointing, speed_up
from finetune.models.wise_ft import interpolate_with_base
from finetune.optimization.optimizers import OPTIMIZERS
from finetune.training.gradients.compilation import Compilation, compile_layers


def load_model(base: BaseModel, captions: tuple[str, ...]) -> DualEncoder:
    """Load the model that training starts from.

    `captions` are those that "tiny" learns words from.
    """
    limit, seed = base.max_tokens, base.seed
    if base.text_model is not None:
        dual = load_two_towers(base.name, base.text_model, max_tokens=limit, seed=seed)
    else:
        dual = load_dual_encoder(base.name, captions, max_tokens=limit, seed=seed)
    if base.transparency is not None:
        dual.preprocessing = with_transparency(dual.preprocessing, base.transparency)
    return dual


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a prepared model is trained with.

    Attributes:
        loss: For it.
        compilation: Of its layers; None where they are as they are.
    """

    loss: Loss
    compilation: Compilation | None


def prepare(
    dual: DualEncoder, preparation: Preparation, tell: Callable[[str], None] = warnings.warn
) -> Prepared:
    """Make the model, on its device, the one that is trained.

    `tell` takes a sentence for the user, where in a step layers cannot be compiled.

    Raises UsageError where the model cannot be frozen, adapted or compiled so.
    """
    loss_of = build_loss(preparation.loss, dual, **preparation.loss_options)
    speed_up(dual.model)
    freeze(dual, preparation.frozen, last_layers=preparation.last_layers)
    adapters = preparation.adapters
    if adapters is not None:
        add_lora(
            dual,
            rank=adapters.rank,
            alpha=adapters.alpha,
            dropout=adapters.dropout,
            towers=adapters.towers,
        )
    if preparation.gradient_checkpointing:
        enable_gradient_checkpointing(dual)
    compilation = None
    if preparation.compile_mode is not None:
        compilation = compile_layers(dual, tell, mode=preparation.compile_mode)
    return Prepared(loss_of, compilation)


def build_optimizer(dual: DualEncoder, wanted: Optimization) -> torch.optim.Optimizer:
    """Make the optimizer over the parameters that want a gradient.

    Decay applies to matrices alone (CLIP, arXiv:2103.00020, section 2.5: "all weights that are
    not gains or biases"). Each group remembers its top rate as `base_lr`.
    """
    groups = parameter_groups(
        dual,
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        vision_learning_rate=wanted.vision_learning_rate,
        text_learning_rate=wanted.text_learning_rate,
        layer_decay=wanted.layer_decay,
    )
    return OPTIMIZERS[wanted.optimizer](groups, wanted.moments)


def finished(dual: DualEncoder, base: BaseModel, wise_ft: float | None) -> DualEncoder:
    """Make the trained model the one that is exported, in place, and return it.

    Adapters are merged, and the weights brought towards those of `base` (0) where `wise_ft` says.
    """
    merge_lora(dual)
    if wise_ft is not None and wise_ft < 1:
        start = load_model(base, ()).to(dual.logit_scale.device)
        interpolate_with_base(dual, start, wise_ft)
    return dual.eval()
