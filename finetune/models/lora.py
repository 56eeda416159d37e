"""Low-rank adapters on the attention of the towers, through peft (LoRA, arXiv:2106.09685).

Only the adapters, the projections and the logit scale learn in an adapted tower. Before an export
the adapters are added to the weights that they adapt, so that the result is a plain checkpoint.
"""

from collections.abc import Collection
from typing import Any

from torch import nn

from finetune.errors import ClipsearchError, UsageError
from finetune.installing import install_command
from finetune.models.dual_encoder import DualEncoder
from finetune.models.layers import layer_stack, places
from finetune.towers import TOWERS, TowerName

ATTENTION = ("attn", "attention")
DEFAULT_RANK = 8


def add_lora(
    dual: DualEncoder,
    *,
    rank: int = DEFAULT_RANK,
    alpha: float | None = None,
    dropout: float = 0.0,
    towers: Collection[str] = TOWERS,
) -> int:
    """Put adapters beside the linear layers of attention (query, key, value, output), in place.

    An adapter starts at zero: embeddings are those of the base model. Layers that are frozen have
    none. What of the adapted towers
    is no adapter and no projection is frozen; other towers stay as they are.

    Args:
        dual: The model; its state dict has other names until `merge_lora`.
        rank: Of the two factors of an adapter.
        alpha: An adapter counts alpha / rank times; None is 2 * rank.
        dropout: On an adapter's input, in training.
        towers: "image", "text".

    Returns how many layers have an adapter. Draws from torch's random state.

    Raises UsageError for a value that cannot be, ClipsearchError where peft is missing.
    """
    for tower in towers:
        if tower not in TOWERS:
            raise UsageError(f"--lora-towers {tower} is not known; give image or text")
    if rank < 1 or not 0 <= dropout < 1:
        raise UsageError(
            f"LoRA needs a rank of at least 1 and a dropout of at least 0 and below 1,"
            f" not {rank} and {dropout:g}"
        )
    chosen = [tower for tower in TOWERS if tower in towers]
    layers = [name for tower in chosen for name in attention_layers(dual, tower)]
    if not layers:
        raise UsageError("--lora-towers names no tower; give image, text or both")
    # what is frozen does not learn by an adapter either
    targets = [name for name in layers if dual.model.get_parameter(f"{name}.weight").requires_grad]
    if not targets:
        raise UsageError(
            "--lora has nothing to adapt: the layers of --lora-towers are frozen; freeze less, or"
            " name the other tower"
        )
    before = {id(place.parameter): place.parameter.requires_grad for place in places(dual)}
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    peft.inject_adapter_in_model(config, dual.model)
    # peft freezes all that is no adapter, whatever the tower.
    for place in places(dual):
        if ".lora_" in place.name:
            continue
        is_adapted = place.tower in chosen and not _is_projection(place.name)
        place.parameter.requires_grad_(before[id(place.parameter)] and not is_adapted)
    return len(targets)


def merge_lora(dual: DualEncoder) -> None:
    """Add the adapters to the weights they adapt and take them away, in place.

    Embeddings stay the same but for rounding. Does nothing where there are none.

    Raises ClipsearchError where an adapter is not finite.
    """
    if not has_lora(dual):
        return
    layer_class = _lora_layer()
    for name, module in list(dual.model.named_modules()):
        if isinstance(module, layer_class):
            try:
                module.merge(safe_merge=True)
            except ValueError as error:
                raise ClipsearchError(
                    f"the adapter of {name} is not finite, so it cannot be merged; train again"
                    f" with a lower learning rate"
                ) from error
            parent, _, attribute = name.rpartition(".")
            setattr(dual.model.get_submodule(parent), attribute, module.get_base_layer())
    # What peft leaves on a model would be written into its configuration.
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in vars(dual.model):
            delattr(dual.model, attribute)


def has_lora(dual: DualEncoder) -> bool:
    """Return whether there are adapters that are not merged."""
    return any(".lora_" in name for name, _ in dual.model.named_parameters())


def attention_layers(dual: DualEncoder, tower: TowerName) -> list[str]:
    """Return the names in `dual.model` of the linear layers of a tower's attention."""
    stack, _ = layer_stack(dual, tower)
    return [
        f"{stack}.{name}"
        for name, module in dual.model.get_submodule(stack).named_modules()
        if isinstance(module, nn.Linear)
        and any(word in part for part in name.split(".")[:-1] for word in ATTENTION)
    ]


def _is_projection(name: str) -> bool:
    return name.startswith(("visual_projection.", "text_projection."))


def _peft() -> Any:
    try:
        import peft  # heavy, and an extra's
    except ModuleNotFoundError as error:
        raise ClipsearchError(
            f"LoRA needs {error.name}; install it with: {install_command('finetune')}"
        ) from error
    return peft


def _lora_layer() -> type[Any]:
    from peft.tuners.lora import LoraLayer  # heavy, and an extra's

    layer: type[Any] = LoraLayer
    return layer
