"""One step of the optimizer."""

from collections.abc import Callable
from functools import partial

import torch

from finetune.data.tensors import TensorBatch
from finetune.data.world import World
from finetune.losses.loss import ScoresBatch
from finetune.models.dual_encoder import DualEncoder
from finetune.training.gradients.backward import accumulated_backward, whole_backward
from finetune.training.gradients.compilation import Compilation, CompiledBackward
from finetune.training.gradients.distributed import GatheredLoss
from finetune.training.gradients.gradcache import cached_backward
from finetune.training.gradients.weight_copies import WeightCopies
from finetune.training.state import TrainState

# Adds a batch's gradients to the parameters' own and returns its loss.
Backward = Callable[..., torch.Tensor]


def build_backward(
    loss_of: ScoresBatch,
    world: World,
    dtype: torch.dtype,
    *,
    chunk_size: int | None = None,
    parts: int = 1,
    compilation: Compilation | None = None,
) -> Backward:
    """Return how a run takes a batch's gradients: `f(dual, batch, scaler=…)` gives the loss.

    Args:
        loss_of: The loss.
        world: The processes that share each batch.
        dtype: Of autocast; float32 is without.
        chunk_size: Pairs whose activations are held at a time; None holds all.
        parts: Separate batches that a batch is cut into.
        compilation: Of the model's layers, which may fail in any step.
    """
    loss = loss_of if world.size == 1 else GatheredLoss(loss_of, world)
    backward: Backward
    if chunk_size is not None:
        backward = partial(cached_backward, loss_of=loss, chunk_size=chunk_size, dtype=dtype)
    elif parts > 1:
        backward = partial(
            accumulated_backward, loss_of=loss, parts=parts, dtype=dtype, own=world.share
        )
    else:
        backward = partial(whole_backward, loss_of=loss, dtype=dtype)
    if dtype != torch.float32:
        backward = WithWeightCopies(backward, dtype)
    return backward if compilation is None else CompiledBackward(backward, compilation, world)


class WithWeightCopies:
    """A `Backward` whose step computes with one copy of the weights in autocast's numbers."""

    def __init__(self, backward: Backward, dtype: torch.dtype) -> None:
        self._backward = backward
        self._dtype = dtype
        self._copies: tuple[DualEncoder, WeightCopies] | None = None

    def __call__(
        self, dual: DualEncoder, batch: TensorBatch, *, scaler: torch.amp.GradScaler | None = None
    ) -> torch.Tensor:
        """Add the batch's gradients to the parameters' own; returns its loss."""
        # Made with the first batch: by then a checkpoint is loaded and the model on its device.
        if self._copies is None or self._copies[0] is not dual:
            self._copies = dual, WeightCopies(dual, self._dtype)
        copies = self._copies[1]
        with copies.applied():
            return self._backward(
                dual, batch, scaler=scaler, after_backward=copies.collect_gradients
            )


def training_step(
    state: TrainState,
    batch: TensorBatch,
    backward: Backward,
    world: World,
    max_norm: float,
    clamp: Callable[[torch.nn.Parameter], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step of the optimizer; the loss and the norm of the gradient, still on the device.

    Args:
        state: Its weights, optimizer, loss scaling and average are changed.
        batch: On the model's device.
        backward: Takes its gradients.
        world: The processes that share it.
        max_norm: Gradients are clipped to this norm; 0 clips nothing.
        clamp: Keeps the scale of the logits in bounds, `Loss.clamp`.
    """
    optimizer, scaler = state.optimizer, state.scaler
    loss = backward(state.dual, batch, scaler=scaler)
    trained = state.trained
    world.average_gradients(trained)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trained, max_norm or float("inf"))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    clamp(state.dual.logit_scale)
    if state.average is not None:
        state.average.update()
    return loss, norm
