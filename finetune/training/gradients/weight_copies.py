"""Weights in autocast's numbers, copied once a step, all together.

Autocast casts each weight by itself, at its first use in a context and, where it is frozen, at
every use: hundreds of kernels a step, and as many for the gradients on their way back. Here the
matrices that autocast would cast are copied by a few kernels before the forward pass, the layers
compute with the copies, and what the copies' gradients come to is added to the weights' own, which
the optimizer goes on to see in float32. The numbers are autocast's to the bit: the same casts of
the same tensors, only not one by one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from finetune.models.speed import CAST_LAYERS


@dataclass(frozen=True, slots=True)
class _Use:
    """Where a weight stands: `layer.name`."""

    layer: nn.Module
    name: str
    weight: nn.Parameter
    copy: nn.Parameter


class WeightCopies:
    """Copies of a model's matrices in another precision, for its layers to compute with."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Of the linear and convolution layers of `model`, where it is now; they hold its values.

        Frozen weights are copied here and now alone.
        """
        copies: dict[int, nn.Parameter] = {}
        self._uses: list[_Use] = []
        for layer in model.modules():
            if not isinstance(layer, CAST_LAYERS):
                continue
            for name, weight in layer.named_parameters(recurse=False):
                copy = copies.get(id(weight))
                if copy is None:
                    copy = nn.Parameter(weight.detach().to(dtype), weight.requires_grad)
                    copies[id(weight)] = copy
                self._uses.append(_Use(layer, name, weight, copy))
        trained = {id(use.weight): use for use in self._uses if use.weight.requires_grad}
        self._weights: list[torch.Tensor] = [use.weight for use in trained.values()]
        self._copies: list[torch.Tensor] = [use.copy for use in trained.values()]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the layers compute with copies of the weights as they are now.

        Call `collect_gradients` after each backward pass within.
        """
        with torch.no_grad():
            if self._weights:
                torch._foreach_copy_(self._copies, self._weights)
        # The table itself: to assign a parameter costs the host far more.
        for use in self._uses:
            use.layer._parameters[use.name] = use.copy
        try:
            yield
        except BaseException:
            # what a backward pass left behind when it failed must not join the next one's
            for copy in self._copies:
                copy.grad = None
            raise
        finally:
            for use in self._uses:
                use.layer._parameters[use.name] = use.weight

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the copies' gradients to those of the weights, in float32, and clear them."""
        first: list[torch.Tensor] = []
        new: list[torch.Tensor] = []
        held: list[torch.Tensor] = []
        more: list[torch.Tensor] = []
        for weight, copy in zip(self._weights, self._copies, strict=True):
            if copy.grad is None:
                continue
            if weight.grad is None:
                first.append(weight)
                new.append(copy.grad)
            else:
                held.append(weight.grad)
                more.append(copy.grad)
            copy.grad = None
        if first:
            for weight, gradient in zip(first, _widened(first, new), strict=True):
                weight.grad = gradient
        if held:
            torch._foreach_add_(held, _widened(held, more))


def _widened(like: Sequence[torch.Tensor], values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return `values` in the precision of `like`, by as few kernels as there can be."""
    wide = [torch.empty_like(each) for each in like]
    torch._foreach_copy_(wide, values)
    return wide
