"""Documents that lost their embedding to a change of dimension or precision: counted, said, filled.

Vespa then keeps the documents, with captions and without embedding; see the stub's `change_field`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from config_server_stub import StubConfigServer
from vespa_stub import Request, StubVespa

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.options import DeployOptions
from clipsearch.engine import EngineQuery
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import ConnectionSettings
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.modes import Mode
from clipsearch.operations import Update
from clipsearch.search.search import Search
from finetune.errors import EngineError

DIMENSION, DOCUMENTS = 8, 6
NO_EMBEDDING = "have no embedding"


@dataclass
class Place:
    """A Vespa with six documents of ready-made vectors, and what is beside it."""

    vespa: StubVespa
    server: StubConfigServer
    folder: Path

    def deploy(self, **changes: Any) -> None:
        options = DeployOptions(
            config_server=self.server.url, index=self.vespa.url, dimension=DIMENSION, wait=5.0
        )
        done = deploy(
            replace(options, **changes), consent=lambda changes: True, say=lambda line: None
        )
        assert done is not None

    def manifest(self, numbers: range, dimension: int = DIMENSION) -> Path:
        vectors = np.eye(dimension).tolist()
        rows = [
            {"image": f"{n}.jpg", "caption": f"dog {n}", "embedding": vectors[n]} for n in numbers
        ]
        path = self.folder / "m.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    def feed(self, numbers: range = range(DOCUMENTS), **changes: Any) -> FeedReport:
        options = FeedOptions(
            manifest=self.manifest(numbers),
            index=self.vespa.url,
            ledger=self.folder / "ledger",
            report=self.folder / "report.csv",
        )
        return feed(replace(options, **changes))

    def engine(self) -> VespaEngine:
        return VespaEngine.open(self.vespa.url, ConnectionSettings(search_patience=0.2))

    def without(self) -> int:
        return self.engine().count_without_embedding()

    def notes(self, mode: Mode) -> list[str]:
        vector = None if mode == "bm25" else np.eye(DIMENSION, dtype=np.float32)[0]
        tokens = () if mode == "vector" else ("dog",)
        page = self.engine().search(EngineQuery(mode, tokens=tokens, vector=vector))
        return [note for note in page.notes if NO_EMBEDDING in note]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StubVespa(dimension=DIMENSION) as vespa, StubConfigServer() as server:
        server.on_activate = vespa.redeployed
        made = Place(vespa, server, tmp_path)
        made.deploy()
        assert made.feed().fed == DOCUMENTS
        yield made


def status(place: Place, *arguments: str) -> str:
    done = subprocess.run(
        [*CLIPSEARCH, "status", "--index", place.vespa.url, *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(place.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_well_before(place: Place) -> None:
    assert place.without() == 0 and place.notes("vector") == []
    assert not place.engine().info.may_lack_embeddings
    assert json.loads(status(place, "--json"))["without_embedding"] == 0
    assert NO_EMBEDDING not in " ".join(place.feed().notes)


def test_another_precision_is_said_and_the_next_feed_fills_it(place: Place) -> None:
    place.deploy(precision="bfloat16", allow=("field-type-change",))
    assert place.without() == DOCUMENTS == place.engine().count()
    assert json.loads(status(place, "--json"))["without_embedding"] == DOCUMENTS
    assert "6 (6 of them without an embedding" in status(place)
    modes: tuple[Mode, ...] = ("vector", "hybrid", "hybrid-rrf")
    for mode in modes:
        (note,) = place.notes(mode)
        assert note.startswith("6 documents have no embedding")
    assert place.notes("bm25") == []
    report = place.feed()
    assert (report.fed, report.unchanged) == (DOCUMENTS, 0)
    assert place.without() == 0 and not place.engine().info.may_lack_embeddings
    assert place.notes("vector") == []
    with Search.open(place.vespa.url) as search:
        (first,) = search.query(vector=np.eye(DIMENSION)[3], k=1).hits
    assert first.document.id == "3.jpg" and first.cosine == pytest.approx(1.0)


def test_what_the_manifest_does_not_have_stays_until_pruned(place: Place) -> None:
    place.deploy(precision="bfloat16", allow=("field-type-change",))
    report = place.feed(range(4))
    assert report.fed == 4 and place.without() == 2
    assert any("2 documents have no embedding" in note for note in report.notes), report.notes
    assert place.engine().info.may_lack_embeddings
    (note,) = place.notes("vector")
    assert note.startswith("2 documents have no embedding")
    pruned = place.feed(range(4), prune=True)
    assert (pruned.fed, pruned.removed, pruned.unchanged) == (0, 2, 4)
    assert place.without() == 0 and place.notes("vector") == []


def test_a_change_that_the_ledger_does_not_know_of_is_filled_too(place: Place) -> None:
    """The package deployed by other means: the index has the id that it had."""
    place.vespa.change_field(DIMENSION)
    assert len(place.notes("vector")) == 1, "nothing was found, so it was looked for why"
    report = place.feed()
    assert (report.fed, report.unchanged) == (DOCUMENTS, 0)
    assert any("6 documents had lost their embedding" in note for note in report.notes)
    assert place.without() == 0


def test_a_part_of_them_alone_is_fed_again(place: Place) -> None:
    for id_ in ("1.jpg", "4.jpg"):
        place.vespa.images()[id_].pop("embedding")
    report = place.feed()
    assert (report.fed, report.unchanged) == (2, 4)
    assert place.without() == 0


def test_an_update_of_such_a_document_keeps_it_counted(place: Place) -> None:
    place.vespa.change_field(DIMENSION)
    (outcome,) = place.engine().feed([Update("1.jpg", captions=("new",))])
    assert outcome.error is None and place.without() == DOCUMENTS


def test_an_answer_does_not_fail_for_want_of_the_count(place: Place) -> None:
    place.deploy(precision="bfloat16", allow=("field-type-change",))
    engine = place.engine()
    answer = place.vespa.answer

    def cut_short(request: Request) -> tuple[int, Any]:
        status, content = answer(request)
        if request.path == "/search/" and "approximate:false" in request.body["yql"]:
            content["root"]["coverage"].update(coverage=40, full=False)
        return status, content

    place.vespa.answer = cut_short  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="only 40 %"):
        engine.count_without_embedding()
    (note,) = engine.search(EngineQuery("hybrid", ("dog",), np.eye(8, dtype=np.float32)[0])).notes
    assert "some documents may have no embedding" in note and "could not be counted" in note
    shown = json.loads(status(place, "--json"))
    assert (shown["count"], shown["without_embedding"]) == (DOCUMENTS, None)
    assert "6 (how many are without an embedding could not be counted)" in status(place)
    assert place.feed().updated == DOCUMENTS, "a feed goes on as well"
