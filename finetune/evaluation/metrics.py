"""How well captions find their images and images their captions, over a whole pool.

Scores are dot products of unit vectors, computed in blocks of queries by gallery, so that no
matrix of everything by everything is ever built. Imports without torch.

**Ties.** A candidate that is no positive and scores as much as a positive (to TIE_TOLERANCE, since
float32 sums depend on their order) ranks before it. An encoder that gives everything the same
vector therefore ranks last, not first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.errors import ClipsearchError
from finetune.figures import (
    CUTOFFS,
    GLOBAL,
    MEAN_RANK,
    MEDIAN_RANK,
    TEXT_TO_IMAGE,
    Direction,
    Measurement,
)

CHUNK = (1024, 8192)
TIE_TOLERANCE = 1e-6


def text_to_image(
    text_embeds: Float32,
    image_embeds: Float32,
    image_of_text: Int64,
    ks: Sequence[int] = CUTOFFS,
    *,
    chunk: tuple[int, int] = CHUNK,
) -> Measurement:
    """Let every caption look for its one image among all images.

    Args:
        text_embeds: Unit vectors, float32[t, d].
        image_embeds: Unit vectors, float32[n, d]; those without a caption are candidates too.
        image_of_text: Row of each caption's image, int64[t].
        ks: Cutoffs.
        chunk: Queries and candidates of a block of scores.

    Raises ClipsearchError where there is no caption or a vector is not finite.
    """
    positives = _check_pairs(text_embeds, image_embeds, image_of_text)
    indptr = np.arange(len(positives) + 1, dtype=np.int64)
    ranks = positive_ranks(text_embeds, image_embeds, (indptr, positives), 1, chunk=chunk)
    return summarize(TEXT_TO_IMAGE, len(image_embeds), ranks, np.diff(indptr), ks)


def in_batches(
    text_embeds: Float32,
    image_embeds: Float32,
    image_of_text: Int64,
    ks: Sequence[int] = CUTOFFS,
    *,
    batch: int = 64,
    direction: Direction = TEXT_TO_IMAGE,
    seed: int = 0,
    in_file_order: bool = False,
) -> Measurement:
    """Rank within batches only, as some published figures count; not to be mixed with them.

    One caption of every captioned image is drawn and the pairs are shuffled, both by `seed`.
    Each consecutive batch is a pool of its own in which the pair's other half is the only
    positive; a last, smaller batch is left out, unless it is the only one. With `in_file_order`
    each image's first caption is taken, the pairs stay as they are, and a last, smaller batch
    counts, in which ranks are better.
    """
    drawn = batch_ranks(
        text_embeds,
        image_embeds,
        image_of_text,
        batch=batch,
        direction=direction,
        seed=seed,
        in_file_order=in_file_order,
    )
    ones = np.ones(len(drawn.ranks), dtype=np.int64)
    scope = batches_scope(batch, in_file_order=in_file_order)
    return summarize(direction, drawn.pool, drawn.ranks, ones, ks, scope=scope)


@dataclass(frozen=True, slots=True)
class BatchRanks:
    """Ranks of the pairs that `in_batches` draws.

    Attributes:
        ranks: int64[p, 1], of each pair's other half within its batch.
        images: int64[p], row of each pair's image.
        texts: int64[p], row of each pair's caption.
        pool: Pairs in a batch, but for a last, smaller one.
    """

    ranks: Int64
    images: Int64
    texts: Int64
    pool: int


def batch_ranks(
    text_embeds: Float32,
    image_embeds: Float32,
    image_of_text: Int64,
    *,
    batch: int = 64,
    direction: Direction = TEXT_TO_IMAGE,
    seed: int = 0,
    in_file_order: bool = False,
) -> BatchRanks:
    """Return what `in_batches` takes its means over.

    Equal seeds draw equal pairs for any encoder.
    """
    if batch < 2:
        raise ValueError(f"a batch of {batch} has nothing to rank")
    owners = _check_pairs(text_embeds, image_embeds, image_of_text)
    texts = np.arange(len(owners), dtype=np.int64)
    if not in_file_order:
        texts = np.random.default_rng(seed).permutation(len(owners))
    images, first = np.unique(owners[texts], return_index=True)
    texts = texts[first]
    if not in_file_order:
        order = np.random.default_rng(seed + 1).permutation(len(images))
        images, texts = images[order], texts[order]
    size = min(batch, len(images))
    used = len(images) if in_file_order else len(images) - len(images) % size
    ranks = []
    for start in range(0, used, size):
        part = slice(start, min(start + size, used))
        pair = text_embeds[texts[part]], image_embeds[images[part]]
        queries, gallery = pair if direction == TEXT_TO_IMAGE else pair[::-1]
        own = np.arange(len(queries) + 1, dtype=np.int64)
        ranks.append(positive_ranks(queries, gallery, (own, own[:-1]), 1))
    return BatchRanks(np.concatenate(ranks), images[:used], texts[:used], size)


def batches_scope(batch: int, *, in_file_order: bool = False) -> str:
    """Return how figures within batches are named."""
    return f"in batches of {batch}" + (" in file order" if in_file_order else "")


def best_ranks(
    queries: Float32,
    gallery: Float32,
    positives: tuple[Int64, Int64],
    *,
    chunk: tuple[int, int] = CHUNK,
) -> Int64:
    """Return the rank, from 1, of each query's best positive: int64[q]. See `positive_ranks`."""
    return positive_ranks(queries, gallery, positives, 1, chunk=chunk)[:, 0]


def positive_ranks(
    queries: Float32,
    gallery: Float32,
    positives: tuple[Int64, Int64],
    most: int,
    *,
    chunk: tuple[int, int] = CHUNK,
) -> Int64:
    """Return the ranks, from 1, of each query's `most` best positives: int64[q, most], ascending.

    Args:
        queries: Unit vectors, float32[q, d].
        gallery: Unit vectors, float32[g, d].
        positives: `indptr` int64[q + 1] and `indices` int64[p]: those of query i are the gallery
            rows indices[indptr[i]:indptr[i + 1]], at least one, each once.
        most: Ranks that are wanted of a query; where it has fewer positives, the rest are 0.
        chunk: Queries and candidates of a block; memory is about 5 bytes for each pair of a block.

    Raises ClipsearchError where a vector is not finite.
    """
    _check_finite("query", queries)
    _check_finite("gallery", gallery)
    indptr, indices = positives
    counts = np.diff(indptr)
    if len(counts) != len(queries) or (counts < 1).any():
        raise ValueError("every query needs at least one positive")
    result = np.zeros((len(queries), most), dtype=np.int64)
    for start in range(0, len(queries), chunk[0]):
        rows = slice(start, min(start + chunk[0], len(queries)))
        own = slice(int(indptr[rows.start]), int(indptr[rows.stop]))
        result[rows] = _ranks_of_block(
            queries[rows], gallery, counts[rows], indices[own], most, chunk[1]
        )
    return result


def _ranks_of_block(
    queries: Float32, gallery: Float32, counts: Int64, positives: Int64, most: int, width: int
) -> Int64:
    """Return the `positive_ranks` of a block of queries.

    `positives` are those of all of them, one after the other.
    """
    row_of = np.repeat(np.arange(len(queries)), counts)
    # Only the best `most` positives of a query can have the ranks that are wanted.
    scores = _paired_scores(queries, gallery, row_of, positives)
    order = np.lexsort((-scores, row_of))
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < most
    thresholds = np.full((len(queries), most), np.inf, dtype=np.float32)
    thresholds[row_of[order][kept], place[kept]] = scores[order][kept] - TIE_TOLERANCE
    before = np.zeros((len(queries), most), dtype=np.int64)
    for start in range(0, len(gallery), width):
        block = queries @ gallery[start : start + width].T
        here = (positives >= start) & (positives < start + width)
        block[row_of[here], positives[here] - start] = -np.inf
        for column in range(min(most, int(counts.max()))):
            asked = np.flatnonzero(counts > column)
            part = block if len(asked) == len(block) else block[asked]
            above = part >= thresholds[asked, column, np.newaxis]
            before[asked, column] += np.count_nonzero(above, axis=1)
    ranks = before + np.arange(1, most + 1)
    ranks[np.arange(most) >= counts[:, np.newaxis]] = 0
    return ranks


def _paired_scores(queries: Float32, gallery: Float32, rows: Int64, columns: Int64) -> Float32:
    """Score (row, column) pairs in parts, since a query may have thousands of positives."""
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), CHUNK[1]):
        part = slice(start, start + CHUNK[1])
        scores[part] = np.einsum("pd,pd->p", queries[rows[part]], gallery[columns[part]])
    return scores


def summarize(
    direction: Direction,
    pool: int,
    ranks: Int64,
    counts: Int64,
    ks: Sequence[int] = CUTOFFS,
    *,
    scope: str = GLOBAL,
) -> Measurement:
    """Take the means of `query_figures`, and of the best positives' ranks."""
    best = ranks[:, 0]
    values = {name: float(each.mean()) for name, each in query_figures(ranks, counts, ks).items()}
    values |= {MEAN_RANK: float(best.mean()), MEDIAN_RANK: float(np.median(best))}
    return Measurement.of(direction, pool, len(best), values, scope)


def query_figures(
    ranks: Int64, counts: Int64, ks: Sequence[int] = CUTOFFS
) -> dict[str, npt.NDArray[np.float64]]:
    """Return what each query counts for in a measurement's means: `mrr@10` …, float64[q].

    Args:
        ranks: Of `positive_ranks`, int64[q, at least the largest cutoff or number of positives].
        counts: Positives of each query, int64[q].
        ks: Cutoffs.
    """
    best = ranks[:, 0]
    gains = np.zeros(ranks.shape)
    np.divide(1.0, np.log2(ranks + 1.0), out=gains, where=ranks > 0)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, max(ks) + 2)))])
    figures = {f"mrr@{k}": np.where(best <= k, 1.0 / best, 0.0) for k in ks}
    figures |= {f"recall@{k}": (best <= k).astype(np.float64) for k in ks}
    return figures | {
        f"ndcg@{k}": np.where(ranks <= k, gains, 0.0).sum(1) / ideal[np.minimum(counts, k)]
        for k in ks
    }


def _check_pairs(text_embeds: Float32, image_embeds: Float32, image_of_text: Int64) -> Int64:
    owners = np.asarray(image_of_text, dtype=np.int64)
    if len(owners) != len(text_embeds):
        raise ValueError(f"{len(text_embeds)} texts, but {len(owners)} rows of their images")
    if not len(owners):
        raise ClipsearchError("there is no caption to evaluate with; give a split that has some")
    if owners.min() < 0 or owners.max() >= len(image_embeds):
        raise ValueError(f"a text's image is none of the {len(image_embeds)} rows")
    return owners


def _check_finite(what: str, embeds: Float32) -> None:
    # Any comparison with NaN is false, which would rank a broken encoder first.
    bad = np.flatnonzero(~np.isfinite(embeds).all(axis=1))
    if len(bad):
        raise ClipsearchError(
            f"the {what} embedding in row {bad[0]} is not finite ({len(bad)} of {len(embeds)});"
            f" the encoder is broken, lower the learning rate or use fp32"
        )
