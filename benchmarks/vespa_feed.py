"""Documents a second into Vespa's document API, by transport, against a stub that only answers.

    python benchmarks/vespa_feed.py                            # 10,000 documents, three rounds
    python benchmarks/vespa_feed.py --documents 2000 --rounds 1

The stub (benchmarks/servers/document_api.py) runs in a process of its own and speaks HTTP/1.1 and
HTTP/2. It answers at once; or takes 5 to 50 ms an answer, works on 64 requests at a time and lets
256 wait; or refuses with 429 what is over the 64; or fails one request in fifty with 503. Documents
have 512 dimensions and two captions. In each round all transports run one after the other; a rate
is the median of the rounds, the ratio the median of each round's own ratio to `vespa feed`.

    clipsearch         the engine as `clipsearch feed` runs it: JSON, kept connections, throttle,
                       outcomes, one process
    the whole command  `clipsearch feed` from reading a Parquet file to the last line of its ledger
    urllib3            the same feed over a pool of urllib3 instead
    requests           the same feed over a `requests` session instead
    pyvespa async      feed_async_iterable, HTTP/2, 64 workers
    vespa feed         of the package vespacli, HTTP/2, from a file that was written before

The tables are in benchmarks/README.md.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import urllib3
from requests.adapters import HTTPAdapter

from clipsearch.documents import Document, Embedding
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import (
    Body,
    Client,
    ConnectionFailedError,
    ConnectionSettings,
    PoolTransport,
    Reply,
    Transport,
)
from clipsearch.engines.vespa.operations import NAMESPACE, put_fields
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.operations import Upsert

DIMENSION = 512
STUB = Path(__file__).parent / "servers" / "document_api.py"
WANTED_AT_ONCE = 2500.0  # documents a second
WANTED_RATIO = 0.9  # of `vespa feed`
SETTINGS = ConnectionSettings()

SERVERS = {
    "at once": [],
    "5-50 ms, 64 at a time": ["--delay", "5,50"],
    "the same, 429 over 64": ["--delay", "5,50", "--waiting", "0"],
    "the same, 2 % fail": ["--delay", "5,50", "--failing", "0.02"],
}


@dataclass(frozen=True)
class Stub:
    """A running stub."""

    url: str

    def answered(self) -> int:
        """Requests answered 200 since last asked."""
        stats = requests.get(f"{self.url}/stats", timeout=10).json()
        return int(stats["answered"].get("200", 0))


@contextmanager
def running_stub(options: list[str]) -> Iterator[Stub]:
    command = [sys.executable, str(STUB), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Stub(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


class RequestsTransport:
    """`requests` with a pool of kept connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        size = SETTINGS.connections + 1
        self.session.mount("http://", HTTPAdapter(1, size, pool_block=True))

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`."""
        headers = {"Content-Type": content_type}
        try:
            answer = self.session.request(
                method, self.url + path, data=body, headers=headers, timeout=timeout
            )
        except requests.RequestException as error:
            raise ConnectionFailedError(str(error)) from error
        return Reply(answer.status_code, answer.content)

    def close(self) -> None:
        """See `Transport`."""
        self.session.close()


class Urllib3Transport:
    """`urllib3` with a pool of kept connections, which is what `requests` sits on."""

    def __init__(self, url: str) -> None:
        self.pool = urllib3.connection_from_url(url, maxsize=SETTINGS.connections + 1, block=True)

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`."""
        headers = {"Content-Type": content_type}
        try:
            answer = self.pool.urlopen(method, path, body, headers, retries=False, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionFailedError(str(error)) from error
        return Reply(answer.status, answer.data)

    def close(self) -> None:
        """See `Transport`."""
        self.pool.close()


@dataclass(frozen=True)
class Documents:
    """What is fed: made-up documents; the same as lines for `vespa feed`, and as Parquet."""

    embeddings: Embedding
    count: int
    path: Path
    manifest: Path

    @classmethod
    def make(cls, count: int, folder: Path) -> "Documents":
        """Make `count` of them; the file goes into `folder`."""
        vectors = np.random.default_rng(0).standard_normal((1000, DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        documents = cls(vectors, count, folder / "documents.jsonl", folder / "documents.parquet")
        with documents.path.open("w", encoding="utf-8") as file:
            for document in documents:
                put = f"id:{NAMESPACE}:image::{document.id}"
                file.write(json.dumps({"put": put, **_body(document)}) + "\n")
        rows = [
            {
                "image": document.id,
                "captions": list(document.captions),
                **document.tags,
                **document.numbers,
                "embedding": document.embedding,
            }
            for document in documents
        ]
        pq.write_table(pa.Table.from_pylist(rows), documents.manifest)
        return documents

    def __iter__(self) -> Iterator[Document]:
        for number in range(self.count):
            path = f"images/{number:06}.jpg"
            yield Document(
                path,
                ("two dogs run along a sandy beach", "dogs playing by the sea in summer"),
                path,
                tags={"class": "beach", "split": "train"},
                numbers={"year": float(2000 + number % 25)},
                embedding=self.embeddings[number % len(self.embeddings)],
            )


def _body(document: Document) -> dict[str, object]:
    assert document.embedding is not None
    return put_fields(document, places={"year": 1})


def through_engine(make: Callable[[str], Transport]) -> Callable[[str, Documents], float]:
    """Seconds of a feed through our engine over a transport."""

    def seconds(url: str, documents: Documents) -> float:
        engine = VespaEngine(Client(url, make(url), SETTINGS), IndexInfo(dimension=DIMENSION))
        start = time.perf_counter()
        for outcome in engine.feed(map(Upsert, documents)):
            assert outcome.error is None, outcome.error
        engine.close()
        return time.perf_counter() - start

    return seconds


def through_command(url: str, documents: Documents) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = FeedOptions(
            manifest=documents.manifest,
            index=url,
            ledger=Path(folder) / "ledger.sqlite",
            report=Path(folder) / "report.csv",
        )
        start = time.perf_counter()
        report = feed(options, io.StringIO())
    assert report.fed == documents.count, report
    return time.perf_counter() - start


def through_pyvespa(url: str, documents: Documents) -> float:
    from vespa.application import Vespa

    failures = []

    def look(answer: object, id_: str) -> None:
        if not answer.is_successful():  # type: ignore[attr-defined]
            failures.append(id_)

    start = time.perf_counter()
    Vespa(url=url).feed_async_iterable(
        ({"id": document.id, **_body(document)} for document in documents),
        schema="image",
        namespace=NAMESPACE,
        callback=look,
    )
    assert not failures, f"{len(failures)} lost"
    return time.perf_counter() - start


def through_vespa_feed(url: str, documents: Documents) -> float:
    """The client's own count of seconds, without its start."""
    vespa = Path(sys.executable).parent / "vespa"
    done = subprocess.run(
        [vespa, "feed", "--target", url, documents.path], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout[done.stdout.index("{") :])
    assert figures["feeder.ok.count"] == documents.count, done.stdout
    return float(figures["feeder.seconds"])


TRANSPORTS: dict[str, Callable[[str, Documents], float]] = {
    "clipsearch": through_engine(lambda url: PoolTransport(url, SETTINGS)),
    "the whole command": through_command,
    "urllib3": through_engine(Urllib3Transport),
    "requests": through_engine(RequestsTransport),
    "pyvespa async": through_pyvespa,
    "vespa feed": through_vespa_feed,
}


def measure(
    server: str, options: list[str], documents: Documents, rounds: int, transports: list[str]
) -> dict[str, list[float]]:
    """Documents a second of each transport, round by round; 0 where documents were lost."""
    rates: dict[str, list[float]] = {name: [] for name in transports}
    with running_stub(options) as stub:
        for number in range(rounds):
            # The machine's speed drifts: nobody is always the first.
            turn = number % len(transports)
            for name in transports[turn:] + transports[:turn]:
                try:
                    taken = TRANSPORTS[name](stub.url, documents)
                except AssertionError as lost:
                    print(f"{server}: {name}: {lost}", file=sys.stderr)
                    taken = float("inf")
                answered = stub.answered()
                if taken < float("inf"):
                    assert answered == documents.count, f"{name}: {answered} acknowledged"
                rates[name].append(documents.count / taken)
    return rates


def ratios(count: int = 4000) -> dict[str, float]:
    """Of `vespa feed`'s processor time over ours, against the stub that delays, for `check.py`."""
    names = ("clipsearch", "the whole command", "vespa feed")
    seconds = {}
    with tempfile.TemporaryDirectory() as scratch, running_stub(["--delay", "5,50"]) as stub:
        documents = Documents.make(count, Path(scratch))
        for name in names:
            before = processor_seconds()
            TRANSPORTS[name](stub.url, documents)
            seconds[name] = processor_seconds() - before
    return {f"{name}: vespa feed's cpu over ours": seconds[names[2]] / seconds[name]
            for name in names[:2]}  # fmt: skip


def processor_seconds() -> float:
    """Of this process and of the children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stub", action="append", choices=SERVERS, help="this one; or all")
    parser.add_argument(
        "--transport",
        action="append",
        choices=TRANSPORTS,
        help="this one; or all, beside vespa feed",
    )
    options = parser.parse_args()
    transports = [*dict.fromkeys([*(options.transport or TRANSPORTS), "vespa feed"])]
    met = True
    print(f"{os.cpu_count()} cores, {options.documents:,} documents of {DIMENSION} dimensions")
    print(f"{'stub':<24}{'transport':<18}{'documents/s':>12}{'of vespa feed':>15}")
    with tempfile.TemporaryDirectory() as scratch:
        documents = Documents.make(options.documents, Path(scratch))
        for server in options.stub or SERVERS:
            rates = measure(server, SERVERS[server], documents, options.rounds, transports)
            for name, found in rates.items():
                pairs = zip(found, rates["vespa feed"], strict=True)
                ratio = statistics.median(ours / theirs for ours, theirs in pairs)
                print(f"{server:<24}{name:<18}{statistics.median(found):>12,.0f}{ratio:>15.2f}")
                if name == "the whole command":
                    limits = {"at once": statistics.median(found) >= WANTED_AT_ONCE}
                    met = met and limits.get(server, ratio >= WANTED_RATIO)
    wanted = f"{WANTED_AT_ONCE:,.0f} documents/s at once, and {WANTED_RATIO} of vespa feed"
    print(f"wanted of the whole command: {wanted}: {'met' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
