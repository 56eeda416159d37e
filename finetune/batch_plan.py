"""What an epoch shows: how many pairs, of which datasets, with which captions.

Everything is a pure function of the data, the seed and the epoch. Imports without torch.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from finetune.dataset import CaptionedImages, Int64
from finetune.errors import UsageError

# Last words of the seeds, so that no two kinds of draws follow from the same numbers.
SUBSAMPLE, CYCLE = 1, 2
# So many candidates for each place in a group: the nearest ones are soon in other groups.
CANDIDATES_PER_PLACE = 4


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
    """

    CAPTIONS: ClassVar[tuple[str, ...]] = ("sampled", "all")

    batch_size: int
    seed: int
    samples_per_epoch: int | None = None
    captions: str = "sampled"
    dataset_weights: tuple[float, ...] | None = None
    hard_negatives: int = 0

    @property
    def neighbours(self) -> int:
        """Nearest neighbours of each image that hard negatives are taken from; 0 where off."""
        return CANDIDATES_PER_PLACE * self.hard_negatives

    def samples(self, data: CaptionedImages) -> int:
        """Samples of an epoch."""
        available = len(data) if self.captions == "sampled" else len(data.captions)
        wanted = self.samples_per_epoch or available
        return wanted if self.dataset_weights is not None else min(wanted, available)

    def steps_per_epoch(self, data: CaptionedImages) -> int:
        """Batches of an epoch: as few as `batch_size` allows."""
        return -(-self.samples(data) // self.batch_size)

    def check(self) -> None:
        """Raise UsageError for a value that cannot be, whatever the data."""
        if self.samples_per_epoch is not None and self.samples_per_epoch < self.batch_size:
            raise UsageError(
                f"--samples-per-epoch {self.samples_per_epoch} is less than one batch;"
                f" give at least --batch-size, {self.batch_size}"
            )
        if self.captions not in self.CAPTIONS:
            raise UsageError(f"--captions {self.captions}: give {' or '.join(self.CAPTIONS)}")
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

    def check_fits(self, data: CaptionedImages, datasets: int) -> None:
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


@dataclass(frozen=True, slots=True)
class Samples:
    """What an epoch shows, in no order that matters.

    Attributes:
        images: int64[s], indices into the images.
        captions: int64[s], indices into all captions: one of each image's own.
    """

    images: Int64
    captions: Int64

    def __len__(self) -> int:
        return len(self.images)


def epoch_samples(data: CaptionedImages, plan: BatchPlan, epoch: int) -> Samples:
    """The samples of an epoch; what they are is said at `BatchPlan`."""
    if plan.dataset_weights is not None:
        return _weighted_samples(data, plan, plan.dataset_weights, epoch)
    if plan.captions == "all":
        captions = np.arange(len(data.captions), dtype=np.int64)
        images = data.image_of_caption
    else:
        captions = sample_captions(data, seed=plan.seed, epoch=epoch)
        images = np.arange(len(data), dtype=np.int64)
    count = plan.samples(data)
    if count == len(captions):
        return Samples(images, captions)
    rng = np.random.default_rng([plan.seed, epoch, SUBSAMPLE])
    drawn = np.sort(rng.choice(len(captions), count, replace=False, shuffle=False))
    return Samples(images[drawn], captions[drawn])


def sample_captions(data: CaptionedImages, *, seed: int, epoch: int) -> Int64:
    """int64[n]: the caption of each image in an epoch, as an index into all captions.

    An image with k captions shows each of them once in any k epochs in a row, starting at a
    random one.
    """
    counts = np.diff(data.starts)
    chosen: Int64 = data.starts[:-1] + (_first_captions(data, seed) + epoch) % counts
    return chosen


def shares(total: int, weights: tuple[float, ...]) -> list[int]:
    """`total` split in proportion to the weights, each within one, by largest remainders."""
    relative = np.array(weights, np.float64) / max(weights)
    exact = relative * (total / relative.sum())
    whole = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(whole - exact, kind="stable")
    whole[largest_first[: total - int(whole.sum())]] += 1
    counts: list[int] = whole.tolist()
    return counts


def _weighted_samples(
    data: CaptionedImages, plan: BatchPlan, weights: tuple[float, ...], epoch: int
) -> Samples:
    """Each dataset lies in a circle, in random order, along which the epochs go on and on.

    So in any run of epochs each image is seen as often as any other of its dataset, but for one
    time, and no image comes back before all others were seen.
    """
    image_of_caption = data.image_of_caption
    first = _first_captions(data, plan.seed)
    caption_counts = np.diff(data.starts)
    images: list[Int64] = []
    captions: list[Int64] = []
    for number, count in enumerate(shares(plan.samples(data), weights)):
        if not count:
            continue
        of_sample = data.datasets if plan.captions == "sampled" else data.datasets[image_of_caption]
        circle = np.random.default_rng([plan.seed, number, CYCLE]).permutation(
            np.flatnonzero(of_sample == number)
        )
        rounds, positions = np.divmod(epoch * count + np.arange(count, dtype=np.int64), len(circle))
        drawn = circle[positions]
        if plan.captions == "all":
            images.append(image_of_caption[drawn])
            captions.append(drawn)
        else:
            images.append(drawn)
            turn = (first[drawn] + rounds) % caption_counts[drawn]
            captions.append(data.starts[drawn] + turn)
    return Samples(np.concatenate(images), np.concatenate(captions))


def _first_captions(data: CaptionedImages, seed: int) -> Int64:
    """int64[n]: which of its captions an image shows first."""
    return np.random.default_rng(seed).integers(0, np.diff(data.starts))
