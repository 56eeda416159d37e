"""Seconds and peak memory of reading a manifest of 1,000,000 rows.

    python benchmarks/manifest.py                  # 1,000,000 images of one caption each
    python benchmarks/manifest.py --captions 5     # 200,000 images of five, rows shuffled

Every image exists on disk (as an empty file), so that looking for files is in the time. Each
reading runs in a process of its own, whose peak resident memory is the system's own count. The
baseline of the ratio is the standard library's reader of the same file, doing nothing else.
"""

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDERS = 1000
WORDS = ("a", "the", "dog", "cat", "river", "bridge", "red", "green", "old", "near", "under")


def rows(count: int, captions: int) -> Iterator[tuple[str, str, str]]:
    """(image, caption, category); rows of one image are not adjacent."""
    random_words = random.Random(0)
    images = max(count // captions, 1)
    for number in range(count):
        image = number % images
        text = " ".join(random_words.choices(WORDS, k=11))
        yield image_name(image), f"{text} {number}", f"class {image % 30}"


def image_name(image: int) -> str:
    return f"part-{image % FOLDERS:03}/image-{image:07}.jpg"


def write_csv(path: Path, count: int, captions: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "category"))
        writer.writerows(rows(count, captions))


def write_json_lines(path: Path, count: int, captions: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for image, caption, category in rows(count, captions):
            row = {"image": image, "caption": caption, "category": category}
            file.write(json.dumps(row) + "\n")


def write_karpathy(path: Path, count: int, captions: int) -> None:
    """An object an image; with several captions an image there are so many sentences in each."""
    images = max(count // captions, 1)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"dataset": "benchmark", "images": [')
        for number, (name, caption, _) in enumerate(rows(images, 1)):
            sentences = [
                {"raw": f"{caption} {n}", "tokens": caption.split()} for n in range(captions)
            ]
            image = {"filename": name, "imgid": number, "split": "train", "sentences": sentences}
            file.write((", " if number else "") + json.dumps(image))
        file.write("]}")


WRITERS: dict[str, tuple[str, Callable[[Path, int, int], None]]] = {
    "CSV": ("manifest.csv", write_csv),
    "JSON Lines": ("manifest.jsonl", write_json_lines),
    "Karpathy": ("manifest.json", write_karpathy),
}


def touch_images(folder: Path, images: int) -> None:
    for number in range(min(FOLDERS, images)):
        (folder / f"part-{number:03}").mkdir()
    for number in range(images):
        (folder / image_name(number)).touch()


def read_manifest(path: Path) -> dict[str, float]:
    """In the child: read it, stream its records once, and tell the figures."""
    from finetune.manifest.manifest import Manifest

    start, before = time.perf_counter(), time.process_time()
    with Manifest.open(path) as manifest:
        opened, processor = time.perf_counter() - start, time.process_time() - before
        start = time.perf_counter()
        captions = sum(len(record.captions) for record in manifest.records())
        streamed = time.perf_counter() - start
        return {
            "records": len(manifest),
            "captions": captions,
            "open": opened,
            "open cpu": processor,
            "stream": streamed,
            "megabytes": peak_megabytes(),
        }


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def read_baseline(path: Path) -> float:
    """Seconds of the standard library's reader; of ijson for Karpathy's, which is one line."""
    start = time.perf_counter()
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            for _ in csv.reader(file):
                pass
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for line in file:
                json.loads(line)
    else:
        import ijson

        with path.open("rb") as file:
            for _ in ijson.items(file, "images.item", use_float=True):
                pass
    return time.perf_counter() - start


def ratios(rows: int = 20_000) -> dict[str, float]:
    """Of the bare reader's processor time over ours, by format, for `check.py`."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        touch_images(folder, rows)
        for label, (file_name, write) in WRITERS.items():
            path = folder / file_name
            write(path, rows, 1)
            before = time.process_time()
            read_baseline(path)
            bare = time.process_time() - before
            child = [sys.executable, __file__, "--child", str(path)]
            read = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
            found[f"{label}: the bare reader's cpu over ours"] = bare / read["open cpu"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=1, help="captions an image")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(read_manifest(options.child)))
        return
    print(f"{options.rows:,} captions, {options.captions} an image")
    titles = ("MB", "open s", "stream s", "bare s", "ratio", "peak MB")
    print(f"{'format':12}" + "".join(f"{title:>9}" for title in titles))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        touch_images(folder, max(options.rows // options.captions, 1))
        for label, (file_name, write) in WRITERS.items():
            path = folder / file_name
            write(path, options.rows, options.captions)
            size = path.stat().st_size / 1e6
            bare = read_baseline(path)
            child = [sys.executable, __file__, "--child", str(path)]
            found = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
            path.unlink()
            assert found["captions"] == options.rows, found
            print(
                f"{label:12}{size:9.0f}{found['open']:9.1f}{found['stream']:9.1f}{bare:9.1f}"
                f"{found['open'] / bare:9.1f}{found['megabytes']:9.0f}"
            )


if __name__ == "__main__":
    main()
