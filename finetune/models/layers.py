"""Where each parameter of a dual encoder stands: which tower, and how deep in it.

Works on any two-tower model of transformers whose towers are `vision_model` and `text_model`:
CLIP, SigLIP, VisionTextDualEncoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from finetune.errors import UsageError
from finetune.models.dual_encoder import DualEncoder
from finetune.towers import TOWERS, TowerName

PREFIXES: dict[TowerName, tuple[str, str]] = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}


@dataclass(frozen=True, slots=True)
class ParameterPlace:
    """Of one parameter.

    Attributes:
        name: In `dual.model`, or in `dual` for what only that has.
        parameter: Itself.
        tower: "image" or "text"; None for the logit scale and bias, which belong to both.
        depth: 0 for embeddings, 1 to `layers` for the layers, `layers` + 1 for what follows them
            (final norm, pooler, projection) and for the logit scale and bias.
        layers: Of the tower; 0 where there is none.
    """

    name: str
    parameter: nn.Parameter
    tower: TowerName | None
    depth: int
    layers: int

    @property
    def is_head(self) -> bool:
        """Whether it follows the layers."""
        return self.depth > self.layers


def places(dual: DualEncoder) -> Iterator[ParameterPlace]:
    """Yield every parameter of `dual` once, in the order of `dual.parameters()`."""
    stacks = {tower: layer_stack(dual, tower) for tower in TOWERS}
    known = {id(parameter): name for name, parameter in dual.model.named_parameters()}
    seen_layers = dict.fromkeys(TOWERS, False)
    for full_name, parameter in dual.named_parameters():
        name = known.get(id(parameter), full_name)
        tower = next((t for t in TOWERS if name.startswith(PREFIXES[t])), None)
        if tower is None:
            yield ParameterPlace(name, parameter, None, 1, 0)
            continue
        stack, layers = stacks[tower]
        if name.startswith(stack + "."):
            seen_layers[tower] = True
            depth = int(name[len(stack) + 1 :].partition(".")[0]) + 1
        else:
            # Modules are registered in the order in which they are used.
            depth = layers + 1 if seen_layers[tower] or _is_projection(name, tower) else 0
        yield ParameterPlace(name, parameter, tower, depth, layers)


def layer_stack(dual: DualEncoder, tower: TowerName) -> tuple[str, int]:
    """Return the name of a tower's list of layers in `dual.model`, and how many there are."""
    root = PREFIXES[tower][0].removesuffix(".")
    stacks = [
        (f"{root}.{name}", len(module))
        for name, module in dual.model.get_submodule(root).named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    if not stacks:
        raise UsageError(
            f"the {tower} tower of {dual.base_model} ({type(dual.model).__name__}) has no list of"
            f" layers, so it cannot be frozen or adapted by layer"
        )
    return max(stacks, key=lambda stack: stack[1])


def _is_projection(name: str, tower: TowerName) -> bool:
    return name.startswith(PREFIXES[tower][1])
