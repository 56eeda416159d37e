"""Whether one's own data are what a recipe expects, found out before hours are spent.

Manifests are read, images are not opened. Imports without torch.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.arrays import Int64
from finetune.config.reading import Reading
from finetune.config.recipes import ExpectedData, Recipe
from finetune.config.run_parts import Course, Optimization
from finetune.config.settings import TrainConfig
from finetune.data.splits import hold_out_val, open_manifest
from finetune.errors import ManifestError, UsageError
from finetune.manifest.class_labels import read_joint_class_labels
from finetune.manifest.manifest import Manifest
from finetune.manifest.splits import SPLITS
from finetune.training.checks import unfinished_warmup

NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that a recipe expects of the data.

    Attributes:
        what: For people.
        found: In the manifests.
        expected: By the recipe; "not known" where its source does not tell.
        is_close: Whether it is as near as chance comes: splits by a hash are about their shares.
    """

    what: str
    found: str
    expected: str
    is_close: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is as expected, or nothing is expected."""
        return self.is_close or self.expected in (self.found, NOT_KNOWN)


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What `check_data` found.

    Attributes:
        recipe: Its name.
        comparisons: A line each.
        steps: Of the whole run.
        warnings: Sentences about what will not go as the settings say.
        note: Of the recipe.
    """

    recipe: str
    comparisons: tuple[Comparison, ...]
    steps: int
    warnings: tuple[str, ...]
    note: str

    @property
    def is_met(self) -> bool:
        """Whether all is as the recipe expects, without a warning."""
        return not self.warnings and all(each.is_met for each in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = [
            {"what": each.what, "found": each.found, "expected": each.expected}
            | {"as_expected": each.is_met}
            for each in self.comparisons
        ]
        return {
            "recipe": self.recipe,
            "as_expected": self.is_met,
            "comparisons": rows,
            "steps": self.steps,
            "warnings": list(self.warnings),
            "note": self.note,
        }


@dataclass(slots=True)
class _Counts:
    """Of all manifests; an image without a caption is not trained on and counts in `bare` alone."""

    images: int = 0
    captions: int = 0
    fewest: int = 0
    most: int = 0
    bare: int = 0


@dataclass(frozen=True, slots=True)
class _Train:
    """The split train, as far as the number of steps depends on it."""

    images: int
    captions: Sequence[str]
    datasets: Int64

    def __len__(self) -> int:
        return self.images


def check_data(config: TrainConfig, recipe: Recipe) -> DataCheck:
    """Compare the manifests of a run with what its recipe expects.

    Raises ManifestError where a manifest cannot be read.
    """
    reading = Reading.of(config)
    with ExitStack() as opened:
        manifests = [
            opened.enter_context(open_manifest(path, replace(reading, strict=False)))
            for path in reading.manifests
        ]
        note = hold_out_val(manifests, reading.hold_out) if config.evaluates else None
        counts, train = _count(manifests)
        splits = {
            name: sum(manifest.split_counts().get(name, 0) for manifest in manifests)
            for name in SPLITS
        }
        are_hashed = not any(each.splits_are_given for each in manifests)
        classes, trouble = _classes(config, manifests)
        problems = [each for each in manifests if len(each.problems)]
        warnings = [f"{each.path}: {each.problems.summary()}" for each in problems]
    if counts.bare:
        warnings.append(f"{counts.bare:,} images have no caption, so they are not trained on")
    warnings += trouble
    course = Course.of(config, config.batch_plan.steps_per_epoch(train) if len(train) else 0)
    warnings += config.batch_plan.notes(train) if len(train) else ()
    if late := unfinished_warmup(course.schedule, Optimization.of(config).learning_rate):
        warnings.append(late)
    expected = recipe.expects
    told = tuple(each for each in (expected.note, note) if each)
    lines = _comparisons(expected, len(manifests), counts, splits, classes, are_hashed=are_hashed)
    return DataCheck(recipe.name, tuple(lines), course.steps, tuple(warnings), " ".join(told))


def _count(manifests: list[Manifest]) -> tuple[_Counts, _Train]:
    counts = _Counts()
    images = captions = 0
    for manifest in manifests:
        for record in manifest.records():
            if not record.captions:
                counts.bare += 1
                continue
            given = sum(record.repeats) or len(record.captions)
            counts.fewest = given if not counts.images else min(counts.fewest, given)
            counts.most = max(counts.most, given)
            counts.images += 1
            counts.captions += given
            if record.split == "train":
                images, captions = images + 1, captions + len(record.captions)
    return counts, _Train(images, ("",) * captions, np.zeros(images, np.int64))


def _classes(config: TrainConfig, manifests: list[Manifest]) -> tuple[int | None, list[str]]:
    """Count the classes, None without any, and say what is wrong with them."""
    if config.zero_shot_classes is None:
        return None, []
    try:
        labels = read_joint_class_labels(manifests, config.zero_shot_classes)
    except (ManifestError, UsageError) as error:
        return 0, [f"--zero-shot: {error}"]
    names = {name for each in labels for name in each.names}
    return len(names), []


def _comparisons(
    expected: ExpectedData,
    manifests: int,
    counts: _Counts,
    splits: dict[str, int],
    classes: int | None,
    *,
    are_hashed: bool,
) -> Iterator[Comparison]:
    yield Comparison("manifests", _number(manifests), _number(expected.manifests))
    yield Comparison("images", _number(counts.images), _number(expected.images))
    yield Comparison("captions", _number(counts.captions), _number(expected.captions))
    bounds = expected.captions_an_image
    yield Comparison(
        "captions an image",
        _range((counts.fewest, counts.most)),
        NOT_KNOWN if bounds is None else _range(bounds),
    )
    for name, count in splits.items():
        wanted = None if expected.splits is None else expected.splits.get(name, 0)
        shown, is_close = _number(wanted), False
        if are_hashed and wanted:
            shown = f"about {shown}"
            is_close = abs(count - wanted) <= _chance(wanted, sum(splits.values()))
        yield Comparison(f"split {name}", _number(count), shown, is_close)
    found = "none asked for" if classes is None else _number(classes)
    yield Comparison("classes", found, _number(expected.classes))


def _chance(wanted: int, images: int) -> float:
    """Return how far a hash brings a split from its expected size, but once in 15,000 times."""
    return 4 * math.sqrt(wanted * max(1 - wanted / max(images, 1), 0)) + 1


def _number(value: int | None) -> str:
    return NOT_KNOWN if value is None else f"{value:,}"


def _range(bounds: tuple[int, int]) -> str:
    fewest, most = bounds
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
