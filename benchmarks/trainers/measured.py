"""What is measured of one way to train, and when epochs begin and end."""

import argparse
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil
import torch

from finetune.config.batch_plan import BatchPlan
from finetune.config.reading import Reading
from finetune.config.settings import TrainConfig
from finetune.data.splits import TrainingManifests

LEARNING_RATE, WEIGHT_DECAY, BETAS, EPS = 1e-5, 0.1, (0.9, 0.98), 1e-6

Options = argparse.Namespace


@dataclass(frozen=True)
class Measured:
    """Of one way in one round.

    Attributes:
        first, later: Pairs a second; `first` is None where there is no such epoch.
        least, most: Pairs a second of the slowest and of the fastest of the later epochs.
        cpu: Processor milliseconds a pair of the later epochs.
    """

    first: float | None
    later: float
    cpu: float
    least: float
    most: float

    @property
    def ten_epochs(self) -> float:
        """Pairs a second of one first and nine later epochs."""
        return self.later if self.first is None else 10 / (1 / self.first + 9 / self.later)


@dataclass
class Clock:
    """The moments at which epochs begin and end."""

    device: torch.device
    moments: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """Now, when all that was queued is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.moments.append(time.perf_counter())
        self.processor.append(processor_seconds())

    def measured(self, pairs: int, first: bool = True) -> Measured:
        """`pairs` of an epoch; a first epoch is between the first two marks."""
        spans = [end - start for start, end in pairwise(self.moments)]
        later = spans[1:] if first else spans
        start = self.processor[1 if first else 0]
        seen = pairs * len(later)
        return Measured(
            pairs / spans[0] if first else None,
            seen / sum(later),
            1000 * (self.processor[-1] - start) / seen,
            pairs / max(later),
            pairs / min(later),
        )


def processor_seconds() -> float:
    """Of this process and its children, those that ended too."""
    own = psutil.Process()
    times = own.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in own.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


def read_pairs(manifest: Path) -> list[tuple[Path, str]]:
    """The training images with the first caption of each."""
    with TrainingManifests.open(
        Reading.of(TrainConfig(manifest=manifest, model="tiny"))
    ) as manifests:
        plan = BatchPlan(batch_size=2, seed=0)
        train_split = manifests.splits(plan, batch_size=2, evaluates=False).train
    starts = train_split.starts[:-1].tolist()
    return [
        (source.path, train_split.captions[start])
        for source, start in zip(train_split.sources, starts, strict=True)
    ]
