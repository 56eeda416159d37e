"""Several manifests' images as one set that is trained on together. Imports without torch."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np

from finetune.dataset import CaptionedImages, caption_keys, joined_keys


def merge_datasets(parts: Sequence[CaptionedImages], names: Sequence[str]) -> CaptionedImages:
    """The images of every part, one part after the other.

    An id that several parts have gets its part's name in front, "ucm/12.tif"; all others stay.
    Captions that are equal in different parts have equal keys. `datasets` is the index of the
    part. Images count as different ones until `CaptionedImages.with_image_keys` is called on the
    result.

    Args:
        parts: One split of each manifest, as `read_split` gives it.
        names: Of the parts, such as the manifests' stems; equal ones get a number.
    """
    sizes = [len(part) for part in parts]
    captions = tuple(chain.from_iterable(part.captions for part in parts))
    caption_counts = [len(part.captions) for part in parts]
    shifts = list(accumulate(caption_counts, initial=0))
    # keys of different parts are made different first, then joined where the texts are equal
    apart = [0, *accumulate(int(part.keys.max(initial=-1)) + 1 for part in parts)]
    own_keys = [part.keys + shift for part, shift in zip(parts, apart, strict=False)]
    starts = [part.starts[:-1] + shift for part, shift in zip(parts, shifts, strict=False)]
    total = np.array([shifts[-1]], np.int64)
    return CaptionedImages(
        _unique_ids(parts, _distinct(names)),
        tuple(chain.from_iterable(part.sources for part in parts)),
        captions,
        np.concatenate([*starts, total]),
        joined_keys(caption_keys(captions), np.concatenate([*own_keys, total[:0]])),
        np.arange(sum(sizes), dtype=np.int64),
        np.repeat(np.arange(len(parts), dtype=np.int64), sizes),
    )


def _unique_ids(parts: Sequence[CaptionedImages], names: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(chain.from_iterable(part.ids for part in parts))
    taken = {image_id for image_id, count in counts.items() if count == 1}
    ids: list[str] = []
    for part, name in zip(parts, names, strict=True):
        for image_id in part.ids:
            unique = image_id
            if counts[image_id] > 1:
                while unique == image_id or unique in taken:
                    unique = f"{name}/{unique}"
                taken.add(unique)
            ids.append(unique)
    return tuple(ids)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with "-2", "-3", … after those that came before."""
    found: list[str] = []
    for name in names:
        number, distinct = 1, name
        while distinct in found:
            number += 1
            distinct = f"{name}-{number}"
        found.append(distinct)
    return found
