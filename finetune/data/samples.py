"""What an epoch shows: how many pairs, of which datasets, with which captions.

Everything is a pure function of the data, the seed and the epoch. Imports without torch.
"""

from dataclasses import dataclass

import numpy as np

from finetune.arrays import Int64
from finetune.config.batch_plan import BatchPlan
from finetune.data.captioned_images import CaptionedImages

# Last words of the seeds, so that no two kinds of draws follow from the same numbers.
SUBSAMPLE, CYCLE = 1, 2


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
    """Return the samples of an epoch; what they are is said at `BatchPlan`."""
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
    """Return int64[n]: the caption of each image in an epoch, as an index into all captions.

    An image with k captions shows each of them once in any k epochs in a row, starting at a
    random one.
    """
    counts = np.diff(data.starts)
    chosen: Int64 = data.starts[:-1] + (_first_captions(data, seed) + epoch) % counts
    return chosen


def apportion(total: int, weights: tuple[float, ...]) -> list[int]:
    """Return `total` split in proportion to the weights, each within one, by largest remainders."""
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
    """Return the samples of an epoch, where each dataset lies in a circle, in random order, along
    which the epochs go on and on.

    So in any run of epochs each image is seen as often as any other of its dataset, but for one
    time, and no image comes back before all others were seen.
    """
    image_of_caption = data.image_of_caption
    first = _first_captions(data, plan.seed)
    caption_counts = np.diff(data.starts)
    images: list[Int64] = []
    captions: list[Int64] = []
    for number, count in enumerate(apportion(plan.samples(data), weights)):
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
    """Return int64[n]: which of its captions an image shows first."""
    return np.random.default_rng(seed).integers(0, np.diff(data.starts))
