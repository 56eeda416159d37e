"""An index that an earlier version fed: right at once, and of today's form after the next feed."""

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image
from vespa_stub import Request, StubVespa, numbered_document

from clipsearch.documents import DOCUMENT_FORM, Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa import engine as vespa_engine
from clipsearch.engines.vespa import index_info
from clipsearch.engines.vespa.caption_words import WORDS, caption_words
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.filter_fields import (
    NUMBER_KEYS,
    TAG_VALUES,
    number_keys,
    places_of,
    tag_values,
)
from clipsearch.engines.vespa.http import connection
from clipsearch.engines.vespa.http.connection import ConnectionSettings, connect
from clipsearch.engines.vespa.index_info import change_info, read_info, write_info
from clipsearch.engines.vespa.operations import LOOK
from clipsearch.engines.vespa.searching import EARLIER_FORM
from clipsearch.engines.vespa.sortable import SORTABLE
from clipsearch.filtering import Filter, NumberFilter, TagFilter
from clipsearch.modes import MODES, Mode
from clipsearch.operations import Update, Upsert
from finetune.errors import EngineError

KEPT = Path(__file__).resolve().parents[3] / "fixtures" / "first-format"
SETTINGS = ConnectionSettings(connections=4, search_patience=2, feed_patience=2)
DOCUMENTS = 32
FIELDS = {TAG_VALUES, NUMBER_KEYS, SORTABLE, LOOK, WORDS}
FILTERS: tuple[tuple[Filter, ...], ...] = (
    (TagFilter("class", ("CIRCLE",)),),
    (TagFilter("class", ("circle",), exclude=True),),
    (TagFilter("place", ("cafe\u0301",)), NumberFilter("size", low=0.1)),
    (NumberFilter("size", low=99),),
)


@pytest.fixture
def vespa() -> Iterator[StubVespa]:
    """What the first release fed, on the schema that it deployed."""
    with StubVespa(dimension=24, filter_fields=False) as stub:
        for each in json.loads((KEPT / "vespa" / "documents.json").read_text(encoding="utf-8")):
            stub.documents[each["type"], each["id"]] = each["fields"]
        yield stub


def query(mode: Mode, filters: tuple[Filter, ...], k: int = 32) -> EngineQuery:
    vector = np.random.default_rng(1).standard_normal(24).astype(np.float32)
    return EngineQuery(
        mode,
        () if mode == "vector" else ("red", "circl"),
        None if mode == "bm25" else vector / np.linalg.norm(vector),
        k=k,
        filters=filters,
        candidates=5,
    )


def assert_all_right(vespa: StubVespa) -> None:
    places = places_of(VespaEngine.open(vespa.url, SETTINGS).info.column_order)
    for id_, fields in vespa.images().items():
        assert fields.get(TAG_VALUES, []) == tag_values(fields.get("tags", {})), id_
        numbers = fields.get("numbers", {})
        assert set(numbers) <= set(places)
        assert fields.get(NUMBER_KEYS, []) == number_keys(numbers, places), id_
        assert fields[WORDS] == caption_words(fields["captions"]), id_


def upgrade(vespa: StubVespa) -> int:
    engine = VespaEngine.open(vespa.url, SETTINGS)
    try:
        return engine.upgrade(lambda: None)
    finally:
        engine.close()


@pytest.mark.parametrize("mode", MODES)
def test_before_the_next_feed_filters_are_right_and_say_that_they_are_slow(
    vespa: StubVespa, mode: Mode
) -> None:
    engine = VespaEngine.open(vespa.url, SETTINGS)
    assert engine.info.document_form == 1
    before = [engine.search(query(mode, filters)) for filters in FILTERS]
    assert all(page.hits for page in before)
    assert all((EARLIER_FORM in page.notes) == (mode != "bm25") for page in before)
    asked = [one.body["yql"] for one in vespa.requests if one.path == "/search/"]
    assert all("approximate:false" in one for one in asked if "nearestNeighbor" in one)
    assert engine.search(query(mode, ())).notes == ()
    vespa.filter_fields = True
    upgrade(vespa)
    now = VespaEngine.open(vespa.url, SETTINGS)
    for filters, page in zip(FILTERS, before, strict=True):
        again = now.search(query(mode, filters))
        assert again.hits == page.hits and again.total == page.total and again.notes == ()


def test_a_feed_on_the_earlier_schema_says_to_deploy_again(vespa: StubVespa) -> None:
    held = json.dumps(list(vespa.documents.values()))
    with pytest.raises(
        EngineError, match=r"lacks some of the fields tag_values, number_keys.*: run"
    ) as error:
        upgrade(vespa)
    assert "clipsearch deploy again" in str(error.value) and "needs no --allow" in str(error.value)
    assert json.dumps(list(vespa.documents.values())) == held
    document = replace(numbered_document(0), embedding=query("vector", ()).vector)
    engine = VespaEngine.open(vespa.url, SETTINGS)
    with pytest.raises(EngineError, match="Mend it with: clipsearch deploy"):
        list(engine.feed([Upsert(document)]))


def test_an_upgrade_writes_the_fields_and_nothing_else(vespa: StubVespa) -> None:
    vespa.filter_fields = True
    before = {id_: dict(fields) for id_, fields in vespa.images().items()}
    assert upgrade(vespa) == DOCUMENTS
    assert_all_right(vespa)
    for request in vespa.writes():
        assert request.method == "PUT"
        assert set(request.body["fields"]) == FIELDS
    for id_, fields in vespa.images().items():
        assert {name: fields[name] for name in before[id_]} == before[id_]
        assert fields[SORTABLE] == {"cells": fields.get("numbers", {})}
        assert fields[LOOK] == fields.get("content", id_)
    info = VespaEngine.open(vespa.url, SETTINGS).info
    assert info.document_form == DOCUMENT_FORM and info.column_order == ("size", "year")
    vespa.requests.clear()
    assert upgrade(vespa) == 0
    assert vespa.writes() == []


def test_a_stopped_upgrade_goes_on_where_it_was(vespa: StubVespa) -> None:
    vespa.filter_fields = True
    put = Counter[str]()

    def full_after_ten(request: Request) -> str | None:
        put[request.method] += 1
        return "507" if request.method == "PUT" and put["PUT"] > 11 else None

    vespa.choose_fault = full_after_ten
    with pytest.raises(EngineError, match="External feed is blocked"):
        upgrade(vespa)
    done = sum(TAG_VALUES in fields for fields in vespa.images().values())
    assert 0 < done < DOCUMENTS
    assert VespaEngine.open(vespa.url, SETTINGS).info.document_form == 1, "still asked exactly"
    vespa.choose_fault = None
    vespa.requests.clear()
    assert upgrade(vespa) == DOCUMENTS - done
    assert len(vespa.writes()) == DOCUMENTS - done
    assert_all_right(vespa)


def test_a_document_that_another_feed_changes_meanwhile_is_right_in_the_end(
    vespa: StubVespa,
) -> None:
    vespa.filter_fields = True
    changed: list[str] = []

    def change_first(request: Request) -> None:
        """Another feed's update comes after the visit, and before our write."""
        if not changed and request.method == "PUT" and TAG_VALUES in request.body["fields"]:
            id_ = sorted(vespa.images())[3]
            changed.append(id_)
            tags = {"class": "quite another"}
            vespa.documents["image", id_] |= {"tags": tags, TAG_VALUES: tag_values(tags)}

    vespa.choose_fault = change_first
    assert upgrade(vespa) == DOCUMENTS
    assert changed
    assert_all_right(vespa)


def test_an_engine_that_was_open_before_finds_out(
    vespa: StubVespa, monkeypatch: pytest.MonkeyPatch
) -> None:
    vespa.filter_fields = True
    monkeypatch.setattr(vespa_engine, "UPGRADE_SECONDS", 0.0)
    engine = VespaEngine.open(vespa.url, SETTINGS)
    asked = query("vector", FILTERS[0])
    before = engine.search(asked)
    upgrade(vespa)
    after = engine.search(asked)
    assert (EARLIER_FORM in before.notes, EARLIER_FORM in after.notes) == (True, False)
    assert before.hits == after.hits


@pytest.fixture
def feeding(vespa: StubVespa, tmp_path: Path) -> subprocess.Popen[str]:
    """A feed of one new picture, just started, by the encoder that filled the index."""
    vespa.filter_fields = True
    Image.new("RGB", (8, 8), "red").save(tmp_path / "new.png")
    (tmp_path / "one.csv").write_text(
        "image,caption,depth\nnew.png,a red nothing,0.25\n", encoding="utf-8"
    )
    return start_feed(vespa, tmp_path)


def start_feed(vespa: StubVespa, folder: Path) -> subprocess.Popen[str]:
    encoder = os.fspath(KEPT / "encoder")
    arguments = ("feed", "one.csv", "--encoder", encoder, "--index", vespa.url, "--json")
    return subprocess.Popen(
        [*CLIPSEARCH, *arguments],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": os.fspath(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def upgraded(vespa: StubVespa) -> int:
    return sum(TAG_VALUES in fields for fields in vespa.images().values())


def test_the_next_feed_upgrades_whatever_its_manifest_has(
    vespa: StubVespa, feeding: subprocess.Popen[str]
) -> None:
    out, error = feeding.communicate(timeout=120)
    assert feeding.returncode == 0, error
    report = json.loads(out)
    assert report["fed"] == 1
    assert any(
        f"{DOCUMENTS} documents were brought to today's form" in one for one in report["notes"]
    )
    assert len(vespa.images()) == DOCUMENTS + 1
    assert_all_right(vespa)
    info = VespaEngine.open(vespa.url, SETTINGS).info
    assert (info.document_form, set(info.column_order)) == (
        DOCUMENT_FORM,
        {"depth", "size", "year"},
    )
    whole = [one for one in vespa.writes() if one.method == "POST"]
    assert len(whole) == 1, "no document but the new one was written whole"


def test_a_feed_killed_meanwhile_goes_on(
    vespa: StubVespa, feeding: subprocess.Popen[str], tmp_path: Path
) -> None:
    vespa.delay = 0.1
    throttled = threading.Semaphore(10)  # so many writes pass, and all others wait
    vespa.choose_fault = lambda request: (
        "503"
        if request.method == "PUT"
        and "/image/" in request.path
        and not throttled.acquire(blocking=False)
        else None
    )
    deadline = time.monotonic() + 60
    while upgraded(vespa) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    feeding.kill()
    feeding.communicate()
    assert upgraded(vespa) == 10
    assert VespaEngine.open(vespa.url, SETTINGS).info.document_form == 1, "still asked exactly"
    vespa.delay, vespa.choose_fault = 0.0, None
    again = start_feed(vespa, tmp_path)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    notes = json.loads(out)["notes"]
    assert any(f"{DOCUMENTS - 10} documents were brought to today's form" in one for one in notes)
    assert_all_right(vespa)


def test_status_says_that_an_earlier_version_fed_it(vespa: StubVespa) -> None:
    def told() -> str:
        command = [*CLIPSEARCH, "status", "--index", vespa.url]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    slow = "fed by an earlier version: queries with filters are slow"
    assert slow in told()
    vespa.filter_fields = True
    upgrade(vespa)
    assert slow not in told()


def test_earlier_versions_refuse_an_index_of_this_form(vespa: StubVespa) -> None:
    vespa.filter_fields = True
    upgrade(vespa)
    content = json.loads(vespa.documents["index_info", "index"]["content"])
    assert content["format_version"] == 2


# Changes of what the index knows, by two at once.

INFO = IndexInfo(dimension=8)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubVespa]:
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.01)
    with StubVespa(dimension=8) as vespa:
        write_info(connect(vespa.url), INFO)
        yield vespa


def with_column(number: int, column: str) -> Document:
    return replace(numbered_document(number), numbers={column: 1.0 + number, "year": 2000.0})


def test_two_feeders_that_number_columns_at_once_do_not_collide(stub: StubVespa) -> None:
    """Both have read before either writes: the later one is refused and reads again."""
    feeders = 4
    barrier = threading.Barrier(feeders)
    waited: set[str] = set()
    lock = threading.Lock()

    def meet(request: Request) -> None:
        if request.method == "PUT" and "index_info" in request.path:
            with lock:
                first = request.body["fields"]["content"]["assign"] not in waited
                waited.add(request.body["fields"]["content"]["assign"])
                few = len(waited) <= feeders
            if first and few:
                barrier.wait(timeout=20)

    stub.choose_fault = meet
    failures: list[object] = []

    def work(feeder: int) -> None:
        engine = VespaEngine.open(stub.url, SETTINGS)
        documents = [with_column(10 * feeder + n, f"column {feeder}") for n in range(5)]
        failures.extend(one.error for one in engine.feed(map(Upsert, documents)) if one.error)

    threads = [threading.Thread(target=work, args=(feeder,)) for feeder in range(feeders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    order = VespaEngine.open(stub.url, SETTINGS).info.column_order
    assert sorted(order) == [*(f"column {feeder}" for feeder in range(feeders)), "year"]
    refused = [one for one in stub.requests if "condition" in one.query]
    assert len(refused) > feeders, "a test of nothing"
    assert_all_right(stub)


@pytest.mark.parametrize("fault", ["503", "lost", "reset", "half"])
def test_a_place_is_given_once_whatever_becomes_of_the_answer(stub: StubVespa, fault: str) -> None:
    def once(request: Request) -> str | None:
        if request.method == "PUT" and "index_info" in request.path and not seen:
            seen.append(request)
            return fault
        return None

    seen: list[Request] = []
    stub.choose_fault = once
    engine = VespaEngine.open(stub.url, SETTINGS)
    documents = [with_column(number, "depth") for number in range(8)]
    assert all(one.error is None for one in engine.feed(map(Upsert, documents)))
    assert seen and engine.info.column_order == ("depth", "year")
    assert_all_right(stub)


def test_places_never_change(stub: StubVespa) -> None:
    places = []
    for column in ("zebra", "ape", "middle"):
        engine = VespaEngine.open(stub.url, SETTINGS)
        list(engine.feed([Upsert(with_column(0, column))]))
        places.append(engine.info.column_order)
    assert places[-1] == ("year", "zebra", "ape", "middle")
    assert all(places[-1][: len(each)] == each for each in places)


def test_an_update_of_tags_or_numbers_alone_keeps_the_fields_right(stub: StubVespa) -> None:
    engine = VespaEngine.open(stub.url, SETTINGS)
    list(engine.feed([Upsert(numbered_document(number)) for number in range(4)]))
    id_ = numbered_document(0).id
    for update in (
        Update(id_, tags={"class": "BEACH", "new": "x"}),
        Update(id_, numbers={"depth": -1.5}),
        Update(id_, captions=("other words",)),
        Update(id_, tags={}, numbers={}),
        Update(id_, tags={"class": "a"}, numbers={"year": 1.0}),
    ):
        (outcome,) = engine.feed([update])
        assert outcome.error is None
        assert_all_right(stub)
        found = engine.search(query_of_8(TagFilter("class", ("beach",))))
        tags = stub.images()[id_]["tags"]
        assert [hit.document.id for hit in found.hits] == (
            [id_] if "BEACH" in tags.values() else []
        )


def query_of_8(condition: Filter) -> EngineQuery:
    return EngineQuery("vector", vector=numbered_document(0).embedding, filters=(condition,))


def test_info_of_other_characters_is_replaced_once_without_a_condition(stub: StubVespa) -> None:
    content = {"format_version": 1, "dimension": 8, "encoder_name": "\u00c9t\u00e9"}
    stub.documents["index_info", "index"] = {"content": json.dumps(content, ensure_ascii=False)}
    client = connect(stub.url, SETTINGS)
    for number in range(2):
        name = f"\u00e9 {number}"
        change_info(client, lambda info, name=name: replace(info or INFO, encoder_name=name))
    writes = [one for one in stub.requests if one.method == "PUT"]
    assert ["condition" in one.query for one in writes[-2:]] == [False, True]
    info = read_info(client)
    assert info is not None and (info.encoder_name, info.document_form) == ("\u00e9 1", 1)


def test_a_text_that_nobody_can_read_is_written_anew(stub: StubVespa) -> None:
    client = connect(stub.url, SETTINGS)
    for text in ("[]", "no json", '{"format_version": 2}'):
        stub.documents["index_info", "index"] = {"content": text}
        with pytest.raises(EngineError, match="write it anew with: clipsearch deploy"):
            read_info(client)
        change_info(client, lambda info: INFO if info is None else info)
        assert read_info(client) == INFO
    stub.documents["index_info", "index"] = {"content": '{"format_version": 3, "dimension": 8}'}
    with pytest.raises(EngineError, match="the index is of format 3"):
        change_info(client, lambda info: INFO)


def test_writers_without_end_are_named(stub: StubVespa, monkeypatch: pytest.MonkeyPatch) -> None:
    number = iter(range(1000))

    def another(request: Request) -> None:
        if request.method == "PUT":
            changed = {"format_version": 2, "dimension": 8, "encoder_name": str(next(number))}
            stub.documents["index_info", "index"] = {"content": json.dumps(changed)}

    stub.choose_fault = another
    monkeypatch.setattr(index_info, "_ATTEMPTS", 3)
    with pytest.raises(EngineError, match="3 times in a row; run the same command again"):
        change_info(connect(stub.url, SETTINGS), lambda info: replace(info or INFO, language="fr"))
