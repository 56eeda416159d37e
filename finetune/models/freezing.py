"""Which parameters are trained, and each at which rate.

Freezing a whole tower is LiT (arXiv:2111.07991). Layer-wise learning-rate decay lets a layer learn
the slower the nearer it is to the input (ELECTRA, arXiv:2003.10555; BEiT, arXiv:2106.08254).
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from finetune.errors import UsageError
from finetune.models.dual_encoder import DualEncoder
from finetune.models.layers import ParameterPlace, layer_stack, places
from finetune.towers import TOWERS, TowerName

ParameterGroup = dict[str, Any]


def freeze(
    dual: DualEncoder,
    towers: Collection[str] = (),
    *,
    last_layers: Mapping[TowerName, int | None] | None = None,
) -> int:
    """Take parameters out of training, in place.

    Args:
        dual: The model.
        towers: "image", "text": the whole tower with its projection.
        last_layers: By tower, how many of its last layers still learn, besides what follows them
            (final norm, pooler, projection); 0 leaves only the latter. None or absent: all.

    Returns how many values are still trained, of all parameters.

    Raises UsageError for an unknown tower, more layers than there are, both settings for one
    tower, or where neither tower would learn anything.
    """
    last = {tower: (last_layers or {}).get(tower) for tower in TOWERS}
    for tower in towers:
        if tower not in TOWERS:
            raise UsageError(f"--freeze {tower} is not known; give image or text")
    if set(towers) == set(TOWERS):
        raise UsageError("--freeze of both towers leaves nothing to train; freeze one of them")
    for tower, count in last.items():
        if count is not None:
            _check_count(dual, tower, count, tower in towers)
    trained = 0
    for place in places(dual):
        if place.tower is not None and _is_frozen(place, towers, last[place.tower]):
            place.parameter.requires_grad_(False)
        trained += place.parameter.numel() * place.parameter.requires_grad
    return trained


def _check_count(dual: DualEncoder, tower: TowerName, count: int, frozen: bool) -> None:
    option = f"--train-last-{tower}-layers {count}"
    if frozen:
        raise UsageError(f"{option} and --freeze {tower} contradict each other; give one of them")
    _, layers = layer_stack(dual, tower)
    if not 0 <= count <= layers:
        raise UsageError(f"{option}: the {tower} tower has {layers} layers; give 0 to {layers}")


def _is_frozen(place: ParameterPlace, towers: Collection[str], last: int | None) -> bool:
    if place.tower in towers:
        return True
    return last is not None and not place.is_head and place.depth <= place.layers - last


def parameter_groups(
    dual: DualEncoder,
    *,
    learning_rate: float,
    weight_decay: float,
    vision_learning_rate: float | None = None,
    text_learning_rate: float | None = None,
    layer_decay: float = 1.0,
) -> list[ParameterGroup]:
    """Return the parameters that want a gradient, as an optimizer's groups; the fastest first.

    Args:
        dual: The model, after freezing and adapters.
        learning_rate: Of both towers unless they have their own, and of the logit scale.
        weight_decay: Of matrices; gains, biases and the logit scale have none.
        vision_learning_rate, text_learning_rate: Of one tower.
        layer_decay: A tower's rate is multiplied by it once for each layer between a parameter and
            the tower's head; 1 is without, 0.65 to 0.9 is common.

    Each group has "params", "lr", "base_lr" (the same), "weight_decay" and "name", such as
    "image.layer.3.matrices", or "all.vectors" where the rate is one for all.

    Raises UsageError where nothing is left to train, or `layer_decay` is not in 0..1.
    """
    if not 0 < layer_decay <= 1:
        raise UsageError(f"--layer-decay must be above 0 and at most 1, not {layer_decay:g}")
    rates: dict[TowerName | None, float] = {
        "image": learning_rate if vision_learning_rate is None else vision_learning_rate,
        "text": learning_rate if text_learning_rate is None else text_learning_rate,
        None: learning_rate,
    }
    is_split = layer_decay < 1 or len(set(rates.values())) > 1
    groups: dict[str, ParameterGroup] = {}
    for place in places(dual):
        if not place.parameter.requires_grad:
            continue
        is_matrix = place.parameter.ndim >= 2
        where = _label(place, layer_decay < 1) if is_split else "all"
        name = f"{where}.{'matrices' if is_matrix else 'vectors'}"
        below = 0 if place.is_head else place.layers + 1 - place.depth
        rate = rates[place.tower] * layer_decay**below
        group = groups.setdefault(
            name,
            {
                "params": [],
                "lr": rate,
                "base_lr": rate,
                "weight_decay": weight_decay if is_matrix else 0.0,
                "name": name,
            },
        )
        parameters: list[nn.Parameter] = group["params"]
        parameters.append(place.parameter)
    if not groups:
        raise UsageError("nothing is left to train; freeze less")
    return sorted(groups.values(), key=lambda group: (-group["lr"], -group["weight_decay"]))


def _label(place: ParameterPlace, by_layer: bool) -> str:
    if place.tower is None:
        return "scale"
    if not by_layer:
        return place.tower
    if place.is_head:
        return f"{place.tower}.head"
    return f"{place.tower}.layer.{place.depth - 1}" if place.depth else f"{place.tower}.embeddings"
