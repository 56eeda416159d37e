"""One split of a manifest in columns: what training and evaluation index into.

Imports without torch.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.errors import ManifestError
from finetune.images import ImageSource
from finetune.manifest import Manifest, Record

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CaptionedImages:
    """n images and their t captions; captions of one image lie side by side.

    Attributes:
        ids: Of the images, n.
        sources: Of the images, n.
        captions: All captions, t.
        starts: int64[n + 1]; the captions of image i are captions[starts[i]:starts[i + 1]].
        keys: int64[t]; equal captions, but for case and white space, have equal keys.
    """

    ids: tuple[str, ...]
    sources: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    starts: Int64
    keys: Int64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_of_caption(self) -> Int64:
        """int64[t]: the image that each caption belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))

    def without(self, images: Iterable[int]) -> "CaptionedImages":
        """The same without the images of these indices."""
        dropped = set(images)
        return captioned_images(
            (
                self.ids[i],
                self.sources[i],
                self.captions[self.starts[i] : self.starts[i + 1]],
            )
            for i in range(len(self))
            if i not in dropped
        )

    def fingerprint(self) -> str:
        """sha256, in hex, over ids and captions in order."""
        total = hashlib.sha256()
        for i, image_id in enumerate(self.ids):
            texts = self.captions[self.starts[i] : self.starts[i + 1]]
            total.update("\x1f".join((image_id, *texts)).encode("utf-8", "surrogatepass"))
            total.update(b"\x1e")
        return total.hexdigest()


def captioned_images(
    rows: Iterable[tuple[str, ImageSource, Sequence[str]]],
) -> CaptionedImages:
    """Columns from rows of id, source and captions (at least one)."""
    ids: list[str] = []
    sources: list[ImageSource] = []
    captions: list[str] = []
    starts = [0]
    for image_id, source, texts in rows:
        ids.append(image_id)
        sources.append(source)
        captions.extend(texts)
        starts.append(len(captions))
    return CaptionedImages(
        tuple(ids),
        tuple(sources),
        tuple(captions),
        np.array(starts, np.int64),
        caption_keys(captions),
    )


def caption_keys(captions: Iterable[str]) -> Int64:
    """int64[t]: the same number for captions that differ only in case and white space."""
    numbers: dict[str, int] = {}
    keys = [
        numbers.setdefault(" ".join(caption.casefold().split()), len(numbers))
        for caption in captions
    ]
    return np.array(keys, np.int64)


def read_split(manifest: Manifest, split: str) -> CaptionedImages:
    """The split's images that have a file and a caption; the others become notes of the report.

    Raises ManifestError where the split has images but none of them can be used.
    """
    unusable: list[tuple[str, str]] = []

    def usable(records: Iterable[Record]) -> Iterable[tuple[str, ImageSource, Sequence[str]]]:
        for record in records:
            if record.image is not None and record.captions:
                yield record.id, record.image, record.captions
            else:
                missing = "caption" if record.image is not None else "picture, only a vector"
                unusable.append((record.id, f"has no {missing}: not used in training"))

    images = captioned_images(usable(manifest.records(split)))
    for where, reason in unusable:
        manifest.problems.note("not trained on", where, reason)
    if unusable and not len(images):
        where, reason = unusable[0]
        raise ManifestError(
            f"{manifest.path}: none of the {len(unusable):,} images of the split {split} can be"
            f" used; the first, {where}, {reason}"
        )
    return images
