"""Of hits that look alike the best alone, with how many it stands for."""

from dataclasses import replace

import numpy as np

from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.ranked import Ranked
from finetune.errors import EngineError

UNKNOWN_LOOKS = (
    "an earlier version fed some of this index, so that it is not known which pictures look alike;"
    " run: clipsearch duplicates --mark"
)


def collapsed(collection: Collection, ranked: Ranked) -> Ranked:
    """Return the first of the rows of each look; `ranked` has all that was found, best first.

    Raises EngineError where the look of a row is not known.
    """
    looks = collection.looks(ranked.rows)
    if (looks == 0).any():
        raise EngineError(UNKNOWN_LOOKS)
    _, first, counts = np.unique(looks, return_index=True, return_counts=True)
    order = np.argsort(first)
    places = first[order]
    return replace(
        ranked,
        rows=ranked.rows[places],
        scores=ranked.scores[places],
        bm25=None if ranked.bm25 is None else ranked.bm25[places],
        cosine=None if ranked.cosine is None else ranked.cosine[places],
        more=counts[order] - 1,
    )
