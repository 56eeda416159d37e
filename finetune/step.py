"""One step of the optimizer."""

from collections.abc import Callable
from functools import partial

import torch

from finetune.backward import accumulated_backward, whole_backward
from finetune.config import TrainConfig
from finetune.distributed import GatheredLoss, World
from finetune.gradcache import cached_backward
from finetune.losses import Loss
from finetune.optim import clamp_logit_scale
from finetune.tensor_batch import TensorBatch
from finetune.train_state import TrainState

AUTOCAST: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Adds a batch's gradients to the parameters' own and returns its loss.
Backward = Callable[..., torch.Tensor]


def build_backward(config: TrainConfig, loss_of: Loss, world: World) -> Backward:
    """How the run takes a batch's gradients: `f(dual, batch, scaler=…)` gives the loss."""
    loss = loss_of if world.size == 1 else GatheredLoss(loss_of, world)
    dtype = AUTOCAST[config.resolve_precision(world.device.type)]
    if config.chunk_size is not None:
        return partial(cached_backward, loss_of=loss, chunk_size=config.chunk_size, dtype=dtype)
    if config.accumulate_separate_batches > 1:
        parts = config.accumulate_separate_batches
        return partial(
            accumulated_backward, loss_of=loss, parts=parts, dtype=dtype, own=world.share
        )
    return partial(whole_backward, loss_of=loss, dtype=dtype)


def training_step(
    state: TrainState,
    batch: TensorBatch,
    backward: Backward,
    world: World,
    max_norm: float,
    *,
    clamps_scale: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimizer; the loss and the norm of the gradient, still on the device."""
    optimizer, scaler = state.optimizer, state.scaler
    loss = backward(state.dual, batch, scaler=scaler)
    trained = state.trained
    world.average_gradients(trained)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trained, max_norm or float("inf"))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if clamps_scale:
        clamp_logit_scale(state.dual.logit_scale)
    if state.average is not None:
        state.average.update()
    return loss, norm
