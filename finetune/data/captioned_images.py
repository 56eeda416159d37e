"""One split of a manifest in columns: what training and evaluation index into.

Imports without torch.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.arrays import Int64
from finetune.errors import ManifestError
from finetune.images.source import ImageSource
from finetune.manifest.manifest import Manifest, Record


@dataclass(frozen=True, slots=True)
class CaptionedImages:
    """n images and their t captions; captions of one image lie side by side.

    Attributes:
        ids: Of the images, n.
        sources: Of the images, n.
        captions: All captions, t.
        starts: int64[n + 1]; the captions of image i are captions[starts[i]:starts[i + 1]].
        keys: int64[t]; equal captions, but for case and white space, have equal keys. So have those
            that the model cannot tell apart, once `with_token_keys` has said which these are.
        image_keys: int64[n]; images of equal content have equal keys. All differ until
            `with_image_keys` says more.
        datasets: int64[n]; the manifest that each image comes from, 0 where there is one.
        repeats: int64[t]; how often the manifest gives each caption of its image, from 1.
    """

    ids: tuple[str, ...]
    sources: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    starts: Int64
    keys: Int64
    image_keys: Int64
    datasets: Int64
    repeats: Int64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_of_caption(self) -> Int64:
        """int64[t]: the image that each caption belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))

    def without(self, images: Iterable[int]) -> "CaptionedImages":
        """Return the same without the images of these indices; what is equal stays equal."""
        kept = np.ones(len(self), np.bool_)
        kept[np.fromiter(images, np.int64)] = False
        rows = np.flatnonzero(kept).tolist()
        of_kept = np.flatnonzero(kept[self.image_of_caption])
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.diff(self.starts)[kept], out=starts[1:])
        return CaptionedImages(
            tuple(self.ids[i] for i in rows),
            tuple(self.sources[i] for i in rows),
            tuple(self.captions[i] for i in of_kept.tolist()),
            starts,
            numbered(self.keys[of_kept]),
            self.image_keys[kept],
            self.datasets[kept],
            self.repeats[of_kept],
        )

    def with_image_keys(self, image_keys: Int64) -> "CaptionedImages":
        """Return the same, knowing which images are equal.

        `image_keys`, int64[n], are equal for images of equal content, such as `LoadedPixels.keys`.
        """
        if image_keys.shape != (len(self),):
            raise ValueError(f"{len(self)} images, but keys of shape {image_keys.shape}")
        return replace(self, image_keys=image_keys.astype(np.int64))

    def with_token_keys(self, token_keys: Int64) -> "CaptionedImages":
        """Return the same, knowing which captions the model cannot tell apart.

        `token_keys`, int64[t], are equal for captions of equal tokens, such as
        `TokenizedCaptions.keys`: two texts may differ only behind the last token that it takes.
        """
        if token_keys.shape != self.keys.shape:
            raise ValueError(f"{len(self.captions)} captions, but keys of shape {token_keys.shape}")
        return replace(self, keys=joined_keys(self.keys, token_keys))

    def alike(self, token_keys: Int64) -> int:
        """Count the captions that equal an earlier, different one by `token_keys`, int64[t]."""
        joined = joined_keys(self.keys, token_keys)
        return len(np.unique(self.keys)) - len(np.unique(joined))

    def fingerprint(self) -> str:
        """Return the sha256, in hex, over ids, captions, and what is equal or merged, in order."""
        total = hashlib.sha256()
        for i, image_id in enumerate(self.ids):
            texts = self.captions[self.starts[i] : self.starts[i + 1]]
            total.update("\x1f".join((image_id, *texts)).encode("utf-8", "surrogatepass"))
            total.update(b"\x1e")
        columns = [numbered(self.image_keys), self.datasets]
        keys = numbered(self.keys)
        # Where only equal texts are equal, as nearly everywhere, runs of earlier versions go on.
        if not np.array_equal(keys, caption_keys(self.captions)):
            columns.append(keys)
        for column in columns:
            total.update(column.tobytes())
        return total.hexdigest()


def captioned_images(
    rows: Iterable[tuple[str, ImageSource, Sequence[str]]],
    repeats: Mapping[str, Sequence[int]] | None = None,
) -> CaptionedImages:
    """Gather the columns from rows of id, source and captions (at least one).

    `repeats` are those of the captions, by id, of images of which not each caption is there once;
    read when all rows are.
    """
    ids: list[str] = []
    sources: list[ImageSource] = []
    captions: list[str] = []
    starts = [0]
    for image_id, source, texts in rows:
        ids.append(image_id)
        sources.append(source)
        captions.extend(texts)
        starts.append(len(captions))
    counts = np.ones(len(captions), np.int64)
    for row, image_id in enumerate(ids if repeats else ()):
        if repeats and image_id in repeats:
            counts[starts[row] : starts[row + 1]] = repeats[image_id]
    return CaptionedImages(
        tuple(ids),
        tuple(sources),
        tuple(captions),
        np.array(starts, np.int64),
        caption_keys(captions),
        np.arange(len(ids), dtype=np.int64),
        np.zeros(len(ids), np.int64),
        counts,
    )


def caption_keys(captions: Iterable[str]) -> Int64:
    """Return int64[t], equal for captions that differ only in case and white space."""
    numbers: dict[str, int] = {}
    keys = [
        numbers.setdefault(" ".join(caption.casefold().split()), len(numbers))
        for caption in captions
    ]
    return np.array(keys, np.int64)


def numbered(keys: Int64) -> Int64:
    """Return the same keys as 0, 1, … in the order in which they first occur."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    renumbered: Int64 = number[inverse]
    return renumbered


def position_in_run(values: Int64) -> Int64:
    """Return how many equal values come right before each: int64[s]."""
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    lengths = np.diff(np.append(starts, len(values)))
    positions: Int64 = np.arange(len(values), dtype=np.int64) - np.repeat(starts, lengths)
    return positions


def joined_keys(left: Int64, right: Int64) -> Int64:
    """Return int64[t], equal for entries that are linked by equal values of either array."""
    width = int(left.max(initial=0)) + 1
    if len(np.unique(right * width + left)) == len(np.unique(right)):
        return numbered(left)  # what is equal on the right is equal on the left already
    links: dict[tuple[str, int], tuple[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while (above := links.setdefault(node, node)) != node:
            links[node] = links[above]  # shortens the way for the next
            node = above
        return node

    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        links[root(("left", a))] = root(("right", b))
    numbers: dict[tuple[str, int], int] = {}
    roots = (root(("left", a)) for a in left.tolist())
    return np.array([numbers.setdefault(each, len(numbers)) for each in roots], np.int64)


def read_split(manifest: Manifest, split: str) -> CaptionedImages:
    """Read the split's images that have a file and a caption; report the others as notes.

    Raises ManifestError where the split has images but none of them can be used.
    """
    unusable: list[tuple[str, str]] = []
    repeats: dict[str, Sequence[int]] = {}

    def usable(records: Iterable[Record]) -> Iterable[tuple[str, ImageSource, Sequence[str]]]:
        for record in records:
            if record.image is not None and record.captions:
                if record.repeats:
                    repeats[record.id] = record.repeats
                yield record.id, record.image, record.captions
            else:
                missing = "caption" if record.image is not None else "picture, only a vector"
                unusable.append((record.id, f"has no {missing}: not used in training"))

    images = captioned_images(usable(manifest.records(split)), repeats)
    for where, reason in unusable:
        manifest.problems.note("not trained on", where, reason)
    if unusable and not len(images):
        where, reason = unusable[0]
        raise ManifestError(
            f"{manifest.path}: none of the {len(unusable):,} images of the split {split} can be"
            f" used; the first, {where}, {reason}"
        )
    return images
