"""How long the commands take from a cold process, and what heavy modules they import.

    python benchmarks/startup.py                       # an index of 2,000 made-up documents
    python benchmarks/startup.py --index demo.index    # an index of yours, with its encoder
    python benchmarks/startup.py --documents 200000

Each command runs `--runs` times in a process of its own, after one run that warms the disk cache.
The median is held against the limit, and against a bare `python -c pass` of the same run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made_up.installed import as_installed

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert

HELP_LIMIT = 0.25
QUERY_LIMIT = 1.0
WORDS = [
    "red", "green", "blue", "white", "black", "small", "large", "two", "three", "circle",
    "square", "dog", "cat", "boat", "plane",
]  # fmt: skip

# Runs the command line, then names on standard error what it has imported.
IMPORTED = """
import sys
from clipsearch.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "pandas", "lancedb", "pyarrow", "onnxruntime", "tokenizers",
             "numpy", "rich", "PIL", "requests", "matplotlib"}
    print("imported:", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@dataclass(frozen=True)
class Case:
    """A command line and the seconds that it may take; None for no limit."""

    name: str
    arguments: list[str]
    limit: float | None


def seconds(command: list[str], runs: int) -> list[float]:
    taken = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=as_installed())
        taken.append(time.perf_counter() - start)
    return taken[1:]


def imported(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], check=True, capture_output=True, text=True
    )
    return done.stderr.rpartition("imported:")[2].strip()


def make_index(folder: Path, documents: int, encoder: Path | None) -> str:
    """An index of made-up captions and random unit vectors; with the encoder's own dimension."""
    random = np.random.default_rng(0)
    dimension, fingerprint = 512, None
    if encoder is not None:
        from finetune.encoder_folder import read_description

        description = read_description(encoder)
        dimension, fingerprint = description.dimension, description.fingerprint
    info = IndexInfo(
        dimension,
        encoder_fingerprint=fingerprint,
        encoder_path=None if encoder is None else str(encoder.resolve()),
        tag_columns=("class",),
    )
    engine = create_engine(str(folder / "index"), info)

    def operations() -> Iterator[Upsert]:
        for number in range(documents):
            vector = random.standard_normal(dimension).astype(np.float32)
            caption = " ".join(random.choice(WORDS, 8))
            tags = {"class": str(random.choice(WORDS))}
            vector /= np.linalg.norm(vector)
            name = f"{number:07}.jpg"
            yield Upsert(Document(name, (caption,), name, tags, {}, vector))

    refused = [outcome.error for outcome in engine.feed(operations()) if outcome.error]
    assert not refused, refused[:3]
    engine.finish_feed()
    engine.close()
    return str(folder / "index")


def first_id(index: str) -> str:
    from clipsearch.search.search import Search

    with Search.open(index) as search:
        return next(iter(search.engine.visit())).id


def cases(index: str, by_vector: bool) -> list[Case]:
    query = ["query", "two red circles", "--index", index]
    found = [
        Case("--help", ["--help"], HELP_LIMIT),
        Case("query --help", ["query", "--help"], None),
        Case("query --mode bm25", [*query, "--mode", "bm25"], QUERY_LIMIT),
        Case("query --mode bm25 --json", [*query, "--mode", "bm25", "--json"], QUERY_LIMIT),
        Case("similar", ["similar", first_id(index), "--index", index], QUERY_LIMIT),
    ]
    if by_vector:
        found += [
            Case("query --mode vector", [*query, "--mode", "vector"], QUERY_LIMIT),
            Case("query --mode hybrid", [*query, "--mode", "hybrid"], QUERY_LIMIT),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--index", help="an index that exists; one is made otherwise")
    parser.add_argument("--encoder", type=Path, help="encoder folder for the index that is made")
    parser.add_argument("--documents", type=int, default=2000, help="of the index that is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        by_vector = options.index is not None or options.encoder is not None
        index = options.index or make_index(Path(folder), options.documents, options.encoder)
        bare = statistics.median(seconds([sys.executable, "-c", "pass"], options.runs))
        print(f"{os.cpu_count()} cores, {options.runs} runs each; python -c pass: {bare:.3f} s\n")
        print(f"{'command':26} {'median':>8} {'max':>8} {'ratio':>6}  limit  imports")
        for case in cases(index, by_vector):
            taken = seconds([sys.executable, "-m", "clipsearch", *case.arguments], options.runs)
            median = statistics.median(taken)
            limit = "" if case.limit is None else f"{case.limit:.2f}"
            verdict = "" if case.limit is None else ("ok" if median <= case.limit else "ABOVE")
            print(
                f"{case.name:26} {median:7.3f}s {max(taken):7.3f}s {median / bare:5.1f}x"
                f"  {limit:4} {verdict:5}  {imported(case.arguments)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
