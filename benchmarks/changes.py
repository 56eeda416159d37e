"""What a feed of ready-made vectors costs: the first, an unchanged one, and one with one change.

    python benchmarks/changes.py                              # 20,000 and 200,000 documents
    python benchmarks/changes.py --sizes 20000 200000 1000000

A manifest is a CSV file (id, image, caption, class, year) beside a .npy of unclustered unit vectors
of 512 dimensions; captions are of ten words after Zipf. Each feed is `clipsearch feed` in a process
of its own, from its imports to its end. Beside it, in processes of their own:

    reading the manifest   parsed, with the digests that a feed compares by, and nothing else
    SQLite + numpy         csv.reader and numpy.load; a table of the rows, the vectors copied into
                           a .npy; a change is found by comparing all rows with the table's

Seconds are of the clock, "cpu" those of all threads of the process, "written" what the system
counted as written to the disk (/proc/self/io; nothing on a RAM disk), "raw" is vectors and text. A
feed with a change reads its manifest whole: "beyond reading" is what it takes more than that. The
exponent is that of growth from the smallest size to the largest: 1 is as the collection grows.
"""

import argparse
import contextlib
import csv
import json
import math
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made_up.installed import as_installed

DIMENSION = 512
VOCABULARY = 20_000
WORDS = 10
ROWS_AT_ONCE = 10_000
COLUMNS = ("id", "image", "caption", "class", "year")
Figures = dict[str, float]


# What is fed


@dataclass(frozen=True)
class MadeUp:
    """A manifest of made-up documents."""

    folder: Path
    count: int

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / "photos.csv"

    @property
    def raw_bytes(self) -> int:
        """Of vectors and text."""
        return self.path.stat().st_size + 4 * DIMENSION * self.count

    def write(self) -> None:
        """Make it anew."""
        chance = np.random.default_rng(0)
        vectors = np.lib.format.open_memmap(
            self.path.with_suffix(".npy"), "w+", np.float32, (self.count, DIMENSION)
        )
        for start in range(0, self.count, ROWS_AT_ONCE):
            part = chance.standard_normal((min(ROWS_AT_ONCE, self.count - start), DIMENSION))
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            vectors[start : start + len(part)] = part
        vectors.flush()
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._rows())

    def _rows(self) -> Iterator[tuple[object, ...]]:
        chance = random.Random(0)
        shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1)).tolist()
        words = [f"word{number}" for number in range(VOCABULARY)]
        for number in range(self.count):
            caption = " ".join(chance.choices(words, cum_weights=shares, k=WORDS))
            name = f"images/{number:07}.jpg"
            yield f"photo-{number:07}", name, caption, f"class {number % 30}", 2000 + number % 25

    def change_a_caption(self) -> None:
        """In the middle."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        middle = len(lines) // 2
        lines[middle] = lines[middle].replace("word", f"new{random.random()} word", 1)
        self.path.write_text("".join(lines), encoding="utf-8")

    def add_one(self) -> None:
        """At the end."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(("added", "images/added.jpg", "one more", "class 1", 2000))
        vector = np.zeros(DIMENSION, np.float32)
        vector[0] = 1
        self._append(vector)

    def delete_one(self) -> None:
        """The one that was added: a vector stays for each row."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        self.path.write_text("".join(lines[:-1]), encoding="utf-8")
        self._append(None)

    def _append(self, vector: np.ndarray | None) -> None:
        """A vector behind the others, or the last one away; the others stay where they are."""
        npy = self.path.with_suffix(".npy")
        with npy.open("r+b") as file:
            version = np.lib.format.read_magic(file)
            shape, order, kind = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            rows = shape[0] + (1 if vector is not None else -1)
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": order,
                      "shape": (rows, shape[1])}  # fmt: skip
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header)
            assert file.tell() == start and version == (1, 0)  # the header has room for both
            file.truncate(start + rows * shape[1] * kind.itemsize)
            if vector is not None:
                file.seek(0, 2)
                file.seek(start + shape[0] * shape[1] * kind.itemsize)
                file.write(vector.tobytes())


# In processes of their own


def feed_it(manifest: Path, index: Path) -> None:
    from clipsearch.cli import main

    with contextlib.suppress(SystemExit):
        main(["feed", str(manifest), "--index", str(index), "--prune", "--yes"])


def read_it(manifest: Path, index: Path) -> None:
    from finetune.manifest.manifest import Manifest

    with Manifest.open(manifest, digests=True) as found:
        assert len(found.digests.ids)


def peer(manifest: Path, index: Path) -> None:
    index.mkdir(exist_ok=True)
    database = sqlite3.connect(index / "rows.sqlite")
    database.execute(
        "CREATE TABLE IF NOT EXISTS photo (id PRIMARY KEY, image, caption, class, year)"
    )
    vectors = np.load(manifest.with_suffix(".npy"), mmap_mode="r")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        given = {row[0]: tuple(row) for row in rows}
    held = {row[0]: row for row in database.execute("SELECT * FROM photo")}
    different = [row for row in given.values() if held.get(row[0]) != row]
    database.executemany("INSERT OR REPLACE INTO photo VALUES (?, ?, ?, ?, ?)", different)
    database.executemany("DELETE FROM photo WHERE id = ?", ((id,) for id in held.keys() - given))
    database.commit()
    kept = index / "vectors.npy"
    if not kept.exists() or not np.array_equal(np.load(kept, mmap_mode="r"), vectors):
        np.save(kept, vectors)


WORKS: dict[str, Callable[[Path, Path], None]] = {"feed": feed_it, "read": read_it, "peer": peer}


def written_bytes() -> int:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:  # not on Linux
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def in_child(work: str, manifest: Path, index: Path) -> Figures:
    before, started, processor = written_bytes(), time.perf_counter(), time.process_time()
    WORKS[work](manifest, index)
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - processor,
        "written": written_bytes() - before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def child(work: str, made: MadeUp, index: Path) -> Figures:
    command = [sys.executable, __file__, "--child", work, str(made.path), str(index)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=as_installed(),
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


# Tables


def measure(made: MadeUp, index: Path) -> dict[str, Figures]:
    """The figures of each feed in turn, and of what stands beside it, by name."""
    found = {"first": child("feed", made, index)}
    found["first"]["disk"] = sum(f.stat().st_size for f in index.rglob("*") if f.is_file())
    found["nothing changed"] = child("feed", made, index)
    rows = index.with_name("peer")
    found["peer, first"] = child("peer", made, rows)
    found["peer, nothing changed"] = child("peer", made, rows)
    found["reading"] = child("read", made, index)
    for name, change in (
        ("one caption", made.change_a_caption),
        ("one addition", made.add_one),
        ("one deletion", made.delete_one),
    ):
        change()
        found[name] = child("feed", made, index)
        found[f"peer, {name}"] = child("peer", made, rows)
    return found


CHANGES = ("one caption", "one addition", "one deletion")


def show(made: MadeUp, found: dict[str, Figures]) -> None:
    raw, reading = made.raw_bytes, found["reading"]
    print(f"\n{made.count:,} documents, {raw / 1e6:,.0f} MB raw")
    titles = ("seconds", "cpu s", "rows/s", "written MB", "peak MB", "of the peer")
    print(f"{'':24}" + "".join(f"{title:>12}" for title in titles))
    for name, figures in found.items():
        beside = found.get(f"peer, {'first' if name == 'first' else name}")
        ratio = "" if beside is None else f"{figures['cpu'] / beside['cpu']:.1f}"
        print(
            f"{name:24}{figures['seconds']:12.2f}{figures['cpu']:12.2f}"
            f"{made.count / figures['seconds']:12,.0f}{figures['written'] / 1e6:12.2f}"
            f"{figures['peak'] / 1e6:12,.0f}{ratio:>12}"
        )
    first = found["first"]
    print(
        f"first feed: written {first['written'] / raw:.2f} x raw, disk {first['disk'] / raw:.2f} x"
    )
    for name in CHANGES:
        beyond = {key: found[name][key] - reading[key] for key in ("cpu", "seconds", "written")}
        print(
            f"{name}, beyond reading: {beyond['cpu']:.2f} s of cpu, {beyond['seconds']:.2f} s,"
            f" {beyond['written'] / 1e6:.2f} MB"
        )


def exponents(sizes: list[int], found: list[dict[str, Figures]]) -> Iterator[tuple[str, float]]:
    """Growth of the first feed's figures from the smallest size to the largest."""
    growth = math.log(sizes[-1] / sizes[0])
    for key in ("cpu", "written", "disk", "peak"):
        small, large = found[0]["first"][key], found[-1]["first"][key]
        if small and large:
            yield key, math.log(large / small) / growth


def ratios(count: int = 20_000) -> dict[str, float]:
    """Of processor time and of bytes, each the larger the better, for `check.py`."""
    with tempfile.TemporaryDirectory() as folder:
        made = MadeUp(Path(folder), count)
        made.write()
        raw = made.raw_bytes
        found = measure(made, Path(folder) / "photos.index")
    first = found["first"]
    return {
        "first feed: SQLite + numpy's cpu over ours": found["peer, first"]["cpu"] / first["cpu"],
        "first feed: raw bytes over those on the disk": raw / first["disk"],
        "first feed: raw bytes over those written": raw / max(1, first["written"]),
        "nothing changed: cpu of reading the manifest over ours": (
            found["reading"]["cpu"] / found["nothing changed"]["cpu"]
        ),
        "one caption: cpu of reading the manifest over ours": (
            found["reading"]["cpu"] / found["one caption"]["cpu"]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work, manifest, index = options.child
        print(json.dumps(in_child(work, Path(manifest), Path(index))))
        return
    found = []
    for count in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            made = MadeUp(Path(folder), count)
            made.write()
            found.append(measure(made, Path(folder) / "photos.index"))
            show(made, found[-1])
    if len(found) > 1:
        grown = ", ".join(f"{key} {value:.2f}" for key, value in exponents(options.sizes, found))
        print(
            f"\nexponents of the first feed, {options.sizes[0]:,} to {options.sizes[-1]:,}: {grown}"
        )


if __name__ == "__main__":
    main()
