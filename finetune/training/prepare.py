"""The model of a run: loaded, then frozen, adapted and compiled as the settings say."""

import warnings
from collections.abc import Callable

import torch

from finetune.config.settings import TrainConfig
from finetune.losses import OPTIONS, build_loss
from finetune.losses.loss import Loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.freezing import freeze, parameter_groups
from finetune.models.lora import add_lora, merge_lora
from finetune.models.speed import compile_layers, enable_gradient_checkpointing, speed_up
from finetune.models.wise_ft import interpolate_with_base
from finetune.optimization.optimizers import OPTIMIZERS, Moments


def load_model(config: TrainConfig, captions: tuple[str, ...]) -> DualEncoder:
    """The model that training starts from; `captions` are those that "tiny" learns words from."""
    if config.text_model is not None:
        return load_two_towers(
            config.model, config.text_model, max_tokens=config.max_tokens, seed=config.seed
        )
    return load_dual_encoder(config.model, captions, max_tokens=config.max_tokens, seed=config.seed)


def prepare(
    dual: DualEncoder, config: TrainConfig, tell: Callable[[str], None] = warnings.warn
) -> Loss:
    """Make the model, on its device, the one that is trained, and give the loss for it.

    `tell` takes a sentence for the user, where at the first batch layers cannot be compiled.

    Raises UsageError where the model cannot be frozen, adapted or compiled so.
    """
    options = {name: getattr(config, name) for name in OPTIONS}
    loss_of = build_loss(config.loss, dual, **options)
    speed_up(dual.model)
    freeze(
        dual,
        config.freeze,
        last_layers={
            "image": config.train_last_image_layers,
            "text": config.train_last_text_layers,
        },
    )
    if config.lora is not None:
        add_lora(
            dual,
            rank=config.lora,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            towers=config.lora_towers,
        )
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(dual)
    if config.compile:
        compile_layers(dual, tell)
    return loss_of


def build_optimizer(dual: DualEncoder, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters that want a gradient.

    Decay applies to matrices alone (CLIP, arXiv:2103.00020, section 2.5: "all weights that are
    not gains or biases"). Each group remembers its top rate as `base_lr`.
    """
    groups = parameter_groups(
        dual,
        learning_rate=config.effective_learning_rate,
        weight_decay=config.weight_decay,
        vision_learning_rate=config.vision_learning_rate,
        text_learning_rate=config.text_learning_rate,
        layer_decay=config.layer_decay,
    )
    moments = Moments(beta1=config.beta1, beta2=config.beta2, eps=config.eps)
    return OPTIMIZERS[config.optimizer](groups, moments)


def finished(dual: DualEncoder, config: TrainConfig) -> DualEncoder:
    """The trained model as it is exported, in place: adapters merged, brought towards the base."""
    merge_lora(dual)
    if config.wise_ft is not None and config.wise_ft < 1:
        base = load_model(config, ()).to(dual.logit_scale.device)
        interpolate_with_base(dual, base, config.wise_ft)
    return dual.eval()
