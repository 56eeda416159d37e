"""One training run on several GPUs, each with its share of every batch and all of its negatives.

Every process makes the same joint batch from the seed, embeds its own share of it, and takes the
same loss of all embeddings:

    1. `GatheredLoss` collects the embeddings of all processes, with a gradient that flows back to
       the process each came from.
    2. Its backward pass adds up what the processes' equal losses say about an embedding: as many
       times the joint loss's gradient as there are processes.
    3. `World.average_gradients` takes the mean over processes, so that every process holds the
       gradient that one process with the joint batch would have.

So the processes' weights stay equal without being sent. Both `torchrun` and `accelerate launch`
set the environment variables that are read here; without them there is one process and nothing
changes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from finetune.data.world import TIMEOUT, World, even_slices
from finetune.errors import UsageError
from finetune.losses.loss import ScoresBatch


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Connect the run's processes while the context lasts.

    Args:
        device: "cpu" or "cuda"; with several processes on one machine each takes the GPU of its
            own local rank. A single process may also have "cuda:N".

    Raises UsageError where there are fewer GPUs than processes, or a GPU is named for all.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, torch.device(device))
        return
    if ":" in device:
        raise UsageError(
            f"--device {device} is one GPU for {size} processes; give --device cuda, then each"
            f" process takes its own"
        )
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device(device)
    if own.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"there are more processes than the {torch.cuda.device_count()} GPUs of this"
                f" machine; start one process a GPU"
            )
        own = torch.device("cuda", local_rank)
        torch.cuda.set_device(own)
    # torch names the address and the port that it could not reach
    # and what the hosts tell each other goes beside the GPUs
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield World(rank, size, own)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class GatheredLoss:
    """A loss over the embeddings of all processes.

    Called with one process's share of the embeddings and the `positives` of the joint batch,
    whose rows and columns are in the order of the ranks. Every process gets the same loss.

    Attributes:
        loss_of: The loss of the joint batch.
        world: The processes.
    """

    loss_of: ScoresBatch
    world: World

    def __call__(
        self, image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor
    ) -> Tensor:
        """Return the loss of the joint batch, a scalar float32.

        Args:
            image_embeds: float[n_r, d], of this process's share.
            text_embeds: float[m_r, d], of this process's share.
            logit_scale: The model's scalar parameter.
            positives: bool[n, m], of the joint batch.

        Raises ValueError where the embeddings are not this process's share of that batch.
        """
        images, texts = positives.shape
        return self.loss_of(
            gather(image_embeds, images, self.world),
            gather(text_embeds, texts, self.world),
            logit_scale,
            positives,
        )


def gather(embeds: Tensor, count: int, world: World) -> Tensor:
    """Return all processes' rows, float[count, d], in the order of the ranks.

    The gradient of the result, added up over processes, flows back to where each row came from.

    Args:
        embeds: float[k, d], this process's `world.share(count)`.
        count: Rows of all processes.
        world: The processes.

    Raises ValueError where there is not one row for each of the share.
    """
    own = world.share(count)
    if len(embeds) != own.stop - own.start:
        raise ValueError(
            f"process {world.rank} of {world.size} has {len(embeds)} embeddings, but its share of"
            f" {count} is {own.stop - own.start}"
        )
    if world.size == 1:
        return embeds
    gathered: Tensor = _Gather.apply(embeds, count, world)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeds: Tensor, count: int, world: World) -> Tensor:
        ctx.own = world.share(count)
        parts = even_slices(count, world.size)
        # all_gather wants equal lengths
        longest = max(part.stop - part.start for part in parts)
        padded = embeds.new_zeros(longest, embeds.shape[1])
        padded[: len(embeds)] = embeds
        received = [torch.empty_like(padded) for _ in parts]
        dist.all_gather(received, padded)
        return torch.cat(
            [rows[: part.stop - part.start] for rows, part in zip(received, parts, strict=True)]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own], None, None
