"""What the live tests share: a Vespa that may be filled, the package on it, and documents.

A Vespa is named by CLIPSEARCH_TEST_VESPA and CLIPSEARCH_TEST_VESPA_CONFIG (query and config server
addresses), else made in a container where Docker answers. Whatever it holds of others is left
alone. Nothing here, and nothing in the live tests, needs torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.deployment.changes import Changes
from clipsearch.deployment.deploy import Deployed, deploy
from clipsearch.deployment.options import DeployOptions
from clipsearch.deployment.providers import CONTAINER_NAME, DOCKER_CONFIG_SERVER, DOCKER_INDEX
from clipsearch.documents import Document
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import read_info
from clipsearch.engines.vespa.operations import NAMESPACE, put_fields
from clipsearch.operations import Delete, Upsert
from finetune.errors import EngineError

NAME = "clipsearch live tests"
DIMENSION = 64
# Fewer where the tests themselves are tried (test_live_tests_run).
DOCUMENTS = int(os.environ.get("CLIPSEARCH_TEST_VESPA_DOCUMENTS", "4000"))


@dataclass(frozen=True)
class Place:
    """A Vespa; `restart` starts its container anew, where it is one of ours."""

    url: str
    config_server: str
    restart: Callable[[], None] | None

    def options(self, **changes: Any) -> DeployOptions:
        """For `deploy`, to this place."""
        if self.restart is not None:
            return replace(DeployOptions(docker=True, wait=600), **changes)
        options = DeployOptions(config_server=self.config_server, index=self.url, wait=600)
        return replace(options, **changes)

    def engine(self) -> VespaEngine:
        """The index, opened anew."""
        return VespaEngine.open(self.url)

    def empty(self) -> None:
        """Delete every document, where an index is there."""
        if known_name(self.url) is None:
            return
        engine = self.engine()
        removals = engine.feed([Delete(document.id) for document in engine.visit()])
        assert all(outcome.error is None for outcome in removals)
        assert engine.count() == 0
        engine.close()

    def deploy(self, **changes: Any) -> Deployed:
        """Deploy; whatever it changes. The index then bears the name of these tests."""
        made = deploy(self.options(**changes), consent=agree, say=print)
        assert made is not None
        name_index(self.engine())
        return made


def agree(changes: Changes) -> bool:
    """Whatever changes, and whatever that costs."""
    return True


def find_place() -> Place:
    """The Vespa that the environment names, or one in Docker; skips where there is none."""
    url = os.environ.get("CLIPSEARCH_TEST_VESPA")
    config_server = os.environ.get("CLIPSEARCH_TEST_VESPA_CONFIG")
    restart = None
    if url is None or config_server is None:
        client = _docker_client()
        url, config_server = DOCKER_INDEX, DOCKER_CONFIG_SERVER
        restart = lambda: client.containers.get(CONTAINER_NAME).restart()  # noqa: E731
    name = known_name(url)
    if name not in (None, NAME):
        held = VespaEngine.open(url).count()
        if held:
            pytest.skip(f"{url} holds {held} documents that are not of these tests")
    return Place(url.rstrip("/"), config_server, restart)


def known_name(url: str) -> str | None:
    """By which encoder, or which tests, an index was filled; None where none is there."""
    try:
        info = read_info(connect(url))
    except EngineError:
        return None
    return None if info is None else info.encoder_name or ""


def name_index(engine: VespaEngine, **changes: Any) -> None:
    """Let the index bear the name of these tests, and know columns."""
    engine.change_info(lambda info: replace(info, encoder_name=NAME, **changes))


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


def put_all(engine: VespaEngine, documents: Iterable[Document]) -> int:
    """Feed documents, all of which must be taken; their number."""
    errors = [outcome.error for outcome in engine.feed(map(Upsert, documents))]
    assert errors == [None] * len(errors), next(error for error in errors if error)
    engine.finish_feed()
    return len(errors)


def made_up(count: int, *, folder: str = "made-up") -> Iterator[Document]:
    """Documents of two captions, a tag, a number and a unit vector, the same each time."""
    vectors = np.random.default_rng(3).standard_normal((count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, vector in enumerate(vectors):
        id_ = f"{folder}/{number:05}.jpg"
        yield Document(
            id_,
            (f"two dogs run along beach number {number}", "dogs playing by the sea in summer"),
            id_,
            tags={"class": f"c{number % 7}"},
            numbers={"year": float(2000 + number % 25)},
            embedding=vector,
        )


def write_manifest(path: Path, documents: Iterable[Document]) -> Path:
    """The documents as JSON Lines with ready-made vectors, for `clipsearch feed`."""
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            assert document.embedding is not None
            row = {"image": document.id, "captions": list(document.captions), **document.tags}
            row |= {**document.numbers, "embedding": document.embedding.tolist()}
            file.write(json.dumps(row) + "\n")
    return path


def write_puts(path: Path, documents: Iterable[Document]) -> Path:
    """The documents as lines for `vespa feed`."""
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            assert document.embedding is not None
            body = put_fields(document, places={"year": 1})
            put = f"id:{NAMESPACE}:image::{document.id}"
            file.write(json.dumps({"put": put, **body}) + "\n")
    return path


def command(*arguments: str) -> list[str]:
    """`clipsearch ARGUMENTS` as a command line; run it with `environment(folder)`."""
    return [sys.executable, "-m", "clipsearch", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """For commands: a state of its own below `folder`, and no torch to be had."""
    without = folder / "without-torch"
    without.mkdir(exist_ok=True)
    (without / "torch.py").write_text("raise ImportError('the live tests run without torch')\n")
    kept = {name: value for name, value in os.environ.items() if "CLIPSEARCH" not in name}
    path = os.pathsep.join(filter(None, (str(without), kept.get("PYTHONPATH", ""))))
    return {**kept, "PYTHONPATH": path, "XDG_STATE_HOME": str(folder / "state")}


def run(folder: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `clipsearch ARGUMENTS` in `folder`."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
