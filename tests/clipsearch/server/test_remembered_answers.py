"""Answers are remembered while the index is as it was, and not a commit longer."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running_service import RunningService

from clipsearch.documents import Document
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import create_engine, open_engine
from clipsearch.operations import Delete, Operation, Upsert
from clipsearch.server import remembered_answers
from clipsearch.server.remembered_answers import EncodedAnswer, RememberedAnswers
from clipsearch.server.settings import ServerSettings

ASKED = "/v1/search?text=dog&mode=bm25"
VECTOR = np.array([1, 0, 0, 0], np.float32)


def upsert(id: str, caption: str) -> Upsert:
    return Upsert(Document(id, (caption,), "", {}, {}, VECTOR))


def write(engine: Engine, *operations: Operation) -> None:
    assert [each.error for each in engine.feed(operations)] == [None] * len(operations)
    engine.finish_feed()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningService]:
    index = str(tmp_path / "few.index")
    engine = create_engine(index, IndexInfo(4))
    write(engine, upsert("a", "a dog"), upsert("b", "a cat"))
    engine.close()
    with RunningService(ServerSettings(index, tmp_path / "cache")) as running:
        yield running


def found(running: RunningService, address: str = ASKED) -> list[str]:
    return [hit["id"] for hit in running.get(address).json()["hits"]]


def looked_up(running: RunningService, result: str) -> float:
    pattern = rf'^clipsearch_cache_total{{cache="answer",result="{result}"}} (\S+)$'
    (count,) = re.findall(pattern, running.get("/metrics").text, re.MULTILINE)
    return float(count)


def test_who_asks_the_same_is_answered_the_same(running: RunningService) -> None:
    first, again = running.get(ASKED), running.get(ASKED)
    assert (looked_up(running, "hit"), looked_up(running, "miss")) == (1, 1)
    assert again.content == first.content
    assert again.headers["ETag"] == first.headers["ETag"]
    same = running.get(ASKED, headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert found(running, "/v1/search?text=cat&mode=bm25") == ["b"]
    assert found(running, "/v1/images?k=1") == found(running, "/v1/images?k=1") == ["a"]


def test_a_change_by_another_process_is_in_the_next_answer(running: RunningService) -> None:
    assert found(running) == found(running) == ["a"]
    engine = open_engine(running.settings.index)
    write(engine, upsert("c", "a dog and a dog"))
    assert sorted(found(running)) == ["a", "c"]
    write(engine, Delete("a"))
    assert found(running) == found(running) == ["c"]
    engine.close()


def test_what_the_index_knows_counts_too(running: RunningService) -> None:
    assert found(running) == ["a"]
    missed = looked_up(running, "miss")
    engine = open_engine(running.settings.index)
    engine.change_info(lambda info: replace(info, bm25_weight=0.5))
    engine.close()
    running.service.search.refresh()
    assert found(running) == ["a"]
    assert looked_up(running, "miss") == missed + 1


def test_faults_are_not_remembered(running: RunningService) -> None:
    for _ in range(2):
        assert running.get("/v1/search?text=dog&mode=bm25&filter=no=1").status_code == 400
    assert looked_up(running, "hit") == 0


def test_vespa_is_asked_each_time(served_vespa: RunningService) -> None:
    served_vespa.get(ASKED)
    served_vespa.get(ASKED)
    assert (looked_up(served_vespa, "hit"), looked_up(served_vespa, "miss")) == (0, 0)


def answer(size: int) -> EncodedAnswer:
    return EncodedAnswer(b"x" * size, "tag")


def test_the_least_recently_asked_for_go() -> None:
    answers = RememberedAnswers(100)
    for name in "abc":
        answers.keep(1, name, answer(40))
        answers.get(1, "a")
    assert [answers.get(1, name) is not None for name in "abc"] == [True, False, True]
    answers.keep(1, "too large", answer(101))
    assert answers.get(1, "too large") is None
    answers.keep(2, "d", answer(40))
    assert answers.get(1, "d") is None
    assert answers.get(2, "a") is None
    for _ in range(9):
        answers.keep(2, "d", answer(60))
    answers.keep(2, "e", answer(40))
    assert answers.get(2, "d") and answers.get(2, "e")


def test_images_are_looked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = RememberedAnswers(100)
    answers.keep(1, "a", answer(40))
    assert answers.get(1, "a")
    monkeypatch.setattr(remembered_answers, "KEPT_SECONDS", -1.0)
    assert answers.get(1, "a") is None
