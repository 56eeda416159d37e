"""How sure figures are: bootstrap intervals, and a paired test between two encoders.

Queries about the same image are not independent, so whole clusters (an image with all its
captions) are drawn and flipped, never single queries. The pool that is searched stays as it is:
the intervals speak about other queries of the same kind, not about a larger or another pool.

Both follow Smucker, Allan and Carterette, "A comparison of statistical significance tests for
information retrieval evaluation" (CIKM 2007, doi 10.1145/1321440.1321528); the clustered bootstrap
is that of Field and Welsh (2007, doi 10.1111/j.1467-9868.2007.00593.x). Imports without torch.
"""

from collections.abc import Iterator

import numpy as np

from finetune.arrays import Float64, Int64

RESAMPLES = 2000
CONFIDENCE = 0.95

# Weights of so many (resample, cluster or query) pairs are held at once.
BLOCK = 4_000_000
# Sums in another order differ so much, relative to the sum of absolute values.
ROUNDING = 1e-12


def bootstrap_means(
    values: Float64, clusters: Int64 | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64:
    """Return means of the columns over clusters drawn with replacement: float64[resamples, m].

    Args:
        values: What each query counts for, float64[q, m], q at least 1. Columns share their
            draws, so that differences of the result's columns are paired.
        clusters: int64[q], equal for queries that are drawn together; None: each query alone.
        resamples: Draws, each of as many clusters as there are.
        seed: Equal seeds give equal draws.
    """
    labels, count = _numbered(clusters, len(values))
    sums = _sums(values, labels, count)
    sizes = np.bincount(labels, minlength=count).astype(np.float64)
    means = [
        (weights @ sums) / (weights @ sizes)[:, np.newaxis]
        for weights in _weights(count, count, resamples, seed)
    ]
    return np.concatenate(means)


def bootstrap_medians(
    values: Float64, clusters: Int64 | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64:
    """Return medians of the columns over the same draws: float64[resamples, m].

    See `bootstrap_means`.
    """
    labels, count = _numbered(clusters, len(values))
    order = np.argsort(values, axis=0, kind="stable")
    medians = []
    for weights in _weights(count, len(values), resamples, seed):
        columns = []
        for column, own in enumerate(order.T):
            # How often each value was drawn, ascending: the median is where half are reached.
            reached = np.cumsum(weights[:, labels[own]], axis=1)
            total = reached[:, -1:]
            lower = np.count_nonzero(reached <= (total - 1) // 2, axis=1)
            upper = np.count_nonzero(reached <= total // 2, axis=1)
            columns.append((values[own[lower], column] + values[own[upper], column]) / 2)
        medians.append(np.stack(columns, axis=1))
    return np.concatenate(medians)


def percentile_intervals(samples: Float64, confidence: float = CONFIDENCE) -> Float64:
    """Return low and high end of each column's interval, float64[m, 2], from samples float64[r, m].

    The percentile interval (Efron and Tibshirani 1993, chapter 13).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: take a share between 0 and 1, such as 0.95")
    tail = 50 * (1 - confidence)
    ends: Float64 = np.percentile(samples, [tail, 100 - tail], axis=0).T
    return ends


def sign_flip_p_values(
    differences: Float64,
    clusters: Int64 | None = None,
    *,
    permutations: int = RESAMPLES,
    seed: int = 0,
) -> Float64:
    """Return two-sided p values that the mean difference of each column is zero: float64[m].

    If the two encoders were the same, each cluster's differences were as likely to have the other
    sign. p is the share of sign patterns whose sum is at least as far from zero as the one that
    was found: of all patterns where there are no more than `permutations`, else of random ones
    and the one found, so that p is never below 1 / (permutations + 1) (Phipson and Smyth 2010,
    doi 10.2202/1544-6115.1585).

    Args:
        differences: Of each query, float64[q, m], q at least 1.
        clusters: int64[q], equal for queries whose signs flip together; None: each query alone.
        permutations: Random sign patterns.
        seed: Of the patterns.
    """
    labels, count = _numbered(clusters, len(differences))
    sums = _sums(differences, labels, count)
    # Clusters without any difference do not care for their sign.
    sums = sums[np.any(sums != 0, axis=1)]
    found = np.abs(sums.sum(axis=0)) - ROUNDING * np.abs(sums).sum(axis=0)
    exact = 2 ** len(sums) <= permutations if len(sums) < 63 else False
    patterns = _all_signs(len(sums)) if exact else _random_signs(len(sums), permutations, seed)
    as_far = np.zeros(differences.shape[1])
    for signs in patterns:
        as_far += np.count_nonzero(np.abs(signs @ sums) >= found, axis=0)
    p_values: Float64 = as_far / 2 ** len(sums) if exact else (as_far + 1) / (permutations + 1)
    return p_values


def _numbered(clusters: Int64 | None, queries: int) -> tuple[Int64, int]:
    """Return the clusters as numbers 0, 1, ..., and how many clusters there are."""
    if queries == 0:
        raise ValueError("there is no query to draw")
    if clusters is None:
        return np.arange(queries), queries
    if len(clusters) != queries:
        raise ValueError(f"{queries} queries, but {len(clusters)} clusters of theirs")
    names, labels = np.unique(clusters, return_inverse=True)
    return labels.astype(np.int64), len(names)


def _sums(values: Float64, labels: Int64, count: int) -> Float64:
    """Return the sums of the rows of each cluster, float64[count, m]."""
    columns = [np.bincount(labels, weights=column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1)


def _weights(count: int, width: int, resamples: int, seed: int) -> Iterator[Float64]:
    """Yield how often each of `count` clusters was drawn, float64[r, count], block after block.

    `width`: columns of what the caller makes of a block. The draws do not depend on it.
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: take at least 1")
    random = np.random.default_rng(seed)
    for rows in _blocks(resamples, max(count, width)):
        drawn = random.integers(0, count, size=(rows, count))
        drawn += count * np.arange(rows)[:, np.newaxis]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield weights.astype(np.float64)


def _all_signs(count: int) -> Iterator[Float64]:
    """Yield every pattern of signs, float64[2 ** count, count]."""
    patterns = np.arange(2**count)[:, np.newaxis] >> np.arange(count) & 1
    yield (1 - 2 * patterns).astype(np.float64)


def _random_signs(count: int, permutations: int, seed: int) -> Iterator[Float64]:
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: take at least 1")
    random = np.random.default_rng(seed)
    for rows in _blocks(permutations, count):
        drawn = random.integers(0, 2, size=(rows, count), dtype=np.int8)
        yield (1 - 2 * drawn).astype(np.float64)


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that make up `rows`, each block of at most BLOCK values."""
    most = max(1, BLOCK // max(1, width))
    for start in range(0, rows, most):
        yield min(most, rows - start)
