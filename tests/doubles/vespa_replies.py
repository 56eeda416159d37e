"""A Vespa engine over replies that a test gives, recorded ones among them."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.engine import (
    IndexInfo,
)
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import Body, Client, ConnectionSettings, Reply

SETTINGS = ConnectionSettings(connections=1, search_patience=0.05, feed_patience=0.05)
TARGET = "http://vespa.example:8080"
INFO = IndexInfo(dimension=64, column_order=("words", "year"))
EARLIER = IndexInfo(dimension=64, document_form=1)
Record = dict[str, Any]


class Mock:
    """A transport that answers with what it is given, in order; the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[str, str, Any]] = []

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        self.sent.append((method, path, json.loads(body) if isinstance(body, bytes) else None))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def close(self) -> None:
        pass


def engine_over(transport: Mock, info: IndexInfo = INFO) -> VespaEngine:
    return VespaEngine(Client(TARGET, transport, SETTINGS), info)


def reply_of(record: Record) -> Reply:
    response = record["response"]
    body = response["body"]
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(response["status"], data, response["headers"]["content-type"])


def records(recorded: Path, *files: str) -> list[Record]:
    found: list[Record] = []
    for name in files:
        found += json.loads((recorded / name).read_text(encoding="utf-8"))
    return [record for record in found if record.get("response")]


def by_name(recorded: Path, name: str) -> Record:
    both = records(recorded, "http-document-and-search.json", "http-faults.json")
    return next(record for record in both if record["name"] == name)


def unit_vector(seed: int = 1) -> Any:
    vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return vector / np.linalg.norm(vector)
