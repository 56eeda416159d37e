"""How an epoch is cut into batches: the settings that decide it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from finetune.errors import UsageError

# So many candidates for each place in a group: the nearest ones are soon in other groups.
CANDIDATES_PER_PLACE = 4


class Pairs(Protocol):
    """What a plan must know of the captioned images that it is for."""

    @property
    def captions(self) -> Sequence[str]:
        """Of all images."""

    @property
    def datasets(self) -> npt.NDArray[np.integer]:
        """int[images]: the index of each image's dataset."""

    def __len__(self) -> int:
        """Return the number of images."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How pairs are drawn and put into batches.

    A sample is one image with one caption. With `captions` "sampled" there is one for each image,
    and an image with k captions shows all of them in k epochs; with "all" there is one for each
    caption, so that an epoch shows every caption of every image.

    Attributes:
        batch_size: Samples of a batch, at most.
        seed: Everything random follows from it and the epoch.
        samples_per_epoch: A fresh random subsample of so many each epoch, without replacement;
            None, or more than there are, is all of them.
        captions: One of CAPTIONS.
        dataset_weights: For each merged dataset how large its share of an epoch's samples is,
            relative to the others'. A dataset smaller than its share is repeated, a larger one is
            gone through over several epochs. None takes the datasets as they are.
        hard_negatives: Images of a group of neighbours, of several of which a batch is made; 0 is
            off.
        last_batch: One of LAST_BATCHES: sizes that differ by one at most ("even"), or all of
            `batch_size` but for the epoch's last one, which has the rest ("short") or is left out
            ("dropped").
    """

    CAPTIONS: ClassVar[tuple[str, ...]] = ("sampled", "all")
    LAST_BATCHES: ClassVar[tuple[str, ...]] = ("even", "short", "dropped")

    batch_size: int
    seed: int
    samples_per_epoch: int | None = None
    captions: str = "sampled"
    dataset_weights: tuple[float, ...] | None = None
    hard_negatives: int = 0
    last_batch: str = "even"

    @property
    def neighbours(self) -> int:
        """Nearest neighbours of each image that hard negatives are taken from; 0 where off."""
        return CANDIDATES_PER_PLACE * self.hard_negatives

    def samples(self, data: Pairs) -> int:
        """Return the number of samples of an epoch."""
        available = len(data) if self.captions == "sampled" else len(data.captions)
        wanted = self.samples_per_epoch or available
        if self.dataset_weights is None:
            wanted = min(wanted, available)
        is_whole = self.last_batch != "dropped" or wanted < self.batch_size
        return wanted if is_whole else wanted - wanted % self.batch_size

    def steps_per_epoch(self, data: Pairs) -> int:
        """Return the number of batches of an epoch: as few as `batch_size` allows."""
        return -(-self.samples(data) // self.batch_size)

    def short_batch(self, data: Pairs) -> int:
        """Return the samples of the epoch's last batch where that is a short one; else 0."""
        samples = self.samples(data)
        is_cut = self.last_batch == "short" and samples > self.batch_size
        return samples % self.batch_size if is_cut else 0

    def smallest_batch(self, data: Pairs) -> int:
        """Return the number of samples of the smallest batch."""
        return self.short_batch(data) or self.samples(data) // self.steps_per_epoch(data)

    def notes(self, data: Pairs) -> tuple[str, ...]:
        """Return what there is to say of the batches: that each is all of a small data set."""
        samples = self.samples(data)
        if self.batch_size <= samples:
            return ()
        return (
            f"--batch-size {self.batch_size:,} is more than the {samples:,} samples of an epoch:"
            f" each batch is all of them.",
        )

    def check(self) -> None:
        """Raise UsageError for a value that cannot be, whatever the data."""
        if self.samples_per_epoch is not None and self.samples_per_epoch < self.batch_size:
            raise UsageError(
                f"--samples-per-epoch {self.samples_per_epoch} is less than one batch;"
                f" give at least --batch-size, {self.batch_size}"
            )
        if self.captions not in self.CAPTIONS:
            raise UsageError(f"--captions {self.captions}: give {' or '.join(self.CAPTIONS)}")
        if self.last_batch not in self.LAST_BATCHES:
            raise UsageError(
                f"--last-batch {self.last_batch}: give one of {', '.join(self.LAST_BATCHES)}"
            )
        if self.last_batch == "short" and self.hard_negatives:
            raise UsageError(
                "--last-batch short: with --hard-negatives all batches are of equal size; leave"
                " one of them out"
            )
        weights = self.dataset_weights
        if weights is not None and not (
            all(math.isfinite(weight) and weight >= 0 for weight in weights) and sum(weights) > 0
        ):
            shown = ",".join(f"{weight:g}" for weight in weights)
            raise UsageError(
                f"--dataset-weights {shown}: each must be 0 or more, and one of them above 0"
            )
        if self.hard_negatives != 0 and not 2 <= self.hard_negatives <= self.batch_size:
            raise UsageError(
                f"--hard-negatives {self.hard_negatives} is no size of a group of neighbours;"
                f" give 2 to --batch-size, {self.batch_size}, or 0 for none"
            )

    def check_fits(self, data: Pairs, datasets: int) -> None:
        """Raise UsageError for weights that are not those of so many merged datasets."""
        if self.dataset_weights is None:
            return
        if len(self.dataset_weights) != datasets:
            raise UsageError(
                f"--dataset-weights has {len(self.dataset_weights)} weights, but there are"
                f" {datasets} manifests; give one for each"
            )
        images = np.bincount(data.datasets, minlength=datasets)
        for number, (weight, count) in enumerate(zip(self.dataset_weights, images, strict=True)):
            if weight > 0 and count == 0:
                raise UsageError(
                    f"--dataset-weights gives manifest {number + 1} the weight {weight:g}, but its"
                    f" split train has no images; give it 0, or leave the manifest out"
                )
