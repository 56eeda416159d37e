"""Against a real Vespa: an encoder's own index, the pages' curl lines, and another dimension.

The encoder is the one of tests/fixtures/first-format, whose towers are of ONNX: no torch is needed.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from curl_lines import Curl, curls
from live_vespa import NAME, Place, environment, find_place, made_up, put_all, run

from clipsearch.deployment.package import EMBEDDING_PROFILES
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import EngineQuery
from finetune.encoder_folder import read_description, write_description

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

KEPT = Path(__file__).resolve().parents[3] / "fixtures" / "first-format"
IMAGES = 32
OTHER_DIMENSION = 64
TEXT = "two red circles"


@dataclass(frozen=True)
class Photos:
    """A Vespa with the pictures of the first format, fed by the command."""

    place: Place
    folder: Path
    encoder: Encoder

    def ask(self, **parameters: str) -> Any:
        """The root of the answer to a query over plain HTTP."""
        url = f"{self.place.url}/search/"
        root = requests.get(url, params=parameters, timeout=30).json()["root"]
        assert "errors" not in root, root
        return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Photos]:
    place = find_place()
    folder = tmp_path_factory.mktemp("photos")
    shutil.copytree(KEPT, folder, dirs_exist_ok=True)
    # The index bears the encoder's name: by it a later run knows that it is ours.
    description = read_description(folder / "encoder")
    write_description(folder / "encoder", replace(description, name=NAME))
    place.empty()
    place.deploy(encoder=folder / "encoder", precision="float")
    fed = run(folder, "feed", "photos.csv", "--encoder", "encoder", "--index", place.url, "--json")
    assert fed.returncode == 0, fed.stdout + fed.stderr
    assert json.loads(fed.stdout)["fed"] == IMAGES
    yield Photos(place, folder, Encoder.load(folder / "encoder"))
    place.empty()


def test_the_commands_run_without_torch(photos: Photos) -> None:
    answers = []
    for index in (photos.place.url, str(photos.folder / "index")):
        place = ("--index", index, "--encoder", "encoder", "--json")
        done = run(photos.folder, "query", TEXT, "--mode", "vector", *place)
        assert done.returncode == 0, done.stderr
        answers.append([hit["cosine"] for hit in json.loads(done.stdout)["hits"]])
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_query_profiles_over_plain_http(photos: Photos) -> None:
    words = photos.ask(queryProfile="bm25", text="red circle", hits="3")
    assert words["fields"]["totalCount"] > 3
    assert "<hi>" in " ".join(words["children"][0]["fields"]["captions"])
    for mode in EMBEDDING_PROFILES:
        assert len(photos.ask(queryProfile=mode, text=TEXT, hits="3")["children"]) == 3


def test_embed_is_the_text_tower(photos: Photos) -> None:
    theirs = {
        child["fields"]["id"]: child["relevance"]
        for child in photos.ask(queryProfile="vector", text=TEXT, hits="10")["children"]
    }
    vector = photos.encoder.encode_texts([TEXT])[0]
    ours = photos.place.engine().search(EngineQuery("vector", vector=vector, k=10))
    assert {hit.document.id: hit.score for hit in ours.hits} == pytest.approx(theirs, abs=5e-4)


def _lines() -> list[Curl]:
    """Those that need no certificate and no token of somebody's."""
    return [curl for curl in curls() if curl.url.startswith("http://localhost:8080")]


@pytest.mark.parametrize("curl", _lines(), ids=lambda curl: curl.text[:60])
def test_the_curl_lines_as_a_shell_runs_them(photos: Photos, curl: Curl) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    vector = photos.encoder.encode_texts([TEXT])[0].astype(float).tolist()
    query = {"queryProfile": "hybrid-raw", "text": "two dogs", "input.query(q)": vector}
    (photos.folder / "query.json").write_text(json.dumps(query))
    line = curl.text.replace("http://localhost:8080", photos.place.url)
    done = subprocess.run(
        ["sh", "-c", re.sub(r"^curl ", "curl -sS ", line)],
        cwd=photos.folder,
        env=environment(photos.folder),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if curl.path == "/search/":
        assert "errors" not in answer["root"], answer["root"]
        assert answer["root"]["coverage"]["coverage"] == 100
    else:
        assert answer["id"].startswith("id:images:image::"), answer


def test_an_empty_index_of_another_dimension_is_replaced(photos: Photos) -> None:
    """Run last: it deploys another package. No documents are lost, so that nothing is asked for."""
    photos.place.empty()
    made = photos.place.deploy(dimension=OTHER_DIMENSION, precision="float")
    assert made.info.dimension == OTHER_DIMENSION
    engine = photos.place.engine()
    assert engine.info.dimension == OTHER_DIMENSION and engine.info.encoder_fingerprint is None
    documents = list(made_up(20))
    assert put_all(engine, documents) == engine.count() == 20
    assert engine.count_without_embedding() == 0
    for document in documents[:3]:
        (hit,) = engine.search(EngineQuery("vector", vector=document.embedding, k=1)).hits
        assert hit.document.id == document.id
        assert hit.cosine == pytest.approx(1.0, abs=1e-5)
    assert np.unique([hit.score for hit in engine.search(_any(documents[0].embedding)).hits]).size


def _any(vector: Any) -> EngineQuery:
    return EngineQuery("hybrid", tokens=("dog",), vector=vector)
