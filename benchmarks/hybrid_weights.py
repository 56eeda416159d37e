"""How to weigh words and vector where nobody calibrated: candidates side by side, MRR@10.

    python benchmarks/hybrid_weights.py --shapes shapes     # the demo's
    clipsearch finetune shapes/captions.csv --model tiny --epochs 12 --out encoder
    clipsearch feed shapes/captions.csv --encoder encoder --index shapes.index
    python benchmarks/hybrid_weights.py shapes.index [MORE.index …] [--split test]

Each caption of the split test is asked while it is left out, as by `clipsearch evaluate --index`.
The candidates, where cos is the cosine, and share is bm25 over the most that it could reach, which
is Σ idf · (k1 + 1) over the query's words:

    today       0.1 · bm25 + cos
    share       share + cos
    likelihood  40 · share + (m − μ) / σ² · cos: m is the mean cosine of an image with its own
                captions, μ and σ are mean and deviation with the others'; 0 where m is below μ
    pairs       a · share + b · cos: Fisher's linear discriminant of right minus wrong, the wrong
                ones being the 10 nearest by words and the 10 nearest by vector; where it has a part
                below 0, the part that tells right from wrong better alone

What the last two need is measured on up to 300 images of the split val, each caption left out: the
encoder knows those of train by heart. A row an index; d' = (m − μ) / σ. Behind each mean difference
are the 95 % interval (images are drawn) and the p value of a sign-flip test.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.demo.shapes import write_shapes
from clipsearch.feed.columns import SPLIT_COLUMN
from clipsearch.modes import Mode, Weights
from clipsearch.ranking import inverse_document_frequency, most_bm25
from clipsearch.relevance.calibration import LEARN_SPLIT
from clipsearch.relevance.collection import Collection, Removed
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.measures import MRR, graded_figures, ideal_grades
from clipsearch.relevance.mode_order import order_in
from clipsearch.relevance.runs import DEPTH, with_cosines
from clipsearch.relevance.sources import QuerySource, ask
from clipsearch.search.search import Search
from clipsearch.text import tokens
from finetune.evaluation.significance import (
    bootstrap_means,
    percentile_intervals,
    sign_flip_p_values,
)

SAMPLE = 300
HARD = 10
FACTOR = 40.0
MODE_OF: dict[str, Mode] = {"bm25": "bm25", "vector": "vector"}
WAYS = ("bm25", "vector", "today", "share", "likelihood", "pairs")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """What was measured on val: d', the cosine's weight as evidence, and the pairs' weights."""

    apart: float
    evidence: float
    pairs: tuple[float, float]


def learn(search: Search, collection: Collection, split: str) -> Learned:
    captioned = [
        row
        for row, each in enumerate(collection.documents)
        if each.captions and each.tags.get(SPLIT_COLUMN) == split
    ]
    chosen = np.random.default_rng(0).permutation(captioned)[:SAMPLE].tolist()
    captions = [(row, text) for row in chosen for text in collection.documents[row].captions]
    queries = caption_queries(collection, captions, search.info.language)
    own, others, apart = [], [], []
    for query, cosine in with_cosines(search, collection, queries, ("hybrid",)):
        assert cosine is not None
        words, removed = tokens(query.text, search.info.language), query.removed or {}
        share = collection.bm25(words, removed) / most(collection, words, removed)
        parts = np.stack([share, cosine], axis=1).astype(np.float64)
        right = [collection.rows[id_] for id_ in query.right]
        wrong = np.setdiff1d(np.arange(len(collection)), right)
        own += cosine[right].tolist()
        others.append(cosine[wrong])
        nearest = [wrong[np.argsort(-parts[wrong, part])[:HARD]] for part in (0, 1)]
        apart.append(parts[right[0]] - parts[np.unique(np.concatenate(nearest))])
    wrong_cosines = np.concatenate(others)
    distance = float(np.mean(own) - wrong_cosines.mean())
    deviation = float(wrong_cosines.std())
    return Learned(
        distance / deviation, max(0.0, distance) / deviation**2, discriminant(np.concatenate(apart))
    )


def discriminant(apart: Values) -> tuple[float, float]:
    """Weights, 0 or more, of the two parts of right minus wrong, float64[n, 2]."""
    mean, second = apart.mean(axis=0), apart.T @ apart / len(apart)
    weights = np.linalg.solve(second, mean)
    if weights.min() <= 0:
        better = int(np.argmax(mean / np.sqrt(np.diag(second))))
        return (1.0, 0.0) if better == 0 else (0.0, 1.0)
    return float(weights[0]), float(weights[1])


def most(collection: Collection, words: Sequence[str], removed: Removed) -> float:
    """What bm25 would be where every word filled the shortest document."""
    counts = [collection.holding(word, removed) for word in words]
    idfs = [inverse_document_frequency(len(collection), count) for count in counts]
    return most_bm25(idfs)


def measure(index: str, split: str, learn_split: str) -> str:
    with Search.open(index) as search:
        asked = ask(search, QuerySource(split=split))
        assert asked.collection is not None
        learned = learn(search, asked.collection, learn_split)
        grades = rank(search, asked.collection, asked.queries, learned)
    ideal = ideal_grades([query.grades for query in asked.queries])
    values = {way: graded_figures(found, ideal)[MRR] for way, found in grades.items()}
    clusters = np.array([query.cluster for query in asked.queries])
    better = max(("bm25", "vector"), key=lambda way: values[way].mean())
    cells = [index, f"{len(asked.queries):,}", f"{len(asked.collection):,}", f"{learned.apart:.1f}"]
    cells += [f"{values[way].mean():.3f}" for way in WAYS]
    cells += [difference(values[way] - values[other], clusters) for way, other in (
        ("likelihood", better), ("pairs", better), ("pairs", "today"))]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def rank(
    search: Search,
    collection: Collection,
    queries: Sequence[JudgedQuery],
    learned: Learned,
) -> dict[str, npt.NDArray[np.int64]]:
    grades = {way: np.zeros((len(queries), DEPTH), np.int64) for way in WAYS}
    asked = with_cosines(search, collection, queries, ("hybrid",))
    for number, (query, cosine) in enumerate(asked):
        assert cosine is not None
        words = tokens(query.text, search.info.language)
        removed = query.removed or {}
        bm25 = collection.bm25(words, removed)
        reach = most(collection, words, removed)
        weights = {
            "today": Weights(0.1, 1.0),
            "share": Weights(1 / reach, 1.0),
            "likelihood": Weights(FACTOR / reach, learned.evidence),
            "pairs": Weights(learned.pairs[0] / reach, learned.pairs[1]),
        }
        for way in WAYS:
            mode = MODE_OF.get(way, "hybrid")
            order = order_in(mode, bm25, cosine, weights.get(way, Weights(1, 1)), DEPTH)
            ids = [collection.documents[row].id for row in order.rows.tolist()]
            grades[way][number, : len(ids)] = [query.grades.get(id_, 0) for id_ in ids]
    return grades


def difference(values: Values, clusters: npt.NDArray[np.int64]) -> str:
    column = values[:, np.newaxis]
    ((low, high),) = percentile_intervals(bootstrap_means(column, clusters))
    (p_value,) = sign_flip_p_values(column, clusters)
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}], {p_value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("indexes", nargs="*", metavar="INDEX")
    parser.add_argument("--split", default="test")
    parser.add_argument("--learn-split", default=LEARN_SPLIT, help="of the last two ways")
    parser.add_argument("--shapes", type=Path, metavar="DIR", help="write the images, and nothing")
    options = parser.parse_args()
    if options.shapes is not None:
        print(write_shapes(options.shapes))
        return
    names = ["index", "queries", "pool", "d'", *WAYS]
    names += ["likelihood − better part, p", "pairs − better part, p", "pairs − today, p"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for index in options.indexes:
        print(measure(index, options.split, options.learn_split), flush=True)


if __name__ == "__main__":
    main()
