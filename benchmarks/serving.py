"""Latency, throughput and memory of `clipsearch serve` under load, over real HTTP on this machine.

    python benchmarks/serving.py                                            # 200,000 documents
    python benchmarks/serving.py --documents 20000 --seconds 10 --requests 1000 --cache kept/

The index is made up (`made_up`, 512 dimensions), the text tower that of a ViT-B/32 with random
weights. Clients are threads of this process, each with a connection of its own, on the same cores
as the service. Three loads, one after the other:

1. Open loop: 50 clients, each a hybrid query a second whether or not the last was answered in
   time, texts drawn by Zipf from 1,000. Latency counts from when a query was due.
2. Closed loop: 50 clients, each asking again when it has its answer, every text new. Beside it the
   bare tower, on the same texts in batches of 64, before and after: the better of the two counts.
3. Memory of the service before and after so many requests of the first kind.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
from made_up.documents import VOCABULARY, make_collection

from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.operations import Upsert
from finetune.encoder_folder import read_description

DIMENSION = 512
CLIENTS = 50
TEXTS = 1000
TIMEOUT = 60.0
_BATCH = 64


def write_encoder(folder: Path) -> None:
    """A CLIP with the text tower of ViT-B/32 and a small image tower."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from finetune.export.encoder import export_encoder
    from finetune.models.dual_encoder import DualEncoder
    from finetune.models.tiny import tiny_clip

    tiny = tiny_clip(["a made-up picture"])
    text = tiny.model.config.text_config.to_dict() | {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": DIMENSION,
    }
    vision = tiny.model.config.vision_config.to_dict() | {"projection_dim": DIMENSION}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIMENSION)
    dual = DualEncoder(
        CLIPModel(config).eval(),
        tiny.tokenizer,
        tiny.preprocessing,
        max_tokens=77,
        base_model="random",
    )
    export_encoder(dual, folder)


def write_index(folder: Path, encoder: Path, documents: int) -> None:
    collection = make_collection(documents, DIMENSION, "unclustered")
    description = read_description(encoder)
    info = IndexInfo(
        DIMENSION,
        encoder_fingerprint=description.fingerprint,
        encoder_name=description.name,
        encoder_path=str(encoder.resolve()),
    )
    engine = LocalEngine.create(folder, info)
    for outcome in engine.feed(map(Upsert, collection.documents())):
        assert outcome.error is None, outcome.error
    engine.finish_feed()
    engine.close()


def new_texts(seed: int) -> Iterator[str]:
    """Texts of 3 to 12 words that were never asked for."""
    random = np.random.default_rng(seed)
    while True:
        words = random.integers(0, VOCABULARY, int(random.integers(3, 13)))
        yield " ".join(f"word{word}" for word in words)


@contextmanager
def served(index: Path, cache: Path) -> Iterator[tuple[int, int]]:
    """A service: its process and its port."""
    command = [sys.executable, "-m", "clipsearch", "serve", "--index", str(index), "--port", "0"]
    process = subprocess.Popen([*command, "--cache", str(cache)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        began = time.perf_counter()
        first = process.stderr.readline()
        address = re.search(r"http://\S+?(?= \()", first)
        assert address, first
        port = urlsplit(address.group()).port
        assert port is not None
        while ask(port, "/readyz") != 200:
            assert time.perf_counter() - began < 120
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, path: str) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        return status_of(connection, path)


def status_of(connection: HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def search_of(text: str) -> str:
    return f"/v1/search?text={quote(text)}&k=10"


def clients(number: int, work: Callable[[int], None]) -> None:
    """Run `work` in so many threads, and wait for all."""
    threads = [threading.Thread(target=work, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def open_loop(port: int, seconds: int, texts: Sequence[str]) -> tuple[list[float], int]:
    """Latencies from when each query was due, and how many had no answer of 200."""
    taken: list[float] = []
    failed: list[int] = []
    shares = 1 / np.arange(1, len(texts) + 1)
    shares /= shares.sum()
    began = time.perf_counter() + 0.5

    def client(place: int) -> None:
        random = np.random.default_rng(place)
        chosen = random.choice(len(texts), seconds, p=shares)
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            for number in range(seconds):
                due = began + number + place / CLIENTS
                time.sleep(max(0.0, due - time.perf_counter()))
                status = status_of(connection, search_of(texts[chosen[number]]))
                taken.append(time.perf_counter() - due)
                if status != 200:
                    failed.append(status)

    clients(CLIENTS, client)
    return taken, len(failed)


def closed_loop(port: int, seconds: float, seed: int) -> tuple[float, int]:
    """Answers a second, and how many were not 200."""
    until = time.perf_counter() + seconds
    answered: list[int] = []

    def client(place: int) -> None:
        texts = new_texts(seed + place)
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            while time.perf_counter() < until:
                answered.append(status_of(connection, search_of(next(texts))))

    began = time.perf_counter()
    clients(CLIENTS, client)
    rate = len(answered) / (time.perf_counter() - began)
    return rate, sum(status != 200 for status in answered)


def bare_rate(encoder: Encoder, seconds: float, seed: int) -> float:
    """Texts a second of the tower alone."""
    texts = new_texts(seed)
    encoder.encode_texts([next(texts) for _ in range(_BATCH)])
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += len(encoder.encode_texts([next(texts) for _ in range(_BATCH)]))
    return done / (time.perf_counter() - began)


def resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def many(port: int, requests: int, texts: Sequence[str]) -> int:
    """Ask so often; how many answers were not 200."""
    left = count()
    failed: list[int] = []

    def client(place: int) -> None:
        random = np.random.default_rng(100 + place)
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            while next(left) < requests:
                status = status_of(connection, search_of(texts[int(random.integers(len(texts)))]))
                if status != 200:
                    failed.append(status)

    clients(8, client)
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=30, help="of each load")
    parser.add_argument("--requests", type=int, default=10_000, help="between the two memories")
    parser.add_argument("--cache", type=Path, help="where encoder and index are kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.cache or Path(temporary)
        encoder, index = folder / "encoder", folder / f"made-up-{asked.documents}.index"
        if not encoder.exists():
            write_encoder(encoder)
        if not index.exists():
            write_index(index, encoder, asked.documents)
        loaded = Encoder.load(encoder)
        source = new_texts(1)
        texts = [next(source) for _ in range(TEXTS)]
        with served(index, folder / "thumbnails") as (process, port):
            open_loop(port, 3, texts)
            taken, failed = open_loop(port, asked.seconds, texts)
            before = bare_rate(loaded, asked.seconds / 3, 7)
            rate, refused = closed_loop(port, asked.seconds, 1000)
            bare = max(before, bare_rate(loaded, asked.seconds / 3, 8))
            many(port, 200, texts)
            held = resident_megabytes(process)
            wrong = many(port, asked.requests, texts)
            after = resident_megabytes(process)
    p50, p95, p99 = (1000 * float(np.percentile(taken, share)) for share in (50, 95, 99))
    print(f"| {asked.documents:,} documents, {os.cpu_count()} cores | |")
    print("|---|---|")
    print(
        f"| open loop, {CLIENTS} queries a second: p50, p95, p99, in ms"
        f" | {p50:.0f}, {p95:.0f}, {p99:.0f} |"
    )
    print(f"| … answers that were not 200, of {len(taken):,} | {failed} |")
    print(f"| closed loop, {CLIENTS} clients, new texts | {rate:.0f} a second, {refused} errors |")
    print(f"| … bare tower in batches of {_BATCH} | {bare:.0f} a second |")
    print(f"| … ratio | {rate / bare:.2f} |")
    print(f"| memory before, after {asked.requests:,} requests | {held:.0f}, {after:.0f} MB |")
    print(f"| … answers that were not 200 | {wrong} |")


if __name__ == "__main__":
    main()
