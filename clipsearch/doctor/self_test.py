"""One second of real work in a temporary folder: encode, feed, query."""

import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipsearch.doctor.findings import Finding
from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.search.search import Search

NAMES = ("red", "green", "blue")
REPORT = "report this as a bug, with these lines"


def feed_and_query() -> Iterator[Finding]:
    """Feed three documents with ready-made vectors, and find them by words and by vector."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipsearch-doctor-") as folder:
        manifest, index = Path(folder) / "test.jsonl", str(Path(folder) / "test.index")
        vectors = np.eye(len(NAMES), dtype=np.float32)
        rows = [
            {"id": name, "caption": f"a {name} square", "embedding": vector.tolist()}
            for name, vector in zip(NAMES, vectors, strict=True)
        ]
        manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        report = feed(FeedOptions(manifest=manifest, index=index), progress_stream=io.StringIO())
        with Search.open(index) as search:
            by_words = [search.query(name, mode="bm25", k=1).hits[0] for name in NAMES]
            by_vector = [search.query(vector=vector, k=1).hits[0] for vector in vectors]
    found = [[hit.document.id for hit in hits] for hits in (by_words, by_vector)]
    seconds = time.monotonic() - started
    if report.fed != len(NAMES) or found != [list(NAMES)] * 2:
        said = f"fed {report.fed} of {len(NAMES)}, and found {found}"
        yield Finding("self-test", "red", said, REPORT)
    else:
        said = f"fed and found {len(NAMES)} documents in {seconds:.1f} s"
        yield Finding("self-test", "green", said)


def encode(folder: Path) -> Iterator[Finding]:
    """Load an encoder, check its files, and encode a text and an image."""
    encoder = Encoder.load(folder)
    preprocessing = encoder.preprocessing
    pixels = np.full((1, preprocessing.height, preprocessing.width, 3), 128, np.uint8)
    encoder.encode_texts(["a red square"])
    encoder.encode_pixels(pixels)
    started = time.monotonic()
    encoder.encode_texts(["two dogs on a beach"])
    between = time.monotonic()
    encoder.encode_pixels(pixels)
    ended = time.monotonic()
    yield Finding(
        "encoder",
        "green",
        f"{encoder.name} ({encoder.fingerprint[:12]}) in {folder}: a text in"
        f" {(between - started) * 1000:.0f} ms, an image in {(ended - between) * 1000:.0f} ms",
    )
