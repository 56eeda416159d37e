"""Against a real Vespa: deploy, feed 1,000 documents, every kind of query, update, delete, restart.

Runs where CLIPSEARCH_TEST_VESPA and CLIPSEARCH_TEST_VESPA_CONFIG name one (query and config server
addresses), else in a container where Docker answers, else says why it does not. An index that is
neither empty nor of an earlier run of these tests is left alone.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fault_proxy import assert_nothing_lost_and_nothing_twice
from readme_curl import curls
from test_deploy import make_encoder
from vespa_recorded import INFO, assert_same_pages, load_cases, load_documents, many_queries

from clipsearch.deploy import DeployOptions, deploy
from clipsearch.documents import Document
from clipsearch.engine import Delete, EngineQuery, IndexInfo, Update, Upsert
from clipsearch.engines.vespa import VespaEngine
from clipsearch.vespa.changes import Changes
from clipsearch.vespa.connection import connect
from clipsearch.vespa.index_info import read_info
from clipsearch.vespa.providers import CONTAINER_NAME, DOCKER_CONFIG_SERVER, DOCKER_INDEX
from finetune.encoder_folder import fingerprint, read_description, write_description
from finetune.errors import EngineError

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

NAME = "clipsearch live tests"
DOCUMENTS = 1000


@dataclass(frozen=True)
class Live:
    """A Vespa with our package and 1,000 documents.

    `fresh` is False where the index held documents before: its statistics have then drifted.
    """

    url: str
    config_server: str
    encoder: Path
    has_tower: bool
    documents: dict[str, Document]
    fresh: bool
    restart: Callable[[], None] | None


def _agree(changes: Changes) -> bool:
    return True


def _docker_client() -> Any:
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(
            f"no Vespa to test against: CLIPSEARCH_TEST_VESPA names none, and Docker does not"
            f" answer ({error})"
        )
    return client


def _live_encoder(folder: Path, request: pytest.FixtureRequest) -> tuple[Path, bool]:
    """A real text tower of 64 values where there is one, else a stand-in that is not deployed."""
    encoder = make_encoder(folder, name=NAME, dimension=64)
    try:
        models = request.getfixturevalue("shared") / "vespa" / "app" / "models"
    except pytest.skip.Exception:
        return encoder, False
    shutil.copyfile(models / "text.onnx", encoder / "onnx" / "text.onnx")
    shutil.copyfile(models / "tokenizer.json", encoder / "tokenizer.json")
    description = read_description(encoder)
    write_description(encoder, replace(description, fingerprint=fingerprint(encoder)))
    return encoder, True


def _thousand(recorded: Path) -> dict[str, Document]:
    documents = load_documents(recorded)
    dice = np.random.default_rng(5)
    originals = list(documents.values())
    for number in range(DOCUMENTS - len(documents)):
        vector = dice.standard_normal(64).astype(np.float32)
        model = originals[number % 500]
        id_ = f"more/{number:04}.jpg"
        embedding = vector / np.linalg.norm(vector)
        documents[id_] = replace(model, id=id_, path=id_, embedding=embedding)
    return documents


@pytest.fixture(scope="module")
def live(
    recorded: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    url = os.environ.get("CLIPSEARCH_TEST_VESPA")
    config_server = os.environ.get("CLIPSEARCH_TEST_VESPA_CONFIG")
    restart = None
    if url is None or config_server is None:
        client = _docker_client()
        url, config_server = DOCKER_INDEX, DOCKER_CONFIG_SERVER
        restart = lambda: client.containers.get(CONTAINER_NAME).restart()  # noqa: E731
    try:
        before = read_info(connect(url))
    except EngineError:
        before = None
    held = VespaEngine.open(url).count() if before is not None else 0
    if before is not None and held and before.encoder_name != NAME:
        pytest.skip(f"{url} holds {held} documents that are not of these tests")
    encoder, has_tower = _live_encoder(tmp_path_factory.mktemp("live") / "encoder", request)
    where = (
        DeployOptions(docker=True, wait=600)
        if restart
        else DeployOptions(config_server=config_server, index=url, wait=600)
    )
    options = replace(where, encoder=encoder) if has_tower else replace(where, dimension=64)
    assert deploy(options, consent=_agree, say=print) is not None
    engine = VespaEngine.open(url)
    engine.change_info(
        lambda info: replace(
            info,
            encoder_name=NAME,
            number_columns=INFO.number_columns,
            tag_columns=INFO.tag_columns,
        )
    )
    removals = engine.feed([Delete(document.id) for document in engine.visit()])
    assert all(outcome.error is None for outcome in removals)
    documents = _thousand(recorded)
    outcomes = list(engine.feed(map(Upsert, documents.values())))
    assert [outcome.error for outcome in outcomes] == [None] * DOCUMENTS
    engine.finish_feed()
    engine.close()
    yield Live(url, config_server, encoder, has_tower, documents, held == 0, restart)


def test_all_documents_are_there(live: Live) -> None:
    engine = VespaEngine.open(live.url)
    assert engine.count() == DOCUMENTS
    seen = {document.id: document for document in engine.visit(embeddings=True)}
    assert seen.keys() == live.documents.keys()
    for id_, document in live.documents.items():
        found = seen[id_]
        assert (found.captions, found.path) == (document.captions, document.path)
        assert (found.tags, found.numbers) == (document.tags, document.numbers)
        assert found.embedding is not None and document.embedding is not None
        assert np.array_equal(found.embedding, document.embedding)
    some = [*list(live.documents)[::50], "not there"]
    got = engine.get(some)
    assert [one and one.id for one in got] == [*some[:-1], None]


def test_every_query_as_in_the_embedded_engine(live: Live, recorded: Path, tmp_path: Path) -> None:
    local_engine = pytest.importorskip("clipsearch.engines.local")
    local = local_engine.LocalEngine.create(tmp_path / "index", INFO)
    assert all(one.error is None for one in local.feed(map(Upsert, live.documents.values())))
    local.finish_feed()
    remote = VespaEngine.open(live.url)
    for query in many_queries(load_cases(recorded)):
        here, there = local.search(query), remote.search(query)
        assert there.partial is None
        # Statistics drift with updates and deletes: only a fresh feed is exact.
        assert_same_pages(here, there, query, tolerance=1e-4 if live.fresh else 0.3)
    local.close()


def test_exact_is_the_same_order(live: Live, recorded: Path) -> None:
    engine = VespaEngine.open(live.url)
    for case in load_cases(recorded):
        if case.name != "vector-exact100":
            continue
        exact = engine.search(replace(case.query, exact=True, facets=("category",)))
        again = engine.search(replace(case.query, facets=("category",)))
        assert exact.total == again.total == 100
        assert exact.facets == again.facets
        assert [hit.score for hit in exact.hits] == pytest.approx(
            [hit.score for hit in again.hits], abs=1e-6
        )


def test_query_profiles_over_plain_http(live: Live) -> None:
    def ask(**parameters: str) -> Any:
        answer = requests.get(f"{live.url}/search/", params=parameters, timeout=30).json()
        assert "errors" not in answer["root"], answer["root"]
        return answer["root"]

    words = ask(queryProfile="bm25", text="large red circle", hits="3")
    assert words["fields"]["totalCount"] > 3
    assert "<hi>" in " ".join(words["children"][0]["fields"]["captions"])
    if not live.has_tower:
        pytest.skip("no text tower beside the repository: embed(@text) was not deployed")
    for mode in ("vector", "hybrid", "hybrid-sum", "hybrid-rrf", "hybrid-normalized"):
        assert len(ask(queryProfile=mode, text="large red circle", hits="3")["children"]) == 3


def test_the_curl_lines_of_the_readme(live: Live) -> None:
    asked = [curl for curl in curls() if curl.path == "/search/" and curl.parameters]
    for curl in asked:
        embeds = curl.parameters.get("queryProfile", "bm25") != "bm25"
        if not live.has_tower and (embeds or "input.query(q)" in curl.parameters):
            continue
        answer = requests.get(f"{live.url}/search/", params=curl.parameters, timeout=30)
        assert answer.status_code == 200 and "errors" not in answer.json()["root"], (
            curl.text,
            answer.text,
        )


def test_ids_keep_their_case(live: Live) -> None:
    engine = VespaEngine.open(live.url)
    model = next(iter(live.documents.values()))
    ids = ("Case/A.jpg", "case/a.jpg")
    assert all(o.error is None for o in engine.feed(Upsert(replace(model, id=i)) for i in ids))
    query = EngineQuery("vector", vector=model.embedding, k=5, exclude_ids=ids[:1])
    found = {hit.document.id for hit in engine.search(query).hits}
    assert ids[1] in found and ids[0] not in found
    assert all(outcome.error is None for outcome in engine.feed(map(Delete, ids)))


def test_update_and_delete(live: Live) -> None:
    engine = VespaEngine.open(live.url)
    id_ = "made/0000.jpg"
    change = Update(id_, captions=("an unheardof word",), tags={"category": "new"}, numbers={})
    missing = Update("not there", path="x")
    outcomes = {one.operation.id: one.error for one in engine.feed([change, missing])}
    assert outcomes[id_] is None and "no such document" in (outcomes["not there"] or "")
    (hit,) = engine.search(EngineQuery("bm25", tokens=("unheardof",))).hits
    assert (hit.document.id, hit.document.tags) == (id_, {"category": "new"})
    assert [one.error for one in engine.feed([Delete(id_), Delete("not there")])] == [None, None]
    assert engine.count() == DOCUMENTS - 1
    list(engine.feed([Upsert(live.documents[id_])]))
    assert engine.count() == DOCUMENTS


def test_faults_on_the_way(live: Live) -> None:
    assert_nothing_lost_and_nothing_twice(live.url, next(iter(live.documents.values())))


def test_the_same_package_again_changes_nothing(live: Live) -> None:
    seen: list[Changes] = []

    def consent(changes: Changes) -> bool:
        seen.append(changes)
        return False

    options = DeployOptions(config_server=live.config_server, index=live.url)
    given = (
        replace(options, encoder=live.encoder) if live.has_tower else replace(options, dimension=64)
    )
    assert deploy(given, consent=consent, say=print) is None
    assert not seen[0].first and not seen[0].actions and not seen[0].files


def test_a_refused_change_is_said_in_vespas_words(live: Live) -> None:
    options = DeployOptions(config_server=live.config_server, index=live.url, dimension=65)
    with pytest.raises(EngineError, match=r"tensor<float>\(x\[64\]\)"):
        deploy(options, consent=_agree, say=print)


def test_all_is_there_after_a_restart(live: Live) -> None:
    if live.restart is None:
        pytest.skip("not a container of ours: it is not restarted")
    live.restart()
    deadline = time.monotonic() + 300
    while True:
        try:
            engine = VespaEngine.open(live.url)
            if engine.count() == DOCUMENTS:
                break
        except EngineError:
            assert time.monotonic() < deadline
        time.sleep(2)
    assert isinstance(engine.info, IndexInfo) and engine.info.encoder_name == NAME
