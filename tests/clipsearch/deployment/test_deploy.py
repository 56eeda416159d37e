"""`clipsearch deploy`: what is sent, what is said before it is made, what the index knows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config_server_stub import StubConfigServer
from deploying import REINDEX, RESTART, Asked, make_encoder, options, quiet, run
from recording_server import make_certificate, recorder, server_context
from vespa_stub import StubVespa, numbered_document

from clipsearch.deployment.changes import describe
from clipsearch.deployment.config_server import ConfigServer
from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.options import DeployOptions
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import read_info, write_info
from clipsearch.operations import Upsert
from finetune.encoder_folder import (
    read_description,
)
from finetune.errors import EncoderError, EngineError, UsageError


def test_the_first_deployment(server: StubConfigServer, vespa: StubVespa, encoder: Path) -> None:
    asked = Asked()
    deployed = deploy(options(server, vespa, encoder=encoder), consent=asked, say=quiet)
    assert deployed is not None and deployed.index == vespa.url
    assert asked.changes[0].first and asked.changes[0].costs == ()
    assert server.active["models/text.onnx"] == b"photos text 8"
    assert b"tensor<float>(x[8])" in server.active["schemas/image.sd"]
    assert b"<max-tokens>64</max-tokens>" in server.active["services.xml"]
    info = VespaEngine.open(vespa.url).info
    assert info == deployed.info
    assert info.encoder_fingerprint == read_description(encoder).fingerprint
    assert (info.encoder_name, info.encoder_path) == ("photos", str(encoder.resolve()))
    assert (info.dimension, info.language) == (8, "en")


def test_the_same_again_changes_nothing(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    asked = Asked()
    deploy(options(server, vespa, encoder=encoder), consent=asked, say=quiet)
    assert asked.changes[0].files == {}
    assert describe(asked.changes[0]) == ["nothing changes: the same package runs there already"]


def test_what_the_index_knew_is_kept(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder, weights=(0.3, 1.5)), consent=Asked(), say=quiet)
    client = connect(vespa.url)
    known = read_info(client)
    assert known is not None
    fed = replace(known, number_columns=("year",), tag_columns=("class",), index_id="i")
    write_info(client, fed)
    asked = Asked()
    deploy(options(server, vespa, encoder=encoder, language="fr"), consent=asked, say=quiet)
    assert read_info(client) == replace(fed, language="fr")
    assert b"query(bm25_weight): 0.3" in server.active["schemas/image/hybrid.profile"]
    assert asked.changes[0].differences == ("language: en → fr",)
    assert asked.changes[0].files == {
        "schemas/image.sd": "changed",
        "search/query-profiles/default.xml": "changed",
    }


def test_another_encoder_costs_a_new_feed(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, tmp_path: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    other = make_encoder(tmp_path / "other", name="other")
    asked = Asked()
    deploy(options(server, vespa, encoder=other), consent=asked, say=quiet)
    assert asked.changes[0].costs == (), "an empty index costs nothing"
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    assert len(list(VespaEngine.open(vespa.url).feed([Upsert(numbered_document(1))]))) == 1
    refused = Asked(answer=False)
    before = dict(server.active)
    assert deploy(options(server, vespa, encoder=other), consent=refused, say=quiet) is None
    (cost,) = refused.changes[0].costs
    assert cost.startswith("1 document holds an embedding of the encoder before")
    assert server.active == before
    assert VespaEngine.open(vespa.url).info.encoder_name == "photos"


@pytest.mark.parametrize(("kind", "action"), [("reindex", REINDEX), ("restart", RESTART)])
def test_a_costly_change_is_said_before_it_is_made(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, kind: str, action: dict[str, Any]
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    server.actions = {kind: [action]}
    server.requests.clear()
    refused = Asked(answer=False)
    assert deploy(options(server, vespa, encoder=encoder), consent=refused, say=quiet) is None
    assert not [request for request in server.requests if request.endswith("/active")]
    (cost,) = refused.changes[0].costs
    assert action["messages"][0] in cost and kind[:7] in cost.replace("-", "")
    said: list[str] = []
    assert deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=said.append)
    steps = [one for one in server.requests if "/active" in one or "/reindex" in one]
    if kind == "reindex":
        # Marked after the change is active; it starts with one deployment more.
        assert [one.split("/")[-1].split("?")[0] for one in steps] == [
            "active",
            "reindex",
            "active",
        ]
        assert "clusterId=images&documentType=image" in steps[1]
    else:
        assert len(steps) == 1


def test_precision_is_kept_in_the_index(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    half = options(server, vespa, encoder=encoder, precision="bfloat16")
    deployed = deploy(half, consent=Asked(), say=quiet)
    assert deployed is not None and deployed.info.precision == "bfloat16"
    again = Asked()
    deploy(options(server, vespa, encoder=encoder), consent=again, say=quiet)
    assert again.changes[0].files == {}, "as it is, unless told otherwise"
    back = Asked()
    deploy(options(server, vespa, encoder=encoder, precision="float"), consent=back, say=quiet)
    assert back.changes[0].differences == ("precision: bfloat16 → float",)


def test_several_machines(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    (nodes / "services.xml").write_text('<services><content id="images"/></services>')
    (nodes / "hosts.xml").write_text("<hosts/>")
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    asked = Asked()
    deploy(options(server, vespa, encoder=encoder, nodes=nodes), consent=asked, say=quiet)
    assert server.active["hosts.xml"] == b"<hosts/>"
    assert server.active["services.xml"] == (nodes / "services.xml").read_bytes()
    assert asked.changes[0].files == {"hosts.xml": "new", "services.xml": "changed"}


@pytest.mark.parametrize("why", ["precision", "refeed", "nothing"])
def test_what_must_be_fed_anew_is_no_longer_known_to_any_ledger(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, why: str
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    client = connect(vespa.url)
    known = read_info(client)
    assert known is not None
    write_info(client, replace(known, index_id="of the ledger"))
    if why == "refeed":
        server.actions = {"refeed": [REINDEX]}
    precision = "bfloat16" if why == "precision" else None
    changed = options(server, vespa, encoder=encoder, precision=precision)
    deployed = deploy(changed, consent=Asked(), say=quiet)
    assert deployed is not None
    assert deployed.info.index_id == ("of the ledger" if why == "nothing" else "")


def test_every_recorded_refusal_is_shown_as_it_is(
    recorded: Path, server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    answers = json.loads((recorded / "http-deploy.json").read_text(encoding="utf-8"))
    refused = [one for one in answers if one["status"] != 200]
    assert len(refused) == 17
    for one in refused:
        for step in ("session", "prepared"):
            server.refusal = (step, one["status"], one["body"])
            with pytest.raises(EngineError) as caught:
                deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
            message = one["body"]["message"].strip()
            ids = re.findall(r"<allow until='yyyy-mm-dd'>(\S+)</allow>", message)
            assert str(caught.value).startswith(message)
            on = str(caught.value)[len(message) :]
            assert bool(on) == bool(ids) and all(f"add --allow {id_}" in on for id_ in ids)
    assert server.active == {}


def test_every_recorded_acceptance_is_read(recorded: Path, server: StubConfigServer) -> None:
    answers = json.loads((recorded / "http-deploy.json").read_text(encoding="utf-8"))
    for one in [one for one in answers if one["status"] == 200]:
        server.refusal = ("prepared", 200, one["body"])
        prepared = ConfigServer(server.url).prepare("1")
        assert (prepared.actions, prepared.warnings) == ((), ())


def test_vespas_warnings_are_shown(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    server.log = [{"level": "WARNING", "message": "Host named 'x' may not receive any config"}]
    server.content_is_readable = False
    asked = Asked()
    deploy(options(server, vespa, encoder=encoder), consent=asked, say=quiet)
    assert describe(asked.changes[0]) == [
        "Vespa says WARNING: Host named 'x' may not receive any config",
        f"what runs there now cannot be read ({server.url}: cannot be read), so files are not"
        " compared",
    ]


def test_a_config_server_over_tls_is_shown_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, client = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "client")
    with recorder(server_context(own, client)) as tls:
        url = f"https://127.0.0.1:{tls.port}"
        ConfigServer(url).is_up()
        assert tls.asked == []
        prefix = "VESPA_CLI_DATA_PLANE_"
        monkeypatch.setenv(f"{prefix}CERT_FILE", client.certificate)
        monkeypatch.setenv(f"{prefix}KEY_FILE", client.key)
        monkeypatch.setenv(f"{prefix}CA_CERT_FILE", own.certificate)
        monkeypatch.setenv("VESPA_CLOUD_SECRET_TOKEN", "secret")
        ConfigServer(url).is_up()
        ((path, headers),) = tls.asked
        assert (path, headers["authorization"]) == ("/state/v1/health", "Bearer secret")


def test_it_waits_until_the_services_answer(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    server.not_converged = 1
    vespa.faults.extend(["reset", "503", "503", "404", "503"])
    deployed = deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    assert deployed is not None
    assert VespaEngine.open(vespa.url).info == deployed.info


def test_services_that_do_not_answer(server: StubConfigServer, encoder: Path) -> None:
    nobody = DeployOptions(
        encoder=encoder, config_server=server.url, index="http://127.0.0.1:1", wait=0.2
    )
    with pytest.raises(EngineError, match=r"connection refused.*what was deployed stays"):
        deploy(nobody, consent=Asked(), say=quiet)
    assert server.active


def test_index_alone_only_writes_what_the_index_knows(vespa: StubVespa, encoder: Path) -> None:
    deployed = deploy(
        DeployOptions(encoder=encoder, index=vespa.url, wait=2), consent=Asked(), say=quiet
    )
    assert deployed is not None and deployed.changes is None
    assert VespaEngine.open(vespa.url).info == deployed.info


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config_server": None, "index": None}, "say where to deploy"),
        ({"docker": True}, "--config-server and --docker exclude each other"),
        ({"encoder": None}, "--encoder FOLDER, or --dimension N"),
        ({"dimension": 9}, "embeddings of 8 values"),
        ({"index": "photos.index"}, "must be an http"),
        ({"config_server": "vespa:19071", "index": None}, "must be an address"),
        ({"config_server": None, "cloud": "mine"}, "TENANT.APPLICATION"),
        ({"language": "de"}, "unknown language"),
        (
            {"nodes": Path("nodes"), "config_server": None, "docker": True},
            "--nodes goes with --config-server",
        ),
        ({"nodes": Path("nodes"), "index": None}, "--nodes needs --index URL too"),
        ({"nodes": Path("no-nodes-here")}, "services.xml: no such file"),
    ],
)
def test_options_that_cannot_work(
    server: StubConfigServer,
    vespa: StubVespa,
    encoder: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    wrong = options(server, vespa, **{"encoder": encoder, **changes})
    with pytest.raises(UsageError, match=reason):
        deploy(wrong, consent=Asked(), say=quiet)
    assert server.sessions == {}


def test_a_changed_encoder_folder_is_refused(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    (encoder / "onnx" / "text.onnx").write_bytes(b"another")
    with pytest.raises(EncoderError, match="a file was changed"):
        deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)


def test_the_command(server: StubConfigServer, vespa: StubVespa, encoder: Path) -> None:
    where = ("--config-server", server.url, "--index", vespa.url, "--wait", "5")
    first = run("--encoder", str(encoder), *where, "--weights", "0.3,1")
    assert first.returncode == 0, first.stderr
    assert f"Ready: {vespa.url}" in first.stdout
    assert "first deployment" in first.stderr and "activated" in first.stderr
    assert VespaEngine.open(vespa.url).info.bm25_weight == 0.3

    server.actions = {"restart": [RESTART]}
    asked = run("--encoder", str(encoder), *where)
    assert asked.returncode == 2
    assert "this costs: restart of searchnode on localhost" in asked.stderr
    assert "go on with --yes" in asked.stderr
    allowed = run("--encoder", str(encoder), *where, "--yes", "--json")
    assert allowed.returncode == 0, allowed.stderr
    answer = json.loads(allowed.stdout)
    assert answer["index"] == vespa.url
    assert answer["info"]["encoder_name"] == "photos"
    assert answer["changes"]["actions"][0]["kind"] == "restart"

    server.refusal = ("prepared", 400, {"message": "Invalid application: line one\nline two"})
    refused = run("--encoder", str(encoder), *where)
    assert refused.returncode == 1
    assert refused.stderr.endswith("Error: Invalid application: line one\nline two\n")
    assert "Traceback" not in refused.stderr


def test_the_command_renders(encoder: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    done = run("--encoder", str(encoder), "--render", str(package))
    assert done.returncode == 0, done.stderr
    assert (package / "services.xml").is_file() and (package / "models" / "text.onnx").is_file()
    assert run("--dimension", "8", "--render", str(tmp_path)).returncode == 2
    several = Path(__file__).resolve().parents[3] / "deploy" / "several-nodes"
    many = run("--dimension", "8", "--nodes", str(several), "--render", str(tmp_path / "many"))
    assert many.returncode == 0, many.stderr
    assert "config2.example" in (tmp_path / "many" / "hosts.xml").read_text()
    wrong = run("--dimension", "8", "--render", str(package), "--weights", "much")
    assert wrong.returncode == 2 and "BM25,VECTOR" in wrong.stderr
