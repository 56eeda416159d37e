"""`clipsearch deploy --index` alone: what it is told is compared with what is deployed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config_server_stub import StubConfigServer
from deploying import Asked, make_encoder, options, quiet, run
from test_deploy_faults import INFO, feed, known
from vespa_stub import Request, StubVespa

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.deployed import EmbeddingField, embedding_field
from clipsearch.deployment.options import DeployOptions
from clipsearch.engines.vespa.http.connection import connect
from finetune.errors import UsageError


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    """An encoder of another dimension."""
    return make_encoder(tmp_path / "wider", name="wider", dimension=12)


@pytest.mark.parametrize("count", [0, 2])
def test_index_alone_looks_at_what_is_deployed(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path, count: int
) -> None:
    half = options(server, vespa, encoder=encoder, precision="bfloat16")
    deploy(half, consent=Asked(), say=quiet)
    feed(vespa, count)
    held = json.dumps(list(vespa.documents.values()))
    alone = ("--index", vespa.url, "--wait", "5")
    refused = run("--encoder", str(encoder), "--precision", "float", *alone)
    assert refused.returncode == 2
    assert "takes embeddings of bfloat16, but --precision says float; leave --pr" in refused.stderr
    refused = run("--encoder", str(wider), *alone)
    assert refused.returncode == 2
    assert f"embeddings of 8 values, but {wider} makes 12; name the encoder" in refused.stderr
    assert json.dumps(list(vespa.documents.values())) == held, "asked, and nothing written"
    del vespa.documents[INFO]
    told = run("--encoder", str(encoder), *alone)
    assert told.returncode == 0, told.stderr
    assert known(vespa).precision == "bfloat16", "as it is, where nothing else was said"
    assert len(vespa.images()) == count


def test_index_alone_names_the_option_that_differs(vespa: StubVespa) -> None:
    refused = run("--dimension", "9", "--index", vespa.url)
    assert refused.returncode == 2
    assert "embeddings of 8 values, but --dimension says 9" in refused.stderr
    vespa.precision = "double"
    refused = run("--dimension", "8", "--index", vespa.url)
    assert refused.returncode == 2 and "of double, which clipsearch does not" in refused.stderr


def test_index_alone_compares_the_package_of_the_config_server_beside(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(options(server, vespa, encoder=encoder, language="fr"), consent=Asked(), say=quiet)
    port = int(server.url.rsplit(":", 1)[1])
    monkeypatch.setattr("clipsearch.deployment.deployed.CONFIG_SERVER_PORT", port)
    alone = DeployOptions(encoder=encoder, index=vespa.url, wait=5.0)
    with pytest.raises(UsageError, match="is for captions in 'fr', but --language says 'en'"):
        deploy(replace(alone, language="en"), consent=Asked(), say=quiet)
    other = make_encoder(encoder.parent / "other", name="other")
    with pytest.raises(UsageError, match="embeds text with another encoder"):
        deploy(replace(alone, encoder=other), consent=Asked(), say=quiet)
    del vespa.documents[INFO]
    said: list[str] = []
    deployed = deploy(alone, consent=Asked(), say=said.append)
    assert deployed is not None and deployed.info.language == "fr" and said == []
    # Another index's config server, by its embeddings, is not believed.
    server.active["schemas/image.sd"] = server.active["schemas/image.sd"].replace(b"x[8]", b"x[9]")
    deployed = deploy(alone, consent=Asked(), say=said.append)
    assert deployed is not None and "holds the package of another index" in said[0]


def test_index_alone_asks_before_documents_are_of_another_encoder(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    feed(vespa, 2)
    other = make_encoder(encoder.parent / "other", name="other")
    asked = run("--encoder", str(other), "--index", vespa.url)
    assert asked.returncode == 2
    assert "this costs: 2 documents hold embeddings of the encoder before" in asked.stderr
    assert known(vespa).encoder_name == "photos"
    assert run("--encoder", str(other), "--index", vespa.url, "--yes").returncode == 0
    assert known(vespa).encoder_name == "other"


def test_index_alone_on_another_application(vespa: StubVespa, encoder: Path) -> None:
    def of_music(request: Request) -> tuple[int, Any]:
        kind = request.path.split("/")[4] if request.path.startswith("/document") else ""
        return 400, {"pathId": request.path, "message": f"Document type {kind} does not exist"}

    vespa.answer = of_music  # type: ignore[method-assign]
    done = run("--encoder", str(encoder), "--index", vespa.url, "--wait", "60")
    assert done.returncode == 1
    assert "Document type image does not exist (is another application deployed" in done.stderr


def test_index_alone_waits_for_a_vespa_that_starts(vespa: StubVespa, encoder: Path) -> None:
    vespa.faults.extend(["reset", "503", "504"])
    done = run("--encoder", str(encoder), "--index", vespa.url, "--wait", "30")
    assert done.returncode == 0, done.stderr
    nobody = run("--encoder", str(encoder), "--index", "http://127.0.0.1:1", "--wait", "0")
    assert nobody.returncode == 1
    assert "connection refused" in nobody.stderr and "(waited 0 s)" in nobody.stderr
    assert "tried for 0 seconds" not in nobody.stderr


@pytest.mark.parametrize("dimension", [1, 2, 8])
def test_an_index_is_asked_for_its_embeddings_and_not_written_to(dimension: int) -> None:
    with StubVespa(dimension=dimension, precision="bfloat16") as vespa:
        found = embedding_field(connect(vespa.url))
        assert found == EmbeddingField("bfloat16", dimension)
        assert str(found) == f"{dimension} values of bfloat16"
        assert vespa.documents == {}
