"""The towers' layers compiled by torch.compile, and given up for all of them where that fails.

Compilation happens late: forward code at the first batch of a shape, backward code in its backward
pass, and CUDA graphs are recorded later still. So each of these may fail in the midst of a step.
Layers whose forward code fails go on as they are; where a backward pass fails, the step's gradients
are thrown away and taken again, from the same random state. No step is lost or taken twice.

CUDA graphs (https://pytorch.org/docs/stable/torch.compiler_cudagraph_trees.html) replay all kernels
of a layer by one call of the host, in memory that the next step uses again: for models so small
that the host is slower than the GPU.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from finetune.config.settings import CUDA_GRAPHS
from finetune.data.tensors import TensorBatch
from finetune.data.world import World
from finetune.errors import TrainingError, UsageError
from finetune.models.dual_encoder import DualEncoder
from finetune.training.gradients.gradcache import RandomState

Tell = Callable[[str], None]


class Compilation:
    """The compiled layers of a model, in use for all of them or for none.

    Attributes:
        layers: How many there are.
        is_over: Whether it was given up.
    """

    def __init__(self, tell: Tell, mode: str = "default") -> None:
        from torch._dynamo.exc import TorchDynamoException  # a second, and for --compile alone

        self.layers = 0
        self.is_over = False
        self._tell = tell
        self._is_graphed = mode == CUDA_GRAPHS
        self._compile_error = TorchDynamoException

    def add(self, layer: nn.Module, **how: Any) -> None:
        """Compile a layer in place, by the options of torch.compile; its names stay."""
        layer.compile(**how)
        compiled: Any = layer._compiled_call_impl
        plain: Any = layer._call_impl

        def call(*values: Any, **named: Any) -> Any:
            # A graph's outputs live until the next step begins, which an evaluation never says.
            if not self.is_over and (torch.is_grad_enabled() or not self._is_graphed):
                try:
                    return compiled(*values, **named)
                except RuntimeError as error:
                    if not self.has_failed(error):
                        raise
                    self.give_up(str(error))
            return plain(*values, **named)

        layer._compiled_call_impl = call
        self.layers += 1

    def begin_step(self) -> None:
        """Let graphs use the memory of the step before again."""
        if self._is_graphed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def has_failed(self, error: RuntimeError) -> bool:
        """Return whether an error is one of compiling, not of what is computed."""
        if isinstance(error, self._compile_error):
            return True
        # what torch raises of graphs has no class of its own
        words = str(error).lower()
        return self._is_graphed and any(
            name in words for name in ("cudagraph", "cuda graph", "captur")
        )

    def give_up(self, reason: str) -> None:
        """Go on with the layers as they are, and say why, once."""
        if self.is_over:
            return
        self.is_over = True
        self._tell(
            f"--compile does not work here ({reason.partition(chr(10))[0]}); going on without it."
            f" It needs a C++ compiler on the CPU (CXX names it), and on a GPU Triton and a C"
            f" compiler" + ("; --compile-mode default does without graphs" * self._is_graphed)
        )


def compile_layers(
    dual: DualEncoder,
    tell: Tell = warnings.warn,
    *,
    mode: str = "default",
    backend: str | Callable[..., Any] = "inductor",
) -> Compilation:
    """Compile each transformer layer of both towers in place.

    The layers of a tower are equal, so that one compilation serves them all. Texts differ in length
    from batch to batch, which makes the second batch of another length compile once more; a CUDA
    graph is recorded for each length.

    Args:
        dual: The model.
        tell: Takes a sentence for the user where compilation fails.
        mode: One of COMPILE_MODES.
        backend: Of `torch.compile`.

    Raises UsageError where a tower's layers cannot be found.
    """
    compilation = Compilation(tell, mode)
    # other backends know no modes
    how = {"backend": backend, **({"mode": mode} if backend == "inductor" else {})}
    for tower in (dual.model.vision_model, dual.model.text_model):
        layers = _layers(tower)
        if layers is None:
            raise UsageError(
                f"--compile does not know the layers of {dual.base_model}"
                f" ({type(tower).__name__}); leave it out"
            )
        for layer in layers:
            compilation.add(layer, **how)
    return compilation


def _layers(tower: nn.Module) -> nn.ModuleList | None:
    """Return the longest list of modules of one class."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    equal = [each for each in lists if len({type(layer) for layer in each}) == 1]
    return max(equal, key=len, default=None)


class CompiledBackward:
    """A `Backward` that takes a batch's gradients again where compiled code fails in it.

    Several processes agree after the first step whether they go on compiled: machines that are
    alike fail alike. One that fails later ends the run, as the others are already elsewhere.
    """

    def __init__(
        self, backward: Callable[..., torch.Tensor], compilation: Compilation, world: World
    ) -> None:
        self._backward = backward
        self._compilation = compilation
        self._world = world
        self._is_agreed = world.size == 1

    def __call__(
        self, dual: DualEncoder, batch: TensorBatch, *, scaler: torch.amp.GradScaler | None = None
    ) -> torch.Tensor:
        """Make the batch's gradients the parameters' own, which have none; returns its loss."""
        if self._compilation.is_over and self._is_agreed:
            return self._backward(dual, batch, scaler=scaler)
        before = RandomState.now(dual.logit_scale.device)
        self._compilation.begin_step()
        loss, failure = None, None
        try:
            loss = self._backward(dual, batch, scaler=scaler)
        except RuntimeError as error:
            if not self._compilation.has_failed(error):
                raise
            failure = str(error)
        if not self._is_agreed:
            self._is_agreed = True
            if self._world.any(failure is not None):
                failure = failure or "in another process"
        elif failure is not None and self._world.size > 1:
            raise TrainingError(
                f"torch.compile failed in process {self._world.rank} after the others began with"
                f" it ({failure.partition(chr(10))[0]}); run the same command without --compile,"
                f" and it goes on at the last checkpoint"
            )
        if loss is not None and failure is None:
            return loss
        self._compilation.give_up(failure or "")
        for parameter in dual.parameters():
            parameter.grad = None
        before.restore()
        return self._backward(dual, batch, scaler=scaler)
