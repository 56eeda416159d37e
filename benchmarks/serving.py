"""Latency, throughput and memory of `clipsearch serve` under load, over real HTTP on this machine.

    python benchmarks/serving.py --cache kept/                              # 200,000 documents
    python benchmarks/serving.py --documents 20000 --seconds 10 --requests 1000 --cache kept/

The index is made up (`made_up`, 512 dimensions), the text tower that of a ViT-B/32 with random
weights; `--cache` keeps both for the next run. Clients are threads of this process, each with a
connection of its own, on the same cores as the service. Each row is printed when it is measured,
beside its goal, and no load lasts much longer than it should, however slow the machine is:

1. Open loop: 50 clients, each a hybrid query a second whether or not the last was answered in
   time, texts drawn by Zipf from 1,000. Latency counts from when a query was due, and what was not
   even sent when the time was up counts as late.
2. Closed loop: 50 clients, each asking again when it has its answer, every text new. By turns with
   it the bare tower, on such texts in batches of 64; a turn's ratio is to the bare tower before and
   after it.
3. Memory of the service before and after so many requests of the first kind.
4. The same as 1 on a copy of the index, while another process feeds it: whether an answer breaks,
   and how long after the feed its last document is found.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import numpy as np
from made_up.documents import made_up_captions, make_collection

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.operations import Upsert
from finetune.encoder_folder import read_description

DIMENSION = 512
CLIENTS = 50
TEXTS = 1000
TIMEOUT = 30.0
GRACE_SECONDS = 5
FED = 5000
NEW_WORD = "unheard"
MOST_A_SECOND = 200
MOST_P95 = 150.0
WARM_UP = 1  # another seed: what is measured does not begin with what was asked before
_BATCH = 64
TURNS = 4


def write_encoder(folder: Path) -> None:
    """A CLIP with the text tower of ViT-B/32 and a small image tower."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from finetune.export.encoder import export_encoder
    from finetune.models.dual_encoder import DualEncoder
    from finetune.models.tiny import tiny_clip

    tiny = tiny_clip(["the word of a picture"] * 2)
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
    """Texts that were never asked for: 3 to 6 words, drawn as those of the captions.

    The tokenizer cuts most words into five tokens, so that a text has as many as a caption of
    twice its words in CLIP's own.
    """
    random = np.random.default_rng(seed)
    known: set[str] = set()
    while True:
        for caption in made_up_captions(200, random):
            text = " ".join(caption.split()[: int(random.integers(3, 7))])
            if text not in known:
                known.add(text)
                yield text


@contextmanager
def served(index: Path, cache: Path) -> Iterator[tuple[int, int, float]]:
    """A service: its process, its port, and the seconds until it was ready."""
    command = [sys.executable, "-m", "clipsearch", "serve", "--index", str(index), "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--cache", str(cache)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        address = re.search(r"http://\S+?(?= \()", first)
        assert address, first
        port = urlsplit(address.group()).port
        assert port is not None
        while ask(port, "/readyz") != 200:
            assert time.perf_counter() - began < 120
            time.sleep(0.05)
        yield process.pid, port, time.perf_counter() - began
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


def answer(port: int, path: str) -> str:
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def from_memory(port: int) -> int:
    """Questions that were answered by an answer that was remembered."""
    counted = re.search(
        r'^clipsearch_cache_total\{cache="answer",result="hit"\} (\S+)$',
        answer(port, "/metrics"),
        re.MULTILINE,
    )
    assert counted
    return int(float(counted.group(1)))


def processor_seconds(process: int) -> float:
    """Of all threads of a process, since it began."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Effort:
    """Processor time of the service and of this process until now, and answers from memory."""

    service: float
    clients: float
    remembered: int

    @classmethod
    def until_now(cls, process: int, port: int) -> Self:
        """Look at the clocks of both processes and at the service's counts."""
        return cls(processor_seconds(process), time.process_time(), from_memory(port))

    def tell(self, since: Self, requests: int) -> None:
        """Print a row of what so many requests took since then."""
        service, clients = self.service - since.service, self.clients - since.clients
        row(
            "… ms of processor time each: service, load generator",
            f"{1000 * service / requests:.1f}, {1000 * clients / requests:.2f}",
        )
        row("… answered from memory", f"{(self.remembered - since.remembered) / requests:.0%}")


@dataclass
class Load:
    """What became of the requests of a load: milliseconds each took, and how many failed."""

    taken: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def ask(self, connection: HTTPConnection, path: str, due: float) -> None:
        """Ask, and count from when that was due."""
        try:
            status = status_of(connection, path)
        except (OSError, HTTPException) as error:
            connection.close()  # the next request opens it anew
            self.failed.append(type(error).__name__)
        else:
            if status != 200:
                self.failed.append(str(status))
        self.taken.append(1000 * (time.perf_counter() - due))

    @property
    def failures(self) -> str:
        """How many failed, and how."""
        kinds = ", ".join(f"{each} {count}" for each, count in Counter(self.failed).items())
        return f"{len(self.failed)} of {len(self.taken):,}" + (f" ({kinds})" if kinds else "")

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        return float(np.percentile(self.taken, share))


def open_loop(port: int, seconds: int, texts: Sequence[str], seed: int = 0) -> Load:
    """Ask CLIENTS times a second; what could not be sent in time is as late as the whole load."""
    load = Load()
    shares = 1 / np.arange(1, len(texts) + 1)
    shares /= shares.sum()
    began = time.perf_counter() + 0.5

    def client(place: int) -> None:
        random = np.random.default_rng([seed, place])
        chosen = random.choice(len(texts), seconds, p=shares)
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            for number in range(seconds):
                due = began + number + place / CLIENTS
                time.sleep(max(0.0, due - time.perf_counter()))
                if time.perf_counter() > began + seconds + GRACE_SECONDS:
                    load.taken.append(1000 * (time.perf_counter() - due))
                    load.failed.append("not sent in time")
                    continue
                load.ask(connection, search_of(texts[chosen[number]]), due)

    clients(CLIENTS, client)
    return load


def closed_loop(port: int, seconds: float, seed: int) -> tuple[float, Load]:
    """Answers a second, to CLIENTS that wait for each."""
    # Made before, more than any two cores can encode: the clock shows what is asked for alone.
    made = list(islice(new_texts(seed), int(MOST_A_SECOND * seconds)))
    texts = iter(made)  # next() of it is one step, which no other thread comes between
    load = Load()

    def client(_: int) -> None:
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            while (now := time.perf_counter()) < until and (text := next(texts, None)):
                load.ask(connection, search_of(text), now)

    began = time.perf_counter()
    until = began + seconds
    clients(CLIENTS, client)
    return (len(load.taken) - len(load.failed)) / (time.perf_counter() - began), load


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


def many(port: int, requests: int, texts: Sequence[str]) -> Load:
    """Ask so often, as fast as 8 clients can."""
    left = count()
    load = Load()

    def client(place: int) -> None:
        random = np.random.default_rng(100 + place)
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            while next(left) < requests:
                path = search_of(texts[int(random.integers(len(texts)))])
                load.ask(connection, path, time.perf_counter())

    clients(8, client)
    return load


def feed_more(index: str, told: Connection) -> None:
    """Feed FED new documents, a thousand a batch, and tell when the last is acknowledged."""
    vectors = np.random.default_rng(11).standard_normal((FED, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine = LocalEngine.open(Path(index))
    for start in range(0, FED, 1000):
        batch = (
            Upsert(Document(f"new/{place}.jpg", (f"a {NEW_WORD}{place}",), "", {}, {}, vector))
            for place, vector in enumerate(vectors[start : start + 1000], start)
        )
        assert all(outcome.error is None for outcome in engine.feed(batch))
    engine.finish_feed()
    told.send(time.time())
    engine.close()


def fed_under_way(
    index: Path, folder: Path, seconds: int, texts: Sequence[str]
) -> tuple[Load, float]:
    """The open loop beside a feed, and seconds from the feed's end until all of it is found."""
    copied = folder / "fed.index"
    shutil.copytree(index, copied)
    listening, told = multiprocessing.Pipe(duplex=False)
    feeding = multiprocessing.get_context("spawn").Process(
        target=feed_more, args=(str(copied), told)
    )
    with served(copied, folder / "thumbnails") as (_, port, _):
        found: list[float] = []

        def watch() -> None:
            feeding.start()
            path = f"/v1/search?mode=bm25&text={NEW_WORD}{FED - 1}"
            until = time.perf_counter() + 10 * seconds + 60
            while time.perf_counter() < until and not found:
                time.sleep(0.1)
                if json.loads(answer(port, path))["total"]:
                    found.append(time.time())

        open_loop(port, 3, texts, WARM_UP)
        watching = threading.Thread(target=watch)
        watching.start()
        load = open_loop(port, seconds, texts)
        watching.join()
        feeding.join(60)
    ended = listening.recv() if listening.poll(1) else float("nan")
    return load, max(0.0, found[0] - ended) if found else float("inf")


def row(what: str, measured: str, goal: str = "", holds: bool | None = None) -> None:
    """Print a row of the table, at once."""
    verdict = {None: "", True: "holds", False: "**fails**"}[holds]
    print(f"| {what} | {measured} | {goal} | {verdict} |", flush=True)


def tell_open_loop(load: Load, name: str, most_p95: float | None) -> None:
    shown = ", ".join(f"{load.percentile(share):.0f}" for share in (50, 95, 99))
    what = f"{name}: p50, p95, p99, in ms"
    if most_p95 is None:
        row(what, shown)
    else:
        row(what, shown, f"p95 below {most_p95:.0f}", load.percentile(95) < most_p95)
    row("… that failed", load.failures, "0", not load.failed)


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
        made(encoder, write_encoder)
        made(index, lambda place: write_index(place, encoder, asked.documents))
        measure(index, encoder, Path(temporary), asked.seconds, asked.requests)


def made(place: Path, make: Callable[[Path], None]) -> None:
    """Make what is not kept from an earlier run; what was stopped halfway is made anew."""
    if not place.exists():
        unfinished = place.with_name(f"unfinished-{place.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(place)


def beside_bare_tower(process: int, port: int, loaded: Encoder, seconds: int) -> None:
    """The closed loop and the bare tower by turns, since no machine stays as fast as it was."""
    rates, bare, ratios = [], [], []
    load = Load()
    used = processor_seconds(process)
    before = bare_rate(loaded, seconds / TURNS, 7)
    for turn in range(TURNS):
        rate, part = closed_loop(port, 2 * seconds / TURNS, 1000 + turn)
        after = bare_rate(loaded, seconds / TURNS, 8 + turn)
        load.taken += part.taken
        load.failed += part.failed
        rates.append(rate)
        bare.append((before + after) / 2)
        ratios.append(rate / bare[-1])
        before = after
    service = 1000 * (processor_seconds(process) - used) / len(load.taken)
    row(f"closed loop, {CLIENTS} clients, new texts, a second", f"{np.median(rates):.1f}")
    row("… ms of processor time of the service each", f"{service:.1f}")
    row("… that failed", load.failures, "0", not load.failed)
    row(f"… bare tower in batches of {_BATCH}, a second", f"{np.median(bare):.1f}")
    least, ratio, most = min(ratios), float(np.median(ratios)), max(ratios)
    shown = f"{ratio:.2f} ({least:.2f} to {most:.2f})"
    row(f"… ratio, median of {TURNS} turns", shown, "at least 0.8", ratio >= 0.8)


def measure(index: Path, encoder: Path, work: Path, seconds: int, requests: int) -> None:
    source = new_texts(1)
    texts = [next(source) for _ in range(TEXTS)]
    documents = LocalEngine.open(index).count()
    print(f"| {documents:,} documents, {os.cpu_count()} cores | measured | goal | |", flush=True)
    print("|---|---|---|---|", flush=True)
    loaded = Encoder.load(encoder)
    with served(index, work / "thumbnails") as (process, port, began):
        row("seconds until it is ready, encoder loaded", f"{began:.1f}", "below 3", began < 3)
        open_loop(port, 3, texts, WARM_UP)
        effort = Effort.until_now(process, port)
        load = open_loop(port, seconds, texts)
        tell_open_loop(load, f"open loop, {CLIENTS} queries a second", MOST_P95)
        Effort.until_now(process, port).tell(effort, len(load.taken))
        beside_bare_tower(process, port, loaded, seconds)
        many(port, 200, texts)
        held = resident_megabytes(process)
        began = time.perf_counter()
        load = many(port, requests, texts)
        pace = requests / (time.perf_counter() - began)
        after = resident_megabytes(process)
        row(
            f"MB before, after {requests:,} requests",
            f"{held:.0f}, {after:.0f}",
            "no growth",
            after < 1.1 * held,
        )
        row(f"… that failed, at {pace:.0f} a second", load.failures, "0", not load.failed)
    load, late = fed_under_way(index, work, seconds, texts)
    tell_open_loop(load, f"the same, while {FED:,} documents are fed", None)
    row("… seconds from its end until found", f"{late:.1f}", "a few", late < 5)


if __name__ == "__main__":
    main()
