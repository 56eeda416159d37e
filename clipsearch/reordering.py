"""The first hits of a hybrid in another order: by the sum of their z-scores.

That needs the mean and the deviation of all of these hits, which no rank profile of Vespa can say;
so it is worked out where the query is asked, of both engines alike.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.ranking import Scores


@dataclass(frozen=True, slots=True)
class Reorder:
    """How the first hits of `hybrid` are put into another order, as it was learned.

    Attributes:
        bm25, vector: Weights of the z-scores of bm25 and cosine among these hits.
    """

    bm25: float
    vector: float

    @property
    def told(self) -> str:
        """The order with its weights, for people."""
        return f"z-scores ({self.bm25:.3g} × bm25 + {self.vector:.3g} × cosine)"

    def scores(self, bm25: Scores, cosine: Scores) -> npt.NDArray[np.float64]:
        """Score hits anew by their bm25 and cosines, float[n] each: float64[n]."""
        return self.bm25 * z_scores(bm25) + self.vector * z_scores(cosine)


def z_scores(scores: Scores) -> npt.NDArray[np.float64]:
    """Return (score - mean) / standard deviation; 0 where all are equal."""
    values = scores.astype(np.float64)
    if len(values) == 0 or values.min() == values.max():
        return np.zeros(len(values))
    standard: npt.NDArray[np.float64] = (values - values.mean()) / values.std()
    return standard
