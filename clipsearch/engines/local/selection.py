"""The highest of many scores, without sorting or partitioning all of them."""

import numpy as np
import numpy.typing as npt

from clipsearch.ranking import RowNumbers

_STRIDE = 61
# More than were asked for are taken rather than looked again.
_ENOUGH = 1.2


def highest(
    scores: npt.NDArray[np.float32], count: int, *, above: float = 0.0, margin: float = 0.0
) -> RowNumbers:
    """Return the places, ascending, that hold the `count` highest scores, and few others.

    Args:
        scores: float32[n].
        count: How many are wanted; all there are where there are fewer.
        above: Only scores above this count.
        margin: Those that are lower than the last by no more than this are there as well.
    """
    # A sample tells about how high the last of them is.
    sample = np.sort(scores[::_STRIDE])[::-1]
    place = int(count / _STRIDE * _ENOUGH) + 2
    while place < len(sample) and sample[place] > above:
        places = np.flatnonzero(scores >= sample[place] - np.float32(margin))
        if len(places) >= count and np.count_nonzero(scores[places] >= sample[place]) >= count:
            return places
        place *= 2
    return np.flatnonzero(scores > above)
