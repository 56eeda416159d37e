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
    measured    what `clipsearch feed` measures and the index then ranks by: weight · share + cos

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
from clipsearch.relevance.calibration import LEARN_SPLIT
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.measures import MRR, graded_figures, ideal_grades
from clipsearch.relevance.mode_order import order_in
from clipsearch.relevance.query_weights import most_of
from clipsearch.relevance.runs import DEPTH, with_cosines
from clipsearch.relevance.sources import QuerySource, ask
from clipsearch.relevance.word_share import measured_share
from clipsearch.search.search import Search
from clipsearch.text import tokens
from finetune.evaluation.significance import (
    bootstrap_means,
    percentile_intervals,
    sign_flip_p_values,
)

SAMPLE = 300
FACTOR = 40.0
MODE_OF: dict[str, Mode] = {"bm25": "bm25", "vector": "vector"}
WAYS = ("bm25", "vector", "today", "share", "likelihood", "measured")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """What was measured on val: d', the cosine's weight as evidence, and that of a share."""

    apart: float
    evidence: float
    share: float


def learn(search: Search, collection: Collection, split: str) -> Learned:
    captioned = [
        row
        for row, each in enumerate(collection.documents)
        if each.captions and each.tags.get(SPLIT_COLUMN) == split
    ]
    chosen = np.random.default_rng(0).permutation(captioned)[:SAMPLE].tolist()
    captions = [(row, text) for row in chosen for text in collection.documents[row].captions]
    queries = caption_queries(collection, captions, search.info.language)
    own, others = [], []
    for query, cosine in with_cosines(search, collection, queries, ("hybrid",)):
        assert cosine is not None
        right = [collection.rows[id_] for id_ in query.right]
        own += cosine[right].tolist()
        others.append(np.delete(cosine, right))
    wrong = np.concatenate(others)
    distance, deviation = float(np.mean(own) - wrong.mean()), float(wrong.std())
    share = measured_share(search, (split,))
    if share is None:
        raise SystemExit(f"{search.engine.target}: too few images of the split {split}")
    return Learned(distance / deviation, max(0.0, distance) / deviation**2, share.weight)


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
        ("today", better), ("measured", better), ("measured", "today"))]  # fmt: skip
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
        reach = most_of(collection, words, removed)
        weights = {
            "today": Weights(0.1, 1.0),
            "share": Weights(1 / reach, 1.0),
            "likelihood": Weights(FACTOR / reach, learned.evidence),
            "measured": Weights(learned.share / reach, 1.0),
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
    names += ["today − better part, p", "measured − better part, p", "measured − today, p"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for index in options.indexes:
        print(measure(index, options.split, options.learn_split), flush=True)


if __name__ == "__main__":
    main()
