"""How to weigh words and vector where nobody calibrated: candidates side by side, MRR@10.

    python benchmarks/hybrid_weights.py --shapes shapes     # the demo's, two captions an image
    clipsearch finetune shapes/captions.csv --model tiny --epochs 12 --out encoder
    clipsearch feed shapes/captions.csv --encoder encoder --index shapes.index
    python benchmarks/hybrid_weights.py shapes.index [MORE.index …] [--split test]

Each caption of the split is asked while it is left out, as by `clipsearch evaluate --index`. The
candidates, where cos is the cosine, most = Σ idf · (k1 + 1) over the query's words, the most that
bm25 could reach, and m, μ, σ the mean cosine of an image with its own captions, and mean and
deviation with the others', over 300 images of the index:

    today       0.1 · bm25 + cos
    share       bm25 / most + cos
    likelihood  40 · bm25 / most + (m − μ) / σ² · cos, with a fraction of 0 where m is below μ

A row an index; d' = (m − μ) / σ tells how good the encoder is there. Behind each mean difference
are the 95 % interval (images are drawn) and the p value of a sign-flip test.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.demo.shapes import COUNTS, Scene, scenes, write_shapes
from clipsearch.modes import Mode, Weights
from clipsearch.ranking import BM25_K1, inverse_document_frequency
from clipsearch.relevance.collection import Collection, Removed
from clipsearch.relevance.judged_queries import JudgedQuery
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
FACTOR = 40.0
MODE_OF: dict[str, Mode] = {"bm25": "bm25", "vector": "vector"}
WAYS = ("bm25", "vector", "today", "share", "likelihood")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cosines:
    """Mean cosine of an image with its own captions; mean and deviation with those of others."""

    own: float
    others: float
    deviation: float

    @property
    def apart(self) -> float:
        """d': how many deviations lie between."""
        return (self.own - self.others) / self.deviation

    @property
    def weight(self) -> float:
        """What a cosine is worth as evidence; 0 where own captions are no nearer than others'."""
        return max(0.0, self.own - self.others) / self.deviation**2


def measure_cosines(search: Search, collection: Collection) -> Cosines:
    source = np.random.default_rng(0)
    captioned = [row for row, each in enumerate(collection.documents) if each.captions]
    chosen = source.permutation(captioned)[:SAMPLE].tolist()
    pairs = [(row, text) for row in chosen for text in collection.documents[row].captions]
    cosines = collection.cosines(search.encoder.encode_texts([text for _, text in pairs]))
    rows = np.array([row for row, _ in pairs])
    own = cosines[np.arange(len(rows)), rows]
    others = cosines[:, chosen][np.array(chosen) != rows[:, np.newaxis]]
    return Cosines(float(own.mean()), float(others.mean()), float(others.std()))


def most(collection: Collection, words: Sequence[str], removed: Removed) -> float:
    """What bm25 would be where every word filled the shortest document."""
    counts = [collection.holding(word, removed) for word in words]
    idfs = [inverse_document_frequency(len(collection), count) for count in counts]
    return sum(idfs) * (BM25_K1 + 1) or 1.0


def measure(index: str, split: str) -> str:
    with Search.open(index) as search:
        asked = ask(search, QuerySource(split=split))
        assert asked.collection is not None
        cosines = measure_cosines(search, asked.collection)
        grades = rank(search, asked.collection, asked.queries, cosines)
    ideal = ideal_grades([query.grades for query in asked.queries])
    values = {way: graded_figures(found, ideal)[MRR] for way, found in grades.items()}
    clusters = np.array([query.cluster for query in asked.queries])
    better = max(("bm25", "vector"), key=lambda way: values[way].mean())
    cells = [index, f"{len(asked.queries):,}", f"{len(asked.collection):,}", f"{cosines.apart:.1f}"]
    cells += [f"{values[way].mean():.3f}" for way in WAYS]
    cells += [
        difference(values["likelihood"] - values[other], clusters)
        for other in (better, "today", "share")
    ]
    return "| " + " | ".join(cells) + " |"


def rank(
    search: Search,
    collection: Collection,
    queries: Sequence[JudgedQuery],
    cosines: Cosines,
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
            "likelihood": Weights(FACTOR / reach, cosines.weight),
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


def write_shapes_in_other_words(folder: Path, seed: int = 0) -> Path:
    """The demo's images, each with a second caption that says the same in other words."""
    manifest = write_shapes(folder, seed)
    told = {f"images/{scene.file_name}": in_other_words(scene) for scene in scenes(seed)}
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            writer.writerow({**row, "caption": told[row["image"]]})
    return manifest


def in_other_words(scene: Scene) -> str:
    """Half of the words are those of the first caption."""
    number = {1: "a single", 2: "a pair of", 3: "three"}[scene.count]
    assert set(COUNTS) == {1, 2, 3}
    place = {"left": "west", "right": "east", "top": "upper edge", "bottom": "lower edge"}
    return f"{place[scene.position]}: {number} {scene.shape}, painted {scene.colour}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("indexes", nargs="*", metavar="INDEX")
    parser.add_argument("--split", default="test")
    parser.add_argument("--shapes", type=Path, metavar="DIR", help="write the images, and nothing")
    options = parser.parse_args()
    if options.shapes is not None:
        print(write_shapes_in_other_words(options.shapes))
        return
    names = ["index", "queries", "pool", "d'", *WAYS]
    names += [f"likelihood − {other}, p" for other in ("better part", "today", "share")]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for index in options.indexes:
        print(measure(index, options.split), flush=True)


if __name__ == "__main__":
    main()
