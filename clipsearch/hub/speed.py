"""How fast an image tower of a shape would be on this machine, without its weights.

One layer of random weights is run in NumPy, and its time multiplied by the layers: the products
of matrices, which are nearly all of a tower's time.
"""

import time
from functools import cache

import numpy as np

from clipsearch.hub.known import VisionShape

_HEAD_WIDTH = 64
_IMAGES = 2
_RUNS = 2


@cache
def images_per_second(shape: VisionShape) -> float:
    """Return images a second of a random tower of this shape: the better of two short runs."""
    made = np.random.default_rng(0)
    width, tokens = shape.width, shape.tokens
    # Scaled as a trained layer's are: what is too small for float32 would take many times as long.
    into, out = (
        made.standard_normal((width, 4 * width), np.float32) / np.float32(width) for _ in range(2)
    )
    heads = width // _HEAD_WIDTH
    images = made.standard_normal((_IMAGES * tokens, width), np.float32)
    best = float("inf")
    for _ in range(_RUNS):
        start = time.perf_counter()
        # Query, key, value and what joins them again are together as large as one of `into`.
        joined = images @ into
        query = joined[:, :width].reshape(_IMAGES, tokens, heads, _HEAD_WIDTH).transpose(0, 2, 1, 3)
        weights = query @ query.transpose(0, 1, 3, 2)
        np.exp(weights - weights.max(axis=-1, keepdims=True)) @ query
        hidden = images @ into
        hidden *= hidden > 0
        hidden @ out.T
        best = min(best, time.perf_counter() - start)
    return _IMAGES / (best * shape.layers)
