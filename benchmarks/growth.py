"""What feeding and changing an embedded index costs, and how that grows with its size.

    python benchmarks/growth.py                              # 20,000 and 200,000 documents
    python benchmarks/growth.py --documents 20000 1000000

Documents come with ready-made vectors, and go through the engine alone: manifest and ledger are not
measured. Raw are the vectors and the texts. Beside it stand SQLite and NumPy, which write the same
documents as JSON and the same vectors, and nothing to search them by. Each size has a process of
its own, so that its memory is told apart.
"""

import argparse
import json
import math
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from made_up.documents import KINDS, Collection, make_collection
from made_up.installed import as_installed

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.operations import Delete, Operation, Update, Upsert

ROUNDS = 9
COLD = """
import sys, time
began = time.perf_counter()
import numpy as np
from pathlib import Path
from clipsearch.engine import EngineQuery
from clipsearch.engines.local.engine import LocalEngine
engine = LocalEngine.open(Path(sys.argv[1]))
vector = np.load(sys.argv[2])
assert engine.search(EngineQuery("hybrid", ("word5", "word7"), vector)).hits
first = time.perf_counter() - began
import resource
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(first, int(status["RssAnon"].split()[0]) / 1e3)
"""


def written() -> int:
    """Bytes that this process has written."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def apply(engine: LocalEngine, operations: list[Operation]) -> None:
    for outcome in engine.feed(operations):
        assert outcome.error is None, outcome.error
    engine.finish_feed()


def median(values: list[float]) -> float:
    return statistics.median(values)


def first_feed(folder: Path, collection: Collection, documents: list[Document]) -> dict[str, float]:
    count, dimension = collection.embeddings.shape
    raw = collection.raw_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    engine = LocalEngine.create(folder, IndexInfo(dimension))
    began, used, wrote = time.perf_counter(), time.process_time(), written()
    apply(engine, [Upsert(document) for document in documents])
    seconds, cpu, wrote = time.perf_counter() - began, time.process_time() - used, written() - wrote
    engine.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "documents/s": count / seconds,
        "documents a processor second": count / cpu,
        "bytes written of raw": wrote / raw,
        "disk of raw": disk(folder) / raw,
        "memory of the feed beyond its input, MB": peak / 1e3,
    }


def plainly(folder: Path, collection: Collection, documents: list[Document]) -> float:
    """Documents a second into SQLite and a file of vectors."""
    began = time.perf_counter()
    with sqlite3.connect(folder / "plain.sqlite") as database:
        database.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, document TEXT)")
        database.executemany(
            "INSERT INTO documents VALUES (?, ?)",
            ((each.id, json.dumps(each.to_json())) for each in documents),
        )
    database.close()
    collection.embeddings.tofile(folder / "plain.f32")
    return len(documents) / (time.perf_counter() - began)


def changes(folder: Path, collection: Collection) -> dict[str, float]:
    """What one change costs in a process of its own mind: open, change, end."""
    found: dict[str, float] = {}
    reader = LocalEngine.open(folder)
    queries = [replace(query, mode="hybrid") for query in collection.queries()]
    for query in queries:
        reader.search(query)
    document = next(collection.documents(3, 4))
    new = replace(document, id="new", embedding=collection.asked[0])
    kinds: dict[str, Callable[[int], Operation]] = {
        "one caption": lambda round: Update(document.id, captions=(f"a dog number {round}",)),
        "one addition": lambda round: Upsert(replace(new, id=f"new {round}")),
        "one deletion": lambda round: Delete(f"new {round}"),
    }
    for name, change in kinds.items():
        seconds, bytes_written, first, warm = [], [], [], []
        for round in range(ROUNDS):
            began, wrote = time.perf_counter(), written()
            engine = LocalEngine.open(folder)
            apply(engine, [change(round)])
            engine.close()
            seconds.append(time.perf_counter() - began)
            bytes_written.append((written() - wrote) / 1e6)
            query = queries[round]
            for times in (first, warm, warm):
                began = time.perf_counter()
                reader.search(query)
                times.append(time.perf_counter() - began)
        found[f"{name}, s"] = median(seconds)
        found[f"{name}, MB written"] = median(bytes_written)
        found[f"{name}, next query of an open engine / warm"] = median(first) / median(warm)
    began, wrote = time.perf_counter(), written()
    engine = LocalEngine.open(folder)
    apply(engine, [])
    engine.close()
    found["nothing changed, s"] = time.perf_counter() - began
    found["nothing changed, MB written"] = (written() - wrote) / 1e6
    return found


def cold(folder: Path, collection: Collection) -> dict[str, float]:
    """The first query of a new process, its start left out, and the memory that it has then."""
    np.save(folder.with_name("vector.npy"), collection.asked[0])
    command = [sys.executable, "-c", COLD, str(folder), str(folder.with_name("vector.npy"))]
    lines = [
        subprocess.run(
            command, capture_output=True, text=True, check=True, env=as_installed()
        ).stdout.split()
        for _ in range(5)
    ]
    return {
        "first query of a new process, s": median([float(line[0]) for line in lines]),
        "its memory beyond mapped files, MB": median([float(line[1]) for line in lines]),
    }


def replaced(folder: Path, collection: Collection, documents: list[Document]) -> dict[str, float]:
    """Disk after every third document was fed with another vector, twice, and a tenth deleted."""
    engine = LocalEngine.open(folder)
    for shift in (1, 2):
        apply(
            engine,
            [
                Upsert(replace(document, embedding=documents[place - shift].embedding))
                for place, document in enumerate(documents)
                if place % 3 == 0
            ],
        )
    apply(engine, [Delete(document.id) for document in documents[::10]])
    engine.close()
    return {"disk of raw, after changes": disk(folder) / (collection.raw_bytes() * 0.9)}


def measure(count: int, dimension: int, kind: str) -> dict[str, float]:
    collection = make_collection(count, dimension, kind)
    documents = list(collection.documents())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos.index"
        found = first_feed(folder, collection, documents)
        found["SQLite and NumPy, documents/s"] = plainly(Path(place), collection, documents)
        found |= cold(folder, collection)
        found |= changes(folder, collection)
        found |= replaced(folder, collection, documents)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(measure(asked.documents[0], asked.dimension, asked.kind)))
        return
    results = []
    for count in asked.documents:
        command = [sys.executable, __file__, "--alone", "--documents", str(count)]
        command += ["--dimension", str(asked.dimension), "--kind", asked.kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    grown = asked.documents[-1] / asked.documents[0]
    print(f"{'':52}" + "".join(f"{count:>12,}" for count in asked.documents) + "    exponent")
    for name in results[0]:
        values = [result[name] for result in results]
        line = f"{name:52}" + "".join(f"{value:12,.3f}" for value in values)
        if grown > 1 and min(values) > 0:
            line += f"{math.log(values[-1] / values[0]) / math.log(grown):12.2f}"
        print(line)


if __name__ == "__main__":
    main()
