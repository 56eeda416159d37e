"""One process's steps on its share of joint batches; what the processes of the tests run.

As a program: `torchrun --nproc-per-node 2 distributed_worker.py FOLDER`.
"""

import os
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from random_batch import gradients, random_batch, small_dual
from squares import write_squares

import finetune.training.loop
import finetune.training.train
from finetune.config.settings import TrainConfig
from finetune.data import world as processes
from finetune.data.world import World, even_slices
from finetune.errors import TrainingError
from finetune.losses import build_loss
from finetune.training.gradients.backward import whole_backward
from finetune.training.gradients.distributed import GatheredLoss, gather, join_world
from finetune.training.gradients.gradcache import cached_backward
from finetune.training.loop import Run

STEPS = 3


@dataclass(frozen=True)
class Case:
    """What one run of STEPS steps does; `images` and `texts` are of the joint batch."""

    name: str
    loss: str
    images: int
    texts: int
    chunk_size: int | None = None


CASES = [
    Case("plain", "contrastive", 8, 8),
    Case("unequal shares", "contrastive", 9, 13),
    Case("chunks", "contrastive", 9, 13, chunk_size=2),
    Case("sigmoid in chunks", "sigmoid", 8, 8, chunk_size=3),
]


def train(case: Case, world: World) -> dict[str, dict[str, torch.Tensor]]:
    """First gradients, and weights and losses after STEPS steps."""
    dual = small_dual()
    loss_of = GatheredLoss(build_loss(case.loss, dual), world)
    # of its size alone: Adam would make a step of the sign of a gradient that is only rounding
    optimizer = torch.optim.SGD(dual.parameters(), lr=0.05)
    backward = whole_backward
    if case.chunk_size is not None:
        backward = partial(cached_backward, chunk_size=case.chunk_size)
    first, losses = {}, []
    for step in range(STEPS):
        joint = random_batch(dual, case.images + step, case.texts + step)
        images = world.share(len(joint.pixel_values))
        texts = world.share(len(joint.input_ids))
        own = replace(
            joint,
            pixel_values=joint.pixel_values[images],
            input_ids=joint.input_ids[texts],
            attention_mask=joint.attention_mask[texts],
        )
        losses.append(backward(dual, own, loss_of))
        world.average_gradients(dual.parameters())
        if step == 0:
            first = gradients(dual)
            for name, parameter in dual.named_parameters():
                parameter.grad = first[name].clone() if name in first else None
        optimizer.step()
        optimizer.zero_grad()
    world.check_equal(dual.parameters())
    weights = {name: p.detach().clone() for name, p in dual.named_parameters()}
    return {"gradients": first, "weights": weights, "losses": {"all": torch.stack(losses)}}


def talk(world: World) -> list[str]:
    """What processes say to each other besides gradients; the names of what went right."""
    rank, size = world.rank, world.size
    right: list[str] = []
    if [world.any(rank == 1), world.any(False)] == [True, False]:
        right.append("any")
    later = world.later()
    if [later.any(flag) for flag in (rank == 1, False, False)] == [False, True, False]:
        right.append("later")

    if world.from_first(lambda: {"mrr": 0.5, "rank": rank}) == {"mrr": 0.5, "rank": 0}:
        right.append("from first")

    if world.from_all({"rank": rank}) == [{"rank": each} for each in range(size)]:
        right.append("from all")

    def fails() -> None:
        raise OSError("no space left")

    try:
        world.from_first(fails)
    except (OSError, TrainingError) as error:
        if isinstance(error, OSError) == world.is_first and "no space left" in str(error):
            right.append("failure of the first")

    parameters = [torch.nn.Parameter(torch.zeros(length)) for length in (3, 40, 1, 2)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, float(rank))
    frozen = torch.nn.Parameter(torch.zeros(2))
    processes.PIECE = 64  # several pieces
    world.average_gradients([*parameters, frozen])
    mean = (size - 1) / 2
    if frozen.grad is None and all(torch.all(p.grad == mean) for p in parameters):
        right.append("average")

    world.check_equal(parameters)
    with torch.no_grad():
        parameters[1][7] += 1e-6 * (rank == 1)
    try:
        world.check_equal(parameters)
    except TrainingError:
        right.append("different weights")

    embeds = torch.full((len(range(7)[world.share(7)]), 2), float(rank))
    expected = [float(r) for r, part in enumerate(even_slices(7, size)) for _ in range(7)[part]]
    if gather(embeds, 7, world)[:, 0].tolist() == expected:
        right.append("gather")
    try:
        gather(embeds, 100, world)
    except ValueError:
        right.append("wrong share")
    return right


def stopped(world: World, folder: Path) -> tuple[int, int]:
    """Steps taken, and those in the checkpoint, where SIGTERM comes to the last process alone."""
    manifest = folder / f"squares-{world.rank}"
    config = TrainConfig(
        manifest=write_squares(manifest, train=16, val=8), model="tiny", batch_size=8,
        out=folder / f"encoder-{world.rank}", epochs=20, eval_every="never",
    )  # fmt: skip
    taken = 0
    take_step = finetune.training.loop.take_step

    def counted(run: Run, *others: object) -> None:
        nonlocal taken
        take_step(run, *others)
        taken += 1
        if taken == 3 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with (
        mock.patch("finetune.training.loop.take_step", counted),
        mock.patch("finetune.training.train.join_world", lambda device: nullcontext(world)),
        suppress(KeyboardInterrupt),
    ):
        finetune.training.train.train(config, quiet=True)
    saved = 0
    if world.is_first:
        saved = torch.load(config.work_folder / "checkpoint.pt", weights_only=True)["step"]
    return taken, saved


def main(folder: str) -> None:
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        found: dict[str, object] = {case.name: train(case, world) for case in CASES}
        found["talk"] = talk(world)
        found["stopped"] = stopped(world, Path(folder))
        torch.save(found, Path(folder) / f"{world.rank}-of-{world.size}.pt")


def spawned(rank: int, size: int, port: int, folder: str) -> None:
    """`main` in a process of those who started it, which hold the store at the port."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    main(folder)


if __name__ == "__main__":
    main(sys.argv[1])
