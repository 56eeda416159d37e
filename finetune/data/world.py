"""The processes of a training run, and each one's share of a batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetune.errors import TrainingError


def even_slices(count: int, parts: int) -> list[slice]:
    """Cut range(count) into `parts` ranges in order.

    Their lengths differ by one at most.
    """
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


# Long enough for the first process to evaluate a large pool while the others wait.
TIMEOUT = timedelta(hours=2)
# Gradients are sent in pieces of this size: few messages, little memory beside them.
PIECE = 1 << 26

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run.

    Attributes:
        rank: This process, from 0.
        size: Number of processes.
        device: This process's own.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, evaluates and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return which of `count` rows of a joint batch are this process's."""
        return even_slices(count, self.size)[self.rank]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes; call it after the backward pass.

        The same parameters need a gradient in every process.
        """
        if self.size == 1:
            return
        with torch.no_grad():
            gradients = [p.grad for p in parameters if p.grad is not None]
            for group in _pieces(gradients):
                flat = torch.cat([gradient.reshape(-1) for gradient in group])
                dist.all_reduce(flat)
                flat /= self.size
                sizes = [gradient.numel() for gradient in group]
                for gradient, mean in zip(group, torch.split(flat, sizes), strict=True):
                    gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Return whether it is true in any process: for stopping together."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised.item())

    def later(self) -> "Later":
        """Return what tells all processes a flag of any, without waiting for one another's GPU."""
        return Later(self)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process, in every process; the others only wait.

        Raises in the first process what `make` raises, and TrainingError in the others.
        """
        if self.size == 1:
            return make()
        message: list[Any] = [None, None]
        try:
            if self.is_first:
                message[0] = make()
        except BaseException as error:
            message[1] = f"{type(error).__name__}: {error}"
            raise
        finally:
            dist.broadcast_object_list(message, src=0, device=self.device)
        if message[1] is not None:
            raise TrainingError(f"the first process stopped: {message[1]}")
        answer: T = message[0]
        return answer

    def from_all(self, value: T) -> list[T]:
        """Return what each process gives, in the order of the ranks, in every process."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def check_equal(self, parameters: Iterable[Tensor]) -> None:
        """Raise TrainingError unless every process holds the same values."""
        if self.size == 1:
            return
        sums = torch.stack([p.detach().double().sum() for p in parameters])
        lowest, highest = sums.clone(), sums.clone()
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise TrainingError(
                "the processes hold different weights; start them with the same options, seed"
                " and versions"
            )


class Later:
    """A flag of any process, which all of them know one call later, and all at the same call.

    Nobody waits for a GPU: flags go between the hosts, while the step between two calls is taken.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def any(self, flag: bool) -> bool:
        """Return whether it was true in any process at the call before; a single one knows now.

        Every process calls it equally often. What comes between two calls may itself talk.
        """
        if self._world.size == 1:
            return flag
        known = False
        if self._sent is not None:
            raised, work = self._sent
            work.wait()
            known = bool(raised.item())
        # on the CPU, whatever the device: to read it there asks no GPU
        own = torch.tensor(int(flag))
        self._sent = own, dist.all_reduce(own, dist.ReduceOp.MAX, async_op=True)
        return known


def _pieces(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one kind in groups of up to PIECE bytes, at least one in each."""
    group: list[Tensor] = []
    taken = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if group and (taken + size > PIECE or gradient.dtype != group[0].dtype):
            yield group
            group, taken = [], 0
        group.append(gradient)
        taken += size
    if group:
        yield group
