"""Which images, with which of their captions, make up each step.

Everything is a pure function of the data, the seed and the epoch: a resumed run makes the same
batches again and goes on at the step where it stopped. Imports without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.dataset import CaptionedImages, Int64


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's pairs.

    Attributes:
        images: int64[b], indices into the images; no image twice.
        captions: int64[b], indices into all captions: one of each image's own.
    """

    images: Int64
    captions: Int64

    def __len__(self) -> int:
        return len(self.images)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches that show every image once: as few as `batch_size` allows."""
    return -(-images // batch_size)


def epoch_batches(data: CaptionedImages, batch_size: int, *, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch: every image once, in a new order, with one of its captions.

    Batch sizes differ by at most one and none is above `batch_size`, so that no rest of a few
    images makes a step with hardly any negatives. A caption that several images share comes
    into each batch as few times as can be: with c such images and m batches at most ceil(c / m)
    times, which is once wherever c <= m.

    Images are sorted so that equal captions lie side by side, groups and images within them in
    random order, and dealt to the batches in turn like cards.
    """
    rng = np.random.default_rng([seed, epoch])
    captions = sample_captions(data, seed=seed, epoch=epoch)
    _, group = np.unique(data.keys[captions], return_inverse=True)
    group_rank = rng.permutation(int(group.max()) + 1)
    order = np.lexsort((rng.random(len(data)), group_rank[group])).astype(np.int64)
    count = steps_per_epoch(len(data), batch_size)
    dealt = [order[start::count] for start in range(count)]
    return [Batch(dealt[i], captions[dealt[i]]) for i in rng.permutation(count)]


def sample_captions(data: CaptionedImages, *, seed: int, epoch: int) -> Int64:
    """int64[n]: the caption of each image in an epoch, as an index into all captions.

    An image with k captions shows each of them once in any k epochs in a row, starting at a
    random one.
    """
    counts = np.diff(data.starts)
    first = np.random.default_rng(seed).integers(0, counts)
    chosen: Int64 = data.starts[:-1] + (first + epoch) % counts
    return chosen


def positives(data: CaptionedImages, batch: Batch) -> npt.NDArray[np.bool_]:
    """bool[b, b]: true where text (column) is, word for word, among the image's (row) captions.

    So the captions of one image are never each other's negatives, and neither are images that
    share a caption.
    """
    starts, ends = data.starts[batch.images], data.starts[batch.images + 1]
    counts = ends - starts
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    own = np.arange(counts.sum()) - np.repeat(firsts - starts, counts)
    equal = data.keys[own][:, None] == data.keys[batch.captions][None, :]
    return np.logical_or.reduceat(equal, firsts, axis=0)


@dataclass(frozen=True, slots=True)
class TokenizedCaptions:
    """Token ids of all captions, one after the other.

    Attributes:
        tokens: int32[total].
        starts: int64[t + 1]; caption i is tokens[starts[i]:starts[i + 1]].
        pad_token_id: Fills shorter captions of a batch.
        pad_to: Length to which every batch is filled; None is the batch's longest caption.
    """

    tokens: npt.NDArray[np.int32]
    starts: Int64
    pad_token_id: int
    pad_to: int | None = None

    def padded(self, captions: Int64) -> tuple[Int64, Int64]:
        """Token ids and attention mask (1 is a token), int64[len(captions), longest]."""
        starts = self.starts[captions]
        lengths = self.starts[captions + 1] - starts
        width = int(lengths.max()) if self.pad_to is None else self.pad_to
        columns = np.arange(width)
        mask = columns < lengths[:, None]
        positions = np.where(mask, starts[:, None] + columns, 0)
        ids = np.where(mask, self.tokens[positions], self.pad_token_id)
        return ids.astype(np.int64), mask.astype(np.int64)


def tokenized(
    rows: Sequence[Sequence[int]], *, pad_token_id: int, pad_to: int | None = None
) -> TokenizedCaptions:
    """TokenizedCaptions from the token ids of each caption."""
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    flat = np.fromiter((token for row in rows for token in row), np.int32, int(starts[-1]))
    return TokenizedCaptions(flat, starts, pad_token_id, pad_to)
