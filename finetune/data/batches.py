"""Which images, with which of their captions, make up each step.

Everything is a pure function of the data, the plan and the epoch (and, for hard negatives, of the
neighbours that the model gave): a resumed run makes the same batches again and goes on at the step
where it stopped. Imports without torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.arrays import Int64
from finetune.config.batch_plan import BatchPlan
from finetune.data.captioned_images import CaptionedImages
from finetune.data.edge_coloring import spread_apart
from finetune.data.hard_negatives import Int32, batches_of_groups, group_neighbours
from finetune.data.samples import Samples, epoch_samples

# Last words of the seeds, beside those of finetune.data.samples.
SPREADING, GROUPING, MIXING, LEAVING = 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's pairs.

    Attributes:
        images: int64[b], indices into the images; no image twice where that can be had.
        captions: int64[b], indices into all captions: one of each image's own.
    """

    images: Int64
    captions: Int64

    def __len__(self) -> int:
        return len(self.images)


def epoch_batches(
    data: CaptionedImages,
    plan: BatchPlan,
    epoch: int,
    neighbours: Int32 | None = None,
) -> list[Batch]:
    """Return the batches of an epoch: all its samples (see `BatchPlan`) once, in a new order.

    Unless the plan's `last_batch` says otherwise, sizes differ by at most one and none is above the
    plan's, so that no rest of a few images makes a step with hardly any negatives. A caption that
    several samples share, and an image, or images of equal content, that several show, comes into
    each batch as few times as can be: with c such samples and m batches at most ceil(c / m) times,
    which is once wherever c <= m. A short last batch is drawn by chance, whatever its captions.

    Samples are sorted so that equal captions lie side by side, captions and samples within them
    in random order, and dealt to the batches in turn like cards; with weights each dataset is
    dealt after the other, so that every batch gets its share of it. The few that still clash, by
    their images, are moved (`finetune.data.edge_coloring`). With hard negatives whole groups of
    neighbours are dealt instead.

    Args:
        data: n images.
        plan: How.
        epoch: From 0.
        neighbours: int32[n, k] of `nearest_neighbours`, by the weights at the epoch's start; None,
            as before the first epoch, gives batches without hard negatives.
    """
    samples = epoch_samples(data, plan, epoch)
    short = plan.short_batch(data)
    if not short:
        return _even_batches(data, plan, epoch, samples, neighbours)
    order = np.random.default_rng([plan.seed, epoch, LEAVING]).permutation(len(samples))
    rest, others = np.sort(order[:short]), np.sort(order[short:])
    full = Samples(samples.images[others], samples.captions[others])
    batches = _even_batches(data, plan, epoch, full, neighbours)
    return [*batches, Batch(samples.images[rest], samples.captions[rest])]


def _even_batches(
    data: CaptionedImages,
    plan: BatchPlan,
    epoch: int,
    samples: Samples,
    neighbours: Int32 | None,
) -> list[Batch]:
    """Return `epoch_batches` of these samples, in batches of equal size."""
    rng = np.random.default_rng([plan.seed, epoch])
    captions, images = data.keys[samples.captions], data.image_keys[samples.images]
    count = -(-len(samples) // plan.batch_size)
    if plan.hard_negatives and neighbours is not None:
        order, batch_of = _grouped(data, plan, epoch, samples, neighbours, count)
    else:
        is_weighted = plan.dataset_weights is not None
        order = _card_order(
            captions, images, data.datasets[samples.images] if is_weighted else None, rng
        )
        batch_of = np.arange(len(order), dtype=np.int64) % count
    batch_of = spread_apart(
        batch_of,
        captions[order],
        images[order],
        batches=count,
        rng=np.random.default_rng([plan.seed, epoch, SPREADING]),
    )
    by_batch = order[np.argsort(batch_of, kind="stable")]
    ends = np.cumsum(np.bincount(batch_of, minlength=count))
    dealt = np.split(by_batch, ends[:-1])
    if plan.dataset_weights is not None and not plan.hard_negatives:
        # datasets lie one after the other, and a step may be cut into separate batches
        mixing = np.random.default_rng([plan.seed, epoch, MIXING])
        dealt = [mixing.permutation(each) for each in dealt]
    return [
        Batch(samples.images[dealt[i]], samples.captions[dealt[i]]) for i in rng.permutation(count)
    ]


def _card_order(
    captions: Int64, images: Int64, datasets: Int64 | None, rng: np.random.Generator
) -> Int64:
    """Return the samples in the order in which they are dealt, int64[s]."""
    group, image_group = (np.unique(side, return_inverse=True)[1] for side in (captions, images))
    if _pairs(image_group) > _pairs(group):
        group = image_group
    group_rank = rng.permutation(int(group.max()) + 1)
    by_group = (rng.random(len(group)), group_rank[group])
    return np.lexsort(by_group if datasets is None else (*by_group, datasets)).astype(np.int64)


def _pairs(group: Int64) -> int:
    """Count the pairs of samples that are of the same group."""
    counts = np.bincount(group)
    return int((counts * (counts - 1) // 2).sum())


def _grouped(
    data: CaptionedImages,
    plan: BatchPlan,
    epoch: int,
    samples: Samples,
    neighbours: Int32,
    count: int,
) -> tuple[Int64, Int64]:
    """Return the samples and the batch of each, int64[s] both, neighbours in the same batch."""
    if len(neighbours) != len(data):
        raise ValueError(f"{len(data)} images, but neighbours of {len(neighbours)}")
    rng = np.random.default_rng([plan.seed, epoch, GROUPING])
    groups = group_neighbours(
        samples.images,
        data.keys[samples.captions],
        data.image_keys[samples.images],
        neighbours,
        size=plan.hard_negatives,
        rng=rng,
    )
    sizes = np.full(count, len(samples) // count, np.int64)
    sizes[: len(samples) % count] += 1
    return groups.order, batches_of_groups(groups, sizes, rng)


def positives(data: CaptionedImages, batch: Batch) -> npt.NDArray[np.bool_]:
    """Return bool[b, b], true where text (column) describes the image (row).

    That is so where a caption of equal key is among those of the image, or of another of the batch
    with the same content. So the captions of one image are never each other's negatives, and
    neither are images that share a caption, or captions that the model cannot tell apart.
    """
    starts, ends = data.starts[batch.images], data.starts[batch.images + 1]
    counts = ends - starts
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    own = np.arange(counts.sum()) - np.repeat(firsts - starts, counts)
    equal = data.keys[own][:, None] == data.keys[batch.captions][None, :]
    described: npt.NDArray[np.bool_] = np.logical_or.reduceat(equal, firsts, axis=0)
    contents = data.image_keys[batch.images]
    group, sizes = np.unique(contents, return_inverse=True, return_counts=True)[1:]
    for number in np.flatnonzero(sizes > 1):
        copies = group == number
        described[copies] = described[copies].any(axis=0)
    return described
