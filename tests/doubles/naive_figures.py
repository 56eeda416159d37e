"""The figures of retrieval from the whole matrix of scores in float64, a query at a time."""

import math

import numpy as np


def naive(queries, gallery, positives, ks):
    """Sort each query's whole row of scores, equal ones (to 1e-6) with the negatives first.

    `positives` are sets of rows of the gallery; a query without any counts nowhere.
    """
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    figures = {f"{name}@{k}": [] for name in ("mrr", "recall", "ndcg") for k in ks}
    first_ranks = []
    for row, wanted in zip(scores, positives, strict=True):
        if not wanted:
            continue
        order = sorted(range(len(row)), key=lambda j: (-row[j] + 1e-6 * (j in wanted), j in wanted))
        hits = [j in wanted for j in order]
        first = hits.index(True) + 1
        first_ranks.append(first)
        for k in ks:
            gain = sum(1 / math.log2(i + 2) for i, hit in enumerate(hits[:k]) if hit)
            ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(wanted))))
            figures[f"mrr@{k}"].append(1 / first if first <= k else 0)
            figures[f"recall@{k}"].append(any(hits[:k]))
            figures[f"ndcg@{k}"].append(gain / ideal)
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return means | {
        "mean_rank": float(np.mean(first_ranks)),
        "median_rank": float(np.median(first_ranks)),
        "queries": len(first_ranks),
        "pool": gallery.shape[0],
    }
