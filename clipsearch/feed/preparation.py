"""What a feed settles with the index at first: columns, paths, and whose its vectors are."""

import os
from collections.abc import Sequence
from itertools import islice
from typing import TextIO

import click
import numpy as np

from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.columns import MetadataColumns, choose_columns
from clipsearch.feed.target import FeedTarget
from clipsearch.feed.vectors import first_vector
from finetune.errors import EncoderMismatchError, ImageError, UsageError
from finetune.manifest.manifest import Manifest
from finetune.read_ahead import closed_after

SAMPLE = 8
# Another program crops, scales and rounds a little otherwise; another encoder's vectors have a
# cosine of about 0.
LEAST_COSINE = 0.9


def prepare(
    target: FeedTarget,
    manifest: Manifest,
    *,
    tags: Sequence[str],
    numbers: Sequence[str],
    dates: Sequence[str],
) -> tuple[MetadataColumns, bool]:
    """Settle columns and paths with the index, making it at the first feed.

    Args:
        target: The index.
        manifest: That is fed.
        tags, numbers, dates: New columns to keep as that kind.

    Returns the columns, and whether this manifest's documents need absolute paths.
    """
    columns = choose_columns(
        manifest.columns(), target.columns, tags=tags, numbers=numbers, dates=dates,
        names_splits=manifest.names_splits,
    )  # fmt: skip
    vector = None if target.fingerprint else first_vector(manifest)
    if vector is None and not target.made_by:
        target.take_default_encoder()
    if target.made_by and vector is not None and target.is_new:
        _check_made_by(target.load_encoder(), manifest)
    if not target.fingerprint and vector is None:
        others = f"{target.index} takes no others: give some, or feed a new index with --encoder"
        mend = "name the encoder with --encoder" if target.is_new else others
        mend = "leave --vectors-of out" if target.made_by else mend
        raise UsageError(
            f"{manifest.path}: has no ready-made vectors (a column named embedding), so {mend}"
        )
    root = None if manifest.root is None else os.fspath(manifest.root.absolute())
    return columns, target.settle(columns, root, None if vector is None else vector.size)


def _check_made_by(encoder: Encoder, manifest: Manifest) -> None:
    """Compare the first vectors whose images are there with what the encoder makes of these.

    Raises EncoderMismatchError where the median cosine is below LEAST_COSINE. Nothing is known
    where no image is there.
    """
    cosines = _cosines(encoder, manifest)
    if cosines and float(np.median(cosines)) < LEAST_COSINE:
        raise EncoderMismatchError(
            f"--vectors-of {encoder.folder}: did not make the vectors of {manifest.path}: those of"
            f" its first {len(cosines)} images have a cosine of {float(np.median(cosines)):.2f} to"
            f" what it makes of them; name the encoder that did, or feed the images with --encoder"
        )


def _cosines(encoder: Encoder, manifest: Manifest) -> list[float]:
    cosines = []
    with closed_after(manifest.records()) as records:
        there = (each for each in records if each.image is not None and each.embedding is not None)
        for record in islice(there, SAMPLE):
            assert record.image is not None and record.embedding is not None
            if record.embedding.size != encoder.dimension:
                continue
            try:
                made = encoder.encode_images([record.image])[0]
            except ImageError:
                continue
            length = float(np.linalg.norm(record.embedding))
            cosines.append(float(made @ record.embedding) / length if length else 0.0)
    return cosines


def tell_new(target: FeedTarget, index: str, stream: TextIO | None) -> None:
    """Say on `stream`, standard error where None, that a feed makes an index, if it does."""
    if target.is_new:
        click.echo(f"New index: {index}", err=True, file=stream)


def tell_unknown_vectors(target: FeedTarget, stream: TextIO | None) -> None:
    """Say of a new index of ready-made vectors that it knows no encoder, if it does not.

    To be asked after `prepare`: only then it is known whether the default encoder was taken.
    """
    if not (target.fingerprint or target.made_by):
        click.echo(
            "The vectors are of no known encoder: texts find by words alone, until --vectors-of"
            " names the one that made them.",
            err=True,
            file=stream,
        )
