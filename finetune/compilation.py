"""Compiled layers of the towers (`torch.compile`)."""

from torch import nn

from finetune.errors import UsageError
from finetune.model import DualEncoder


def compile_layers(dual: DualEncoder, *, backend: str = "inductor") -> int:
    """Compile each transformer layer of both towers in place; returns how many.

    Compilation itself happens at the first batch. The layers of a tower are equal, so that one
    compilation serves them all, and names of parameters stay as they are. Texts differ in length
    from batch to batch, which makes the second batch of another length compile once more.

    Args:
        dual: The model.
        backend: Of `torch.compile`.

    Raises UsageError where a tower's layers cannot be found.
    """
    compiled = 0
    for tower in (dual.model.vision_model, dual.model.text_model):
        layers = _layers(tower)
        if layers is None:
            raise UsageError(
                f"--compile does not know the layers of {dual.base_model}"
                f" ({type(tower).__name__}); leave it out"
            )
        for layer in layers:
            layer.compile(backend=backend)
        compiled += len(layers)
    return compiled


def _layers(tower: nn.Module) -> nn.ModuleList | None:
    """The longest list of modules of one class."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    equal = [each for each in lists if len({type(layer) for layer in each}) == 1]
    return max(equal, key=len, default=None)
