"""What is trained on and what is evaluated on, from one manifest or several. Imports without
torch."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from finetune.arrays import Int64
from finetune.config.batch_plan import BatchPlan
from finetune.config.reading import Reading
from finetune.data.captioned_images import (
    CaptionedImages,
    caption_keys,
    captioned_images,
    joined_keys,
    read_split,
)
from finetune.errors import UsageError
from finetune.frames import ManifestPath
from finetune.manifest.class_labels import ClassLabels, read_joint_class_labels
from finetune.manifest.formats.columns import ColumnNames, column_notes
from finetune.manifest.manifest import Manifest
from finetune.manifest.problems import Problems


def merge_datasets(parts: Sequence[CaptionedImages], names: Sequence[str]) -> CaptionedImages:
    """Return the images of every part, one part after the other.

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
        np.concatenate([*(part.repeats for part in parts), total[:0]]),
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
    """Return the names, with "-2", "-3", … after those that came before."""
    found: list[str] = []
    for name in names:
        number, distinct = 1, name
        while distinct in found:
            number += 1
            distinct = f"{name}-{number}"
        found.append(distinct)
    return found


# With one image there is nothing that its caption could be told from.
FEWEST_TRAINED_ON = 2


@dataclass(frozen=True, slots=True)
class ValidationClasses:
    """Classes that every validation image chooses among.

    Attributes:
        names: Of the classes, at least two.
        of_image: int64[n], rows of `names`; -1 for images without a class.
        source: The column or file that they come from.
    """

    names: tuple[str, ...]
    of_image: Int64
    source: str


@dataclass(frozen=True, slots=True)
class Splits:
    """The images of a run; `val` is empty where nothing is evaluated.

    Attributes:
        manifest: The first one, for messages.
        train, val: By split.
        classes: Of `val`, where they are asked for.
        notes: Sentences about which columns were taken, and where val is held out of train.
    """

    manifest: Path
    train: CaptionedImages
    val: CaptionedImages
    classes: ValidationClasses | None = None
    notes: tuple[str, ...] = ()

    def without(self, train: Iterable[int], val: Collection[int]) -> "Splits":
        """Return the same without the images of these indices."""
        classes = self.classes
        if classes is not None:
            kept = np.delete(classes.of_image, list(val))
            classes = replace(classes, of_image=kept)
        return replace(
            self, train=self.train.without(train), val=self.val.without(val), classes=classes
        )

    def check(self, plan: BatchPlan, *, evaluates: bool, unreadable: Collection[str] = ()) -> None:
        """Raise UsageError where a split is too small for what is asked.

        Args:
            plan: How an epoch's batches are made. One that is larger than train is all of it, but
                where an image may stand in it with several captions.
            evaluates: Whether val is ranked.
            unreadable: The reasons why images are missing, for the message.
        """
        missing = ""
        if unreadable:
            first = next(iter(unreadable))
            missing = f" ({len(unreadable):,} pictures cannot be read, the first: {first})"
        if len(self.train) < FEWEST_TRAINED_ON:
            raise UsageError(
                f"{self.manifest}: the split train has {len(self.train)} images{missing}, too few"
                f" to train on; mark more rows train in a column split"
            )
        if plan.batch_size > len(self.train) and plan.captions == "all":
            raise UsageError(
                f"--batch-size {plan.batch_size} is more than the {len(self.train):,} images"
                f" of the split train{missing}; give at most {len(self.train)}, or more images"
            )
        if evaluates and len(self.val) < 2:
            raise UsageError(
                f"{self.manifest}: the split val has {len(self.val)} images{missing}, too few"
                f" to evaluate on; mark some rows val in a column split, or give"
                f" --hold-out 0.1, or --eval-every never"
            )
        if self.classes is not None and not (self.classes.of_image >= 0).any():
            raise UsageError(
                f"--zero-shot {self.classes.source}: no image of the split val has a class"
            )


def open_manifest(path: ManifestPath, reading: Reading) -> Manifest:
    """Read one of a run's manifests. Raises ManifestError."""
    return Manifest.open(
        path,
        images=reading.images,
        strict=reading.strict,
        split=reading.split_shares,
        columns=ColumnNames(reading.image_column, reading.caption_columns, reading.id_column),
    )


def hold_out_val(manifests: Sequence[Manifest], share: float) -> str | None:
    """Make the split val of a share of train where no manifest has one, and say so in a sentence.

    None where there is one, or with a share of 0.
    """
    if not share or any(each.split_counts()["val"] for each in manifests):
        return None
    train = sum(each.split_counts()["train"] for each in manifests)
    held = sum(each.hold_out(share) for each in manifests)
    return (
        f"There is no split val: of the {train:,} images of train {held:,} are held out to evaluate"
        f" on (--hold-out {share:g})."
    )


class TrainingManifests:
    """The manifests of a run, open; a context manager."""

    def __init__(self, manifests: list[Manifest], opened: ExitStack, hold_out: float) -> None:
        self._manifests = manifests
        self._hold_out = hold_out
        self._opened = opened
        self.problems: Problems = manifests[0].problems

    @classmethod
    def open(cls, reading: Reading) -> Self:
        """Read them all. Raises ManifestError."""
        with ExitStack() as opened:
            manifests = [
                opened.enter_context(open_manifest(path, reading)) for path in reading.manifests
            ]
            for manifest in manifests:
                manifest.check_trainable()
            return cls(manifests, opened.pop_all(), reading.hold_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def splits(self, plan: BatchPlan, *, evaluates: bool, classes: str | None = None) -> Splits:
        """Read the captioned images of the splits train and val, and check them; called once.

        Args:
            plan: How epochs are cut into steps, which the images must suffice for.
            evaluates: Whether val is read; otherwise it is empty.
            classes: The column or file of the classes of val.

        Raises UsageError where there are too few, ManifestError where none can be used.
        """
        first = self._manifests[0].path
        notes = [
            f"{each.path}: {note}."
            for each in self._manifests
            for note in column_notes(each.problems)
        ]
        if evaluates and (held_out := hold_out_val(self._manifests, self._hold_out)) is not None:
            notes.append(held_out)
        train = merge_datasets(self._read("train"), self._names)
        if evaluates:
            val = self._read("val")
            of_val = None if classes is None else self._classes(classes, val)
            splits = Splits(first, train, merge_datasets(val, self._names), of_val, tuple(notes))
        else:
            splits = Splits(first, train, captioned_images([]), notes=tuple(notes))
        for other in self._manifests[1:]:
            self.problems.extend(other.problems)
        splits.check(plan, evaluates=evaluates)
        plan.check_fits(splits.train, len(self._manifests))
        return splits

    @property
    def _names(self) -> list[str]:
        return [manifest.path.stem for manifest in self._manifests]

    def _read(self, split: str) -> list[CaptionedImages]:
        return [read_split(manifest, split) for manifest in self._manifests]

    def _classes(self, source: str, parts: list[CaptionedImages]) -> ValidationClasses:
        labels = read_joint_class_labels(self._manifests, source)
        names = sorted({name for each in labels for name in each.names})
        rows = [_rows(each, names, part) for each, part in zip(labels, parts, strict=True)]
        return ValidationClasses(tuple(names), np.concatenate(rows), source)


def _rows(labels: ClassLabels, names: list[str], images: CaptionedImages) -> Int64:
    joint = {row: names.index(name) for row, name in enumerate(labels.names)}
    found = [labels.of_image.get(image_id, -1) for image_id in images.ids]
    return np.array([joint.get(row, -1) for row in found], np.int64)
