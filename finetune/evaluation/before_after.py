"""What an encoder answers over a pool, small enough to keep until after training.

Ranks and first results of every query, and the cosines of a batch: with the answers before and
after training the run's images can be drawn without either model. Imports without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.evaluation.pool import Pool, pool_ranks

FOUND = 3
SAMPLED_IMAGES = 32
# Scores of so many pairs are held at once: 64 MB.
BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Answers:
    """Of an encoder, over a pool of q distinct captions and n images.

    Attributes:
        text_ranks: int64[q], from 1, of each caption's best image among the n.
        image_ranks: int64[n], from 1, of each image's best caption among the q.
        found: int64[q, min(n, 3)], the images that each caption finds first.
        wanted: int64[q], of each caption's own images the one that scores highest.
        sample_cosines: float32[b, c], of `sample_batch`'s images and captions.
    """

    text_ranks: Int64
    image_ranks: Int64
    found: Int64
    wanted: Int64
    sample_cosines: Float32

    @classmethod
    def of(
        cls,
        pool: Pool,
        text_embeds: Float32,
        image_embeds: Float32,
        ranks: tuple[Int64, Int64] | None = None,
    ) -> Self:
        """Rank the pool.

        Args:
            pool: q distinct captions and n images.
            text_embeds: float32[q, d], unit length.
            image_embeds: float32[n, d], unit length.
            ranks: What `finetune.evaluation.pool.pool_ranks` gave for these embeddings, if that is
            known.
        """
        by_text, by_image = ranks or pool_ranks(pool, text_embeds, image_embeds, 1)
        images, captions = sample_batch(pool)
        return cls(
            text_ranks=by_text[:, 0],
            image_ranks=by_image[:, 0],
            found=nearest(text_embeds, image_embeds, FOUND),
            wanted=best_positives(pool, text_embeds, image_embeds),
            sample_cosines=image_embeds[images] @ text_embeds[captions].T,
        )

    def as_arrays(self) -> dict[str, Any]:
        """Return all of it by name, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Return the inverse of `as_arrays`."""
        return cls(**arrays)


def sample_batch(pool: Pool, images: int = SAMPLED_IMAGES) -> tuple[Int64, Int64]:
    """Return a batch of the pool, the same for every encoder: images, and one caption of each.

    Returns:
        int64[b], images spread over the pool, and int64[c], distinct captions (0..q-1), at most
        one an image; fewer where images share one.
    """
    count = min(images, pool.images)
    chosen = np.linspace(0, pool.images - 1, count).astype(np.int64)
    indptr, captions = pool.image_positives
    first = captions[indptr[chosen]]
    return chosen, first[np.sort(np.unique(first, return_index=True)[1])]


def sample_positives(pool: Pool) -> npt.NDArray[np.bool_]:
    """Return bool[b, c]: which captions of `sample_batch` belong to which of its images."""
    images, captions = sample_batch(pool)
    indptr, owned = pool.image_positives
    return np.stack([np.isin(captions, owned[indptr[i] : indptr[i + 1]]) for i in images])


def nearest(queries: Float32, gallery: Float32, count: int) -> Int64:
    """Return the rows of `gallery` with the highest scores, best first: int64[q, min(g, count)].

    Of equal scores the lower row comes first.
    """
    count = min(count, len(gallery))
    found = np.empty((len(queries), count), np.int64)
    step = max(1, BLOCK // len(gallery))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ gallery.T
        # Those that tie with the last must all be there for the order to be the same everywhere.
        least = np.partition(scores, -count, axis=1)[:, -count, np.newaxis]
        for row, candidates in enumerate(scores >= least):
            rows = np.flatnonzero(candidates)
            order = np.argsort(-scores[row, rows], kind="stable")[:count]
            found[start + row] = rows[order]
    return found


def best_positives(pool: Pool, text_embeds: Float32, image_embeds: Float32) -> Int64:
    """Return the best-scored of each caption's own images, the first of equal: int64[q]."""
    captions, images = pool.pairs
    scores = np.empty(len(captions), np.float32)
    step = max(1, BLOCK // text_embeds.shape[1])
    for start in range(0, len(captions), step):
        part = slice(start, start + step)
        scores[part] = np.einsum(
            "pd,pd->p", text_embeds[captions[part]], image_embeds[images[part]]
        )
    order = np.lexsort((-scores, captions))
    best: Int64 = images[order[pool.text_positives[0][:-1]]]
    return best
