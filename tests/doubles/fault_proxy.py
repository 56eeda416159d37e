"""A proxy that breaks what passes through it, before any Vespa, the stub's or a real one."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import requests
from vespa_stub import Request, StubVespa

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import ConnectionSettings
from clipsearch.operations import Delete, Operation, Update, Upsert

KINDS = ("503", "429", "502", "504", "reset", "lost", "half", "not-json")
SHARE = 0.3
PATIENT = ConnectionSettings(connections=8, search_patience=60, feed_patience=60)
IMAGES = 60


@dataclass
class FaultProxy(StubVespa):
    """Passes requests on to `target`, where no fault is chosen. See StubVespa for the faults."""

    target: str = ""

    def answer(self, request: Request) -> tuple[int, Any]:
        """What the target answers."""
        reply = requests.request(
            request.method,
            self.target + request.path,
            params=request.query,
            json=request.body,
            timeout=30,
        )
        try:
            return reply.status_code, reply.json()
        except ValueError:
            return reply.status_code, reply.text


def assert_nothing_lost_and_nothing_twice(target: str, model: Document) -> None:
    """Feed, update, search, visit and delete copies of `model` through faults, at `target`.

    Leaves the index as it was.
    """
    dice, lock = np.random.default_rng(11), threading.Lock()

    def choose(request: Request) -> str | None:
        with lock:
            return str(dice.choice(KINDS)) if dice.random() < SHARE else None

    ids = [f"fault/{number} é.jpg" for number in range(IMAGES)]
    upserts: list[Operation] = [
        Upsert(replace(model, id=id_, path=id_, captions=(f"unheardof number {number}",)))
        for number, id_ in enumerate(ids)
    ]
    updates: list[Operation] = [Update(id_, captions=("unheardof anew",)) for id_ in ids[::2]]
    direct = VespaEngine.open(target, PATIENT)
    before = direct.count()
    # An answer that comes byte by byte takes seconds: one of them is enough.
    with FaultProxy(target=target) as proxy:
        proxy.choose_fault = choose
        proxy.faults.append("slow")
        engine = VespaEngine.open(proxy.url, PATIENT)
        for operations in (upserts, updates):
            outcomes = list(engine.feed(operations))
            assert [outcome.error for outcome in outcomes] == [None] * len(operations)
            assert {id(one.operation) for one in outcomes} == {id(one) for one in operations}
        assert engine.count() == direct.count() == before + IMAGES
        query = EngineQuery("bm25", tokens=("unheardof",), k=100)
        page = engine.search(query)
        assert page.partial is None and page.total == IMAGES
        assert page.hits == direct.search(query).hits
        assert sorted(hit.document.id for hit in page.hits) == sorted(ids)
        seen = [one.id for one in engine.visit()]
        assert len(seen) == len(set(seen)) == before + IMAGES
        found = {one.id: one.captions for one in engine.get(ids) if one is not None}
        assert all(
            found[id_]
            == (("unheardof anew",) if not number % 2 else (f"unheardof number {number}",))
            for number, id_ in enumerate(ids)
        )
        outcomes = list(engine.feed([Delete(id_) for id_ in ids]))
        assert [outcome.error for outcome in outcomes] == [None] * IMAGES
        assert len(proxy.requests) > 4 * IMAGES * 1.2, "the faults were there"
    assert direct.count() == before
