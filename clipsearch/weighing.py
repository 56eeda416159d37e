"""How words and image are weighed against each other, in one wording everywhere."""

from clipsearch.modes import Weights, WordShare
from clipsearch.ranking import BM25_K1

# What a caption of average length has of the word share, with each word of the query once.
WHOLE_MATCH = 1 / (BM25_K1 + 1)
_FIRST = 2.0


def weighted_sum_told(weights: Weights) -> str:
    """Return the weighted sum as a formula."""
    return f"{weights.bm25:.4g} × bm25 + {weights.vector:.4g} × cosine"


def share_sum_told(weight: float) -> str:
    """Return as a formula the sum of the word share, of this weight, and the cosine."""
    return f"{weight:.3g} × word share + cosine"


def order_told(share: WordShare) -> str:
    """Return which of the two comes first, by what each can add to a score, as it was measured.

    One comes first where it adds _FIRST times as much as the other. Where how far cosines lie apart
    was not measured, only what words add is told.
    """
    words = share.weight * WHOLE_MATCH
    adds = f"all words of a query in a caption add {words:.2g}"
    if share.apart is None:
        return adds
    image = max(share.apart, 0.0)
    if words >= _FIRST * image:
        first = "words of captions count first"
    elif image >= _FIRST * words:
        first = "what pictures show counts first"
    else:
        first = "words of captions and what pictures show count alike"
    fitting = f"{image:.2g}" if image else "nothing"
    return f"{first}: {adds}, a picture that fits adds {fitting}"
