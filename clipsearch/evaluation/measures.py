"""From embeddings of a split to measurements: retrieval both ways, in batches, and classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder.encoder import Encoder
from clipsearch.evaluation.embeddings import NO_CLASS, SplitImages
from finetune.arrays import Float32, Int64
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.evaluation.intervals import RankedMeasurement, Sampling, measure
from finetune.evaluation.metrics import batch_ranks, batches_scope, query_figures
from finetune.evaluation.pool import Pool, pool_of, pool_ranks
from finetune.evaluation.zero_shot import class_figures, class_ranks
from finetune.figures import (
    CLASS_CUTOFFS,
    CUTOFFS,
    DIRECTIONS,
    ZERO_SHOT,
    Direction,
    retrieval_figures,
)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Captions and their images, embedded.

    Attributes:
        data: The n captioned images.
        pool: Their q distinct captions.
        text_embeds: Of each encoder, float32[q, d].
        image_embeds: Of each encoder, float32[n, d].
        cut: Captions that each encoder does not see to their ends.
        alike: Different captions that each encoder cannot tell from an earlier one.
    """

    data: CaptionedImages
    pool: Pool
    text_embeds: tuple[Float32, ...]
    image_embeds: tuple[Float32, ...]
    cut: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()

    def caption(self, query: int) -> str:
        """Return a distinct caption, as its first image has it."""
        return self.data.captions[int(self.pool.captions[query])]


def embed_captions(
    encoders: Sequence[Encoder], images: SplitImages, image_embeds: Sequence[Float32]
) -> Retrieval | None:
    """Embed the captions of the captioned images; return None where there are not two.

    Captions of different texts are different queries, also where an encoder cannot tell them
    apart: that is its fault, which the figures show.
    """
    captioned = np.array([row for row, texts in enumerate(images.captions) if texts], np.int64)
    if len(captioned) < 2:
        return None
    data = captioned_images(
        (images.ids[row], images.sources[row], images.captions[row]) for row in captioned
    )
    tokens = [encoder.tokenize(data.captions) for encoder in encoders]
    pool = pool_of(data)
    texts = [data.captions[row] for row in pool.captions]
    return Retrieval(
        data=data,
        pool=pool,
        text_embeds=tuple(encoder.encode_texts(texts) for encoder in encoders),
        image_embeds=tuple(embeds[captioned] for embeds in image_embeds),
        cut=tuple(each.cut for each in tokens),
        alike=tuple(data.alike(each.keys()) for each in tokens),
    )


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches to measure within.

    Attributes:
        size: Pairs in each.
        in_file_order: See `finetune.evaluation.metrics.in_batches`.
    """

    size: int
    in_file_order: bool = False


def measure_retrieval(
    retrieval: Retrieval,
    batches: Batches | None,
    sampling: Sampling,
    ks: tuple[int, ...] = CUTOFFS,
) -> list[RankedMeasurement]:
    """Measure both directions over the whole pool, and in batches where asked, at `ks`.

    Images are drawn, each with its captions; one that several images share goes with the first.
    """
    pool = retrieval.pool
    by_encoder = [
        pool_ranks(pool, texts, images, max(ks))
        for texts, images in zip(retrieval.text_embeds, retrieval.image_embeds, strict=True)
    ]
    indptr, indices = pool.text_positives
    measurements = []
    for side, (direction, (starts, _), candidates, clusters) in enumerate(
        (
            (DIRECTIONS[0], pool.text_positives, pool.images, indices[indptr[:-1]]),
            (DIRECTIONS[1], pool.image_positives, len(pool.captions), np.arange(pool.images)),
        )
    ):
        ranks = [both[side] for both in by_encoder]
        measurements.append(
            measure(
                direction,
                candidates,
                [_figures(each, np.diff(starts), ks) for each in ranks],
                [each[:, 0] for each in ranks],
                clusters,
                sampling=sampling,
            )
        )
    if batches is not None:
        measurements += [
            _measure_batches(retrieval, batches, direction, sampling, ks)
            for direction in DIRECTIONS
        ]
    return measurements


def _measure_batches(
    retrieval: Retrieval,
    batches: Batches,
    direction: Direction,
    sampling: Sampling,
    ks: tuple[int, ...],
) -> RankedMeasurement:
    texts, owners = retrieval.pool.pairs
    drawn = [
        batch_ranks(
            text_embeds[texts],
            image_embeds,
            owners,
            batch=batches.size,
            direction=direction,
            seed=sampling.seed,
            in_file_order=batches.in_file_order,
        )
        for text_embeds, image_embeds in zip(
            retrieval.text_embeds, retrieval.image_embeds, strict=True
        )
    ]
    ones = np.ones(len(drawn[0].images), np.int64)
    return measure(
        direction,
        drawn[0].pool,
        [_figures(each.ranks, ones, ks) for each in drawn],
        [each.ranks[:, 0] for each in drawn],
        drawn[0].images,
        scope=batches_scope(batches.size, in_file_order=batches.in_file_order),
        sampling=sampling,
    )


def _figures(
    ranks: Int64, counts: Int64, ks: tuple[int, ...]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return MRR and recall at every cutoff, nDCG at the last alone.

    At the first ones it says little more.
    """
    told = retrieval_figures(ks)
    figures = query_figures(ranks, counts, ks)
    return {name: values for name, values in figures.items() if name in told}


def measure_classes(
    image_embeds: Sequence[Float32],
    class_embeds: Sequence[Float32],
    classes: Int64,
    sampling: Sampling,
    ks: tuple[int, ...] = CLASS_CUTOFFS,
) -> RankedMeasurement:
    """Measure hits@k and reciprocal rank of each image's class among all.

    Args:
        image_embeds: Of each encoder, float32[n, d].
        class_embeds: Of each encoder, float32[c, d].
        classes: int64[n]; images with NO_CLASS are left out.
        sampling: How often is drawn.
        ks: Cutoffs.
    """
    known = np.flatnonzero(classes != NO_CLASS)
    ranks = [
        class_ranks(images[known], of_class, classes[known])
        for images, of_class in zip(image_embeds, class_embeds, strict=True)
    ]
    per_query = [class_figures(each, ks) for each in ranks]
    return measure(
        ZERO_SHOT, len(class_embeds[0]), per_query, ranks, np.arange(len(known)), sampling=sampling
    )
