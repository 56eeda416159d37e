"""Measure one encoder, or two side by side, on a split of a manifest. Without torch.

>>> options = EvaluateOptions(encoder=Path("encoder"), manifest=Path("photos.csv"))
>>> evaluate(options).measurements[0].figure("mrr@10").estimate
Estimate(value=0.88, low=0.86, high=0.9)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from clipsearch.encoder.encoder import Encoder
from clipsearch.evaluation.embeddings import (
    ALL_SPLITS,
    NO_CLASS,
    SplitImages,
    embed_images,
    read_split_images,
)
from clipsearch.evaluation.measures import (
    Batches,
    Retrieval,
    embed_captions,
    measure_classes,
    measure_retrieval,
)
from clipsearch.evaluation.predictions import Predictions
from clipsearch.recognition.classify import embed_classes, scale_of
from finetune.data.splits import hold_out_val
from finetune.errors import ManifestError, UsageError
from finetune.evaluation.intervals import RankedMeasurement, Sampling
from finetune.evaluation.zero_shot import TEMPLATES, check_templates
from finetune.figures import CLASS_CUTOFFS, cutoffs_with
from finetune.frames import DataFrame, FrameManifest, as_manifest
from finetune.manifest.class_labels import ClassLabels, read_class_labels
from finetune.manifest.cut_captions import cut_sentence
from finetune.manifest.formats.columns import ColumnNames, column_notes
from finetune.manifest.inputs import check_exists
from finetune.manifest.manifest import Manifest
from finetune.manifest.problems import Problem
from finetune.manifest.splits import SPLITS
from finetune.split_shares import DEFAULT_HOLD_OUT, DEFAULT_SHARES, shares_of

SPLIT_CHOICES = (*SPLITS, ALL_SPLITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What to measure, and how.

    Attributes:
        encoder: The encoder folder.
        manifest: Of any format that `Manifest.open` reads, or a pandas DataFrame, whose relative
            image paths are meant from the current folder.
        split: "train", "val", "test", or "all".
        against: Another encoder folder; differences are `encoder` minus `against`.
        images: Where relative paths are looked for last.
        image_column, caption_columns, id_column: Of a table whose names do not say it.
        in_batches: Also measure within batches of so many pairs.
        in_file_order: Make those batches as the pairs follow in the manifest, and count a last,
            smaller one; else they are drawn, and it is left out.
        ks: Cutoffs of the figures, beside 1, 5 and 10 (of classes also 3).
        zero_shot: Also classify: a metadata column, or a file (see finetune.manifest.class_labels).
        templates: Of the class prompts.
        sampling: Of intervals and p values; its seed also draws the batches.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that decode; None chooses, see `decode_ahead`.
        batch_size: Images or texts embedded at once.
        strict: Measure nothing where the manifest has any problem.
        split_shares: Of train, val and test, where the manifest names no splits.
        hold_out: Share of train that is the split val where there is none.
    """

    encoder: Path
    manifest: str | Path | DataFrame | FrameManifest
    split: str = "test"
    against: Path | None = None
    images: Path | None = None
    image_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    id_column: str | None = None
    in_batches: int | None = None
    in_file_order: bool = False
    ks: tuple[int, ...] = ()
    zero_shot: str | None = None
    templates: tuple[str, ...] = ()
    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    device: str = "cpu"
    workers: int | None = None
    batch_size: int = 32
    strict: bool = False
    split_shares: tuple[float, ...] = DEFAULT_SHARES
    hold_out: float = DEFAULT_HOLD_OUT

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        if self.split not in SPLIT_CHOICES:
            raise UsageError(f"--split {self.split}: take one of {', '.join(SPLIT_CHOICES)}")
        if self.in_batches is not None and self.in_batches < 2:
            raise UsageError(f"--in-batches {self.in_batches}: a batch needs at least 2 pairs")
        if self.in_file_order and self.in_batches is None:
            raise UsageError("--in-file-order is for batches: give their size with --in-batches")
        for k in self.ks:
            if k < 1:
                raise UsageError(f"--ks {k}: a cutoff must be at least 1")
        shares_of(self.split_shares)
        if not 0 <= self.hold_out < 1:
            raise UsageError(f"--hold-out {self.hold_out:g}: must be at least 0 and below 1")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 or more")
        if self.sampling.resamples < 1:
            raise UsageError(f"--resamples {self.sampling.resamples}: must be at least 1")
        if self.templates and self.zero_shot is None:
            raise UsageError("--template is for class prompts: name the classes with --zero-shot")
        if self.zero_shot is not None:
            check_templates(self.templates or TEMPLATES)


@dataclass(frozen=True, slots=True)
class EncoderEvaluation:
    """What was measured.

    Attributes:
        options: As asked.
        encoders: The encoder, and the one it was compared with.
        images: Measured.
        retrieval: None where only classes were measured.
        measurements: Text to image, image to text, the same in batches, zero-shot.
        templates: Of the class prompts that were used; empty without zero-shot.
        left_out: Images of the split without a readable image.
        problems: Of the whole manifest, in a line; empty where there are none.
        notes: Sentences for the user.
        predictions: Of the encoder (not of what it is compared with); None without zero-shot.
    """

    options: EvaluateOptions
    encoders: tuple[Encoder, ...]
    images: int
    retrieval: Retrieval | None
    measurements: tuple[RankedMeasurement, ...]
    templates: tuple[str, ...]
    left_out: tuple[Problem, ...]
    problems: str
    notes: tuple[str, ...]
    predictions: Predictions | None = None

    @property
    def complete(self) -> bool:
        """Whether every image and row could be used."""
        return not self.left_out and not self.problems

    def as_dict(self) -> dict[str, object]:
        """Return everything but the embeddings, for JSON."""
        sampling = self.options.sampling
        return {
            "encoder": _encoder_dict(self.encoders[0]),
            "against": _encoder_dict(self.encoders[1]) if len(self.encoders) == 2 else None,
            "manifest": str(self.options.manifest),
            "split": self.options.split,
            "images": self.images,
            "captions": 0 if self.retrieval is None else len(self.retrieval.data.captions),
            "distinct_captions": (
                0 if self.retrieval is None else len(self.retrieval.pool.captions)
            ),
            "templates": list(self.templates),
            "confidence": sampling.confidence,
            "resamples": sampling.resamples,
            "seed": sampling.seed,
            "measurements": [measurement.as_dict() for measurement in self.measurements],
            "left_out": [
                {"kind": each.kind, "where": each.where, "reason": each.reason}
                for each in self.left_out
            ],
            "problems": self.problems,
            "notes": list(self.notes),
        }


def _encoder_dict(encoder: Encoder) -> dict[str, object]:
    return {
        "folder": str(encoder.folder),
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
    }


def evaluate(options: EvaluateOptions, progress_stream: TextIO | None = None) -> EncoderEvaluation:
    """Embed the split and measure.

    Args:
        options: What to measure.
        progress_stream: Standard error where None.

    Raises:
        UsageError: A value that cannot work; --zero-shot names neither column nor file.
        EncoderError: An encoder folder is incomplete or changed.
        ManifestError: The split is empty, has no caption, or a single image.
    """
    options.check()
    options = replace(options, manifest=as_manifest(options.manifest))
    check_exists(as_manifest(options.manifest))
    folders = [options.encoder, *([options.against] if options.against is not None else [])]
    encoders = tuple(Encoder.load(folder, device=options.device) for folder in folders)
    notes = []
    if len(encoders) == 2 and encoders[0].fingerprint == encoders[1].fingerprint:
        notes.append("both folders hold the same encoder, so there is nothing to tell apart")
    with Manifest.open(
        options.manifest,
        images=options.images,
        strict=options.strict,
        split=shares_of(options.split_shares),
        columns=ColumnNames(options.image_column, options.caption_columns, options.id_column),
    ) as manifest:
        notes += column_notes(manifest.problems)
        held_out = hold_out_val([manifest], options.hold_out) if options.split == "val" else None
        notes += [] if held_out is None else [held_out.removesuffix(".")]
        labels = (
            None if options.zero_shot is None else read_class_labels(manifest, options.zero_shot)
        )
        images, left_out = read_split_images(manifest, options.split, labels)
        problems = manifest.problems.summary() if len(manifest.problems) else ""
    _check_images(images, options, labels)
    images, image_embeds, unreadable = embed_images(
        encoders,
        images,
        workers=options.workers,
        device=options.device,
        batch_size=options.batch_size,
        stream=progress_stream,
    )
    left_out += unreadable
    _check_images(images, options, labels, unreadable)
    retrieval = embed_captions(encoders, images, image_embeds)
    measurements: list[RankedMeasurement] = []
    if retrieval is not None:
        batches = (
            None
            if options.in_batches is None
            else Batches(options.in_batches, options.in_file_order)
        )
        measurements += measure_retrieval(
            retrieval, batches, options.sampling, cutoffs_with(options.ks)
        )
        notes += [*_cut_notes(retrieval, encoders), *_notes(retrieval, options.in_batches)]
    elif labels is not None:
        notes.append("fewer than two images have captions: only the classes are measured")
    templates = (options.templates or TEMPLATES) if labels is not None else ()
    predictions = None
    if labels is not None:
        class_embeds = [embed_classes(encoder, labels.names, templates) for encoder in encoders]
        measurements.append(
            measure_classes(
                image_embeds,
                class_embeds,
                images.classes,
                options.sampling,
                cutoffs_with(options.ks, CLASS_CUTOFFS),
            )
        )
        predictions = Predictions(
            images, image_embeds[0], labels.names, class_embeds[0], scale_of(encoders[0])[0]
        )
        without = int(np.count_nonzero(images.classes == NO_CLASS))
        if without:
            notes.append(f"{without:,} images have no class: they are not in the zero-shot figures")
    return EncoderEvaluation(
        options=options,
        encoders=encoders,
        images=len(images),
        retrieval=retrieval,
        measurements=tuple(measurements),
        templates=templates,
        left_out=tuple(left_out),
        problems=problems,
        notes=tuple(notes),
        predictions=predictions,
    )


def _check_images(
    images: SplitImages,
    options: EvaluateOptions,
    labels: ClassLabels | None,
    unreadable: Sequence[Problem] = (),
) -> None:
    """Raise ManifestError where there is nothing to rank."""
    where = f"{options.manifest}: of the images in the split {options.split}"
    why = ""
    if unreadable:
        why = f"; the first of {len(unreadable):,} that cannot be read: {unreadable[0].reason}"
    captioned = [captions for captions in images.captions if captions]
    if labels is not None:
        if not np.any(images.classes != NO_CLASS):
            raise ManifestError(f"{where}, none has a class in {labels.source}{why}")
        return
    more = "give more of them captions"
    if options.split != ALL_SPLITS:
        more = "choose another with --split, or --split all"
    if not captioned:
        raise ManifestError(
            f"{where}, none has a caption; {more}, or classify with --zero-shot{why}"
        )
    if len(captioned) == 1:
        raise ManifestError(
            f"{where}, only one has a caption: a pool of one image ranks nothing; {more}{why}"
        )


def _cut_notes(retrieval: Retrieval, encoders: Sequence[Encoder]) -> Iterator[str]:
    captions = len(retrieval.data.captions)
    counts = zip(encoders, retrieval.cut, retrieval.alike, strict=True)
    for encoder, cut, alike in counts:
        sentence = cut_sentence(cut, captions, encoder.description.max_tokens, alike=alike)
        if sentence is not None:
            yield f"{encoder.folder}: {sentence}"


def _notes(retrieval: Retrieval, in_batches: int | None) -> list[str]:
    pool = retrieval.pool
    notes = []
    shared = int(np.count_nonzero(np.diff(pool.text_positives[0]) > 1))
    if shared:
        notes.append(
            f"{shared:,} captions belong to several images: each is one query, and any of its"
            f" images is right"
        )
    if len(pool.captions) == 1:
        notes.append("every image has the same caption, so any answer is right")
    if in_batches is not None and in_batches > pool.images:
        notes.append(f"there are only {pool.images:,} images: they are one batch")
    return notes
