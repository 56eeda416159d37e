"""Every image that has captions looks for them among all captions: several positives a query."""

from collections.abc import Sequence

import numpy as np

from finetune.evaluation.metrics import CHUNK, positive_ranks, summarize
from finetune.figures import CUTOFFS, Measurement


def image_to_text(
    texts: np.ndarray,
    images: np.ndarray,
    owners: np.ndarray,
    ks: Sequence[int] = CUTOFFS,
    *,
    chunk: tuple[int, int] = CHUNK,
) -> Measurement:
    """Arguments are those of `finetune.evaluation.metrics.text_to_image`."""
    captions = np.bincount(owners, minlength=len(images)).astype(np.int64)
    asked = np.flatnonzero(captions)
    indptr = np.concatenate([[0], np.cumsum(captions[asked])]).astype(np.int64)
    positives = indptr, np.argsort(owners, kind="stable").astype(np.int64)
    ranks = positive_ranks(images[asked], texts, positives, max(ks), chunk=chunk)
    return summarize("image-to-text", len(texts), ranks, captions[asked], ks)
