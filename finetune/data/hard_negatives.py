"""Batches of images whose captions are easily confused, by the model as it is now.

A batch is made of several groups: a seed image and those images whose captions are nearest to it,
so that each of them is a negative that the model has yet to tell apart. Several groups from random
places keep the batch as varied as the loss needs. Imports without torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.data.captioned_images import CaptionedImages, position_in_run

Int32 = npt.NDArray[np.int32]

# Seeds that choose their neighbours at once, as a share of the groups that are yet to be made:
# few enough that they seldom want the same ones.
SEEDS_AT_ONCE = 32


def nearest_neighbours(
    image_embeds: Float32,
    text_embeds: Float32,
    data: CaptionedImages,
    k: int,
    *,
    chunk: int = 256,
    pool: int = 65_536,
    seed: int = 0,
) -> Int32:
    """Return for each image the images whose captions are nearest to it and do not describe it.

    Left out are the image itself, images of equal content, and those that share a caption with it.
    Above `pool` images the search is among a random part of them, so that time and memory grow
    with n and not with its square.

    Args:
        image_embeds: float32[n, d], unit length.
        text_embeds: float32[n, d], unit length, of one caption of each image.
        data: The n images.
        k: Neighbours of each image.
        chunk: Images at once; chunk x pool similarities are in memory.
        pool: Images that are searched together, at most.
        seed: Of the random parts.

    Returns:
        int32[n, k], nearest first; -1 where there are no more.
    """
    count = len(data)
    if image_embeds.shape != text_embeds.shape or len(image_embeds) != count:
        raise ValueError(
            f"{count} images, but embeddings of shape {image_embeds.shape} of images and"
            f" {text_embeds.shape} of captions"
        )
    found = np.full((count, k), -1, np.int32)
    order = np.random.default_rng(seed).permutation(count) if count > pool else np.arange(count)
    for part in np.array_split(order, max(1, -(-count // pool))):
        part = np.sort(part)
        same = _Relatives(data, part)
        texts = text_embeds[part]
        for start in range(0, len(part), chunk):
            rows = part[start : start + chunk]
            similarities = image_embeds[rows] @ texts.T
            similarities[same.pairs(rows)] = -np.inf
            columns, values = _largest(similarities, min(k, len(part)))
            nearest = np.where(np.isneginf(values), -1, part[columns])
            found[rows, : nearest.shape[1]] = nearest
    return found


def _largest(values: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the columns of each row's k largest values, and these values.

    Equal ones come in order of column.
    """
    columns = np.sort(np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:], axis=1)
    chosen = np.take_along_axis(values, columns, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(chosen, order, axis=1)


class _Relatives:
    """Finds the images of a part that share a caption or the content of others."""

    def __init__(self, data: CaptionedImages, part: Int64) -> None:
        captions, owner = _ranges(data.starts[part], data.starts[part + 1])
        self._data = data
        self._by_caption = _Index(data.keys[captions], owner)
        self._by_content = _Index(data.image_keys[part], np.arange(len(part)))

    def pairs(self, images: Int64) -> tuple[Int64, Int64]:
        """Return position among `images`, and position in the part, of each image and relative."""
        data = self._data
        captions, owner = _ranges(data.starts[images], data.starts[images + 1])
        row, column = self._by_caption.find(data.keys[captions])
        also_row, also_column = self._by_content.find(data.image_keys[images])
        return np.concatenate((owner[row], also_row)), np.concatenate((column, also_column))


class _Index:
    """Keys, and who has them."""

    def __init__(self, keys: Int64, owners: Int64) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._owners = keys[order], owners[order]

    def find(self, keys: Int64) -> tuple[Int64, Int64]:
        """Return the position of each key, repeated for each of its owners, and these."""
        first = np.searchsorted(self._keys, keys, "left")
        end = np.searchsorted(self._keys, keys, "right")
        places, position = _ranges(first, end)
        return position, self._owners[places]


def _ranges(starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """Return all of starts[0]..ends[0]-1, starts[1]..ends[1]-1, ….

    Returns the number of the range of each, too.
    """
    lengths = ends - starts
    number = np.repeat(np.arange(len(starts), dtype=np.int64), lengths)
    before = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum()), dtype=np.int64) - before[number]
    return starts[number] + inside, number


@dataclass(frozen=True, slots=True)
class Groups:
    """Samples in groups of neighbours.

    Attributes:
        order: int64[s], all samples, those of a group side by side.
        lengths: int64[g], of the groups, in this order; none is above the size asked for.
    """

    order: Int64
    lengths: Int64


def group_neighbours(
    images: Int64,
    captions: Int64,
    contents: Int64,
    neighbours: Int32,
    *,
    size: int,
    rng: np.random.Generator,
) -> Groups:
    """Put each sample in one group: random seeds take their nearest neighbours that are still free.

    An image that occurs several times is grouped again each time.

    Args:
        images: int64[s], of each sample.
        captions: int64[s], equal for captions that may not meet in a group.
        contents: int64[s], equal for images that may not meet in one either.
        neighbours: int32[n, k], of each image, nearest first, -1 is none.
        size: Samples of a group, at most. Groups are smaller where all neighbours are taken.
        rng: Chooses the seeds.
    """
    order = np.argsort(images, kind="stable")
    turn = np.empty(len(images), np.int64)
    turn[order] = np.arange(len(images)) - np.searchsorted(images[order], images[order])
    group_of = np.empty(len(images), np.int64)
    groups = 0
    for number in range(int(turn.max(initial=-1)) + 1):
        samples = np.flatnonzero(turn == number)
        own = _grouped_once(
            images[samples], captions[samples], contents[samples], neighbours, size, rng
        )
        group_of[samples] = groups + own
        groups += int(own.max()) + 1
    return Groups(np.argsort(group_of, kind="stable"), np.bincount(group_of))


def _grouped_once(
    images: Int64,
    captions: Int64,
    contents: Int64,
    neighbours: Int32,
    size: int,
    rng: np.random.Generator,
) -> Int64:
    """Return int64[s]: the group of each sample, where no image occurs twice.

    The more groups there are yet to be made, the more are made at once: of those that want the
    same image, the first gets it, and the others look again. One at a time would give the same
    but for seeds that are each other's neighbours.
    """
    sample_of_image = np.full(len(neighbours) + 1, -1, np.int64)  # the last is for none, -1
    sample_of_image[images] = np.arange(len(images))
    group_of = np.full(len(images), -1, np.int64)
    keys = [np.unique(side, return_inverse=True)[1] for side in (captions, contents)]
    keys = [key for key in keys if int(key.max()) + 1 < len(key)]
    waiting = rng.permutation(len(images))
    groups = 0
    while len(waiting):
        count = max(1, len(waiting) // (size * SEEDS_AT_ONCE))
        members = np.full((count, size), -1, np.int64)
        members[:, 0] = waiting[:count]
        group_of[members[:, 0]] = groups + np.arange(count)
        _fill(members, sample_of_image[neighbours[images[members[:, 0]]]], group_of, keys)
        groups += count
        waiting = waiting[group_of[waiting] < 0]
    return group_of


def _fill(members: Int64, candidates: Int64, group_of: Int64, keys: list[Int64]) -> None:
    """Give each group its nearest candidates that are free, until it is full or has no more.

    Args:
        members: int64[g, size], samples; the first column is the seed's, the others -1 so far.
        candidates: int64[g, k], samples, nearest first; -1 is none.
        group_of: int64[s], -1 is free; written.
        keys: Each int64[s]; no two members may have the same.
    """
    active = np.arange(len(members))
    while len(active):
        wanted = candidates[active]
        present = members[active]
        free = (wanted >= 0) & (group_of[wanted] < 0)
        for key in keys:
            equal = key[wanted][:, :, None] == key[present][:, None, :]
            free &= ~(equal & (present >= 0)[:, None, :]).any(axis=2)
        missing = (present < 0).sum(axis=1)
        chosen = free & (np.cumsum(free, axis=1) <= missing[:, None])
        row, column = np.nonzero(chosen)
        samples = wanted[row, column]
        kept = _is_first(samples)
        for key in keys:
            kept &= _is_first(row * (int(key.max()) + 1) + key[samples])
        row, samples = row[kept], samples[kept]
        place = (present >= 0).sum(axis=1)[row] + position_in_run(row)
        members[active[row], place] = samples
        group_of[samples] = group_of[members[active[row], 0]]
        # a group that got all that it chose has either enough or no more to choose from
        got = np.bincount(row, minlength=len(active))
        active = active[got < chosen.sum(axis=1)]


def _is_first(values: Int64) -> npt.NDArray[np.bool_]:
    """Return bool[s]: whether no equal value comes before."""
    first = np.zeros(len(values), np.bool_)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def batches_of_groups(groups: Groups, sizes: Int64, rng: np.random.Generator) -> Int64:
    """Return int64[s]: the batch of each sample of `groups.order`, whole groups in random batches.

    The batches are filled with as many of the largest groups as fit in them whole; smaller ones,
    side by side, fill what is left.

    Args:
        groups: s samples.
        sizes: int64[m], samples of each batch, s in all.
        rng: Chooses the batches.
    """
    size = int(groups.lengths.max())
    slots = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes // size)
    whole = np.flatnonzero(groups.lengths == size)
    whole = rng.permutation(whole)[: len(slots)]
    # as evenly as can be: a second group for a batch only where each has one that has room
    level = position_in_run(slots)
    slots = slots[np.lexsort((rng.random(len(slots)), level))][: len(whole)]
    batch_of_group = np.full(len(groups.lengths), -1, np.int64)
    batch_of_group[whole] = slots
    batch_of = np.repeat(batch_of_group, groups.lengths)
    left = sizes - size * np.bincount(slots, minlength=len(sizes))
    batch_of[batch_of < 0] = np.repeat(np.arange(len(sizes), dtype=np.int64), left)
    return batch_of
