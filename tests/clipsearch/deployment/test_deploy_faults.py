"""`clipsearch deploy` where it is refused, finds another's Vespa, or cannot read what is there."""

import json
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config_server_stub import StubConfigServer
from deploying import REINDEX, Asked, make_encoder, options, quiet, run
from vespa_stub import StubVespa, numbered_document

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.refusals import Documents, explain, free_overrides
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import read_info, write_info
from clipsearch.operations import Upsert
from finetune.errors import EngineError, IndexVersionError

MUSIC = {
    "services.xml": b'<services><content id="music"/></services>',
    "schemas/music.sd": b"schema music { document music {} }",
}
INFO = ("index_info", "index")


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    """An encoder of another dimension."""
    return make_encoder(tmp_path / "wider", name="wider", dimension=12)


def feed(vespa: StubVespa, count: int) -> None:
    documents = [Upsert(numbered_document(number)) for number in range(count)]
    assert all(one.error is None for one in VespaEngine.open(vespa.url).feed(documents))


def command(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    where = ("--config-server", server.url, "--index", vespa.url, "--wait", "5")
    return run("--encoder", str(encoder), *where, *more)


def known(vespa: StubVespa) -> IndexInfo:
    info = read_info(connect(vespa.url))
    assert info is not None
    return info


# -- refused changes


def test_a_refused_change_names_the_way_on_and_its_cost_and_that_way_works(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path
) -> None:
    assert command(server, vespa, encoder).returncode == 0
    feed(vespa, 3)
    refused = command(server, vespa, wider)
    assert refused.returncode == 1
    assert "'tensor<float>(x[8])' -> 'tensor<float>(x[12])'" in refused.stderr, "Vespa's sentence"
    assert (
        "To go on, add --allow field-type-change. It costs: 3 documents lose their em"
        in refused.stderr
    )
    assert known(vespa).dimension == 8 and server.generation == 2

    (option,) = re.findall(r"--allow [a-z-]+", refused.stderr)
    done = command(server, vespa, wider, *option.split())
    assert done.returncode == 0, done.stderr
    assert "3 documents: found by words alone until fed again" in done.stderr
    assert (known(vespa).dimension, known(vespa).index_id) == (12, "")
    assert len(vespa.images()) == 3


def test_a_changed_dimension_of_an_empty_index_needs_no_leave(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path
) -> None:
    assert command(server, vespa, encoder).returncode == 0
    done = command(server, vespa, wider)
    assert done.returncode == 0, done.stderr
    assert "no document is in the index, so this costs nothing: field-type-change" in done.stderr
    assert (known(vespa).dimension, vespa.dimension) == (12, 12)
    again = command(server, vespa, wider)
    assert again.returncode == 0
    assert "validation-overrides.xml" not in server.active, "allowed once, not for days"


def test_a_count_that_failed_is_not_taken_for_none(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    feed(vespa, 2)
    vespa.choose_fault = lambda request: "503" if request.path == "/search/" else None
    before = dict(server.active)
    with pytest.raises(EngineError, match=r"--allow field-type-change.*could not be counted"):
        deploy(options(server, vespa, encoder=wider), consent=Asked(), say=quiet)
    other = make_encoder(encoder.parent / "other", name="other")
    asked = Asked(answer=False)
    assert deploy(options(server, vespa, encoder=other), consent=asked, say=quiet) is None
    (cost,) = asked.changes[0].costs
    assert "could not be counted" in cost and "of the encoder before" in cost
    assert server.active == before


def test_every_change_that_costs_nothing_is_allowed_one_after_the_other(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path
) -> None:
    """Vespa names them one at a time."""
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    refused = server._refused

    def stricter(package: dict[str, bytes]) -> str | None:
        if b">hnsw-settings-change<" in package.get("validation-overrides.xml", b""):
            return refused(package)
        return (
            "Invalid application: Changes to hnsw index settings: … To allow this add <allow"
            " until='yyyy-mm-dd'>hnsw-settings-change</allow> to validation-overrides.xml"
        )

    server._refused = stricter  # type: ignore[method-assign]
    deploy(options(server, vespa, encoder=wider), consent=Asked(), say=quiet)
    assert known(vespa).dimension == 12
    server._refused = lambda package: stricter({})  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="To go on, add --allow hnsw-settings-change"):
        deploy(options(server, vespa, encoder=wider), consent=Asked(), say=quiet)


def test_a_password_in_the_address_is_not_printed(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    secret = vespa.url.replace("://", "://user:hunter22@")
    done = run(
        "--encoder", str(encoder), "--config-server",
        server.url.replace("://", "://user:hunter22@"), "--index", secret, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["index"] == vespa.url
    dead = "http://user:hunter22@127.0.0.1:1"
    for where in (
        ("--config-server", server.url, "--index", dead, "--wait", "0.3"),
        ("--config-server", dead, "--wait", "0"),
        ("--index", dead, "--wait", "0.3"),
        ("--index", secret, "--precision", "bfloat16"),
        ("--index", secret.replace("http", "ftp")),
    ):
        failed = run("--encoder", str(encoder), *where)
        assert failed.returncode in (1, 2) and "Error: " in failed.stderr
        assert "hunter22" not in failed.stderr + failed.stdout, where
    assert "hunter22" not in done.stdout + done.stderr


def test_documents_that_come_in_between_are_not_emptied(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, wider: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    before = dict(server.active)

    def feeds_meanwhile(changes: Any) -> bool:
        feed(vespa, 1)
        return True

    with pytest.raises(EngineError, match=r"documents came in between.*nothing was changed"):
        deploy(options(server, vespa, encoder=wider), consent=feeds_meanwhile, say=quiet)
    assert server.active == before


def recorded_refusals(recorded: Path) -> dict[str, str]:
    answers = json.loads((recorded / "http-deploy.json").read_text(encoding="utf-8"))
    return {one["name"]: one["body"]["message"] for one in answers if one["status"] != 200}


def test_each_recorded_validation_has_its_cost(recorded: Path) -> None:
    messages = recorded_refusals(recorded)
    held, none, unknown = Documents(4000), Documents(0), Documents(None, "no answer")
    for name, id_ in {
        "dimension-changed": "field-type-change",
        "distance-metric-changed": "hnsw-settings-change",
        "hnsw-changed": "hnsw-settings-change",
        "stemming-changed": "indexing-change",
    }.items():
        told = explain(messages[name], held, None)
        assert f"add --allow {id_}. It costs: " in told and "4,000 documents" in told
        assert "https://docs.vespa.ai" not in told[len(messages[name]) :], "a cost of our own words"
        assert free_overrides(messages[name], none) == (id_,)
        assert free_overrides(messages[name], held) == free_overrides(messages[name], unknown) == ()
        of_music = messages[name].replace("type 'image'", "type 'music'")
        if of_music != messages[name]:
            assert free_overrides(of_music, none) == (), "nobody counted those"
    assert "lose what path held" in explain(messages["field-type-changed"], held, None)
    for name in ("schema-syntax", "unknown-inherits", "services-missing"):
        assert explain(messages[name], held, None) == messages[name]
        assert free_overrides(messages[name], none) == ()
    new = messages["hnsw-changed"].replace("hnsw-settings-change", "quite-new-change")
    assert "--allow quite-new-change. It costs: what it does to documents, https" in explain(
        new, held, None
    )
    assert free_overrides(new, none) == ()


# -- another application


def test_another_application_is_named(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    server.active = dict(MUSIC)
    refused = command(server, vespa, encoder)
    assert refused.returncode == 1
    assert "Error: the application music, with documents of its own, runs there" in refused.stderr
    assert "Content cluster 'music' is removed" in refused.stderr
    assert "give that application up for good, with --allow content-cluster" in refused.stderr
    assert server.active == MUSIC
    done = command(server, vespa, encoder, "--allow", "content-cluster-removal")
    assert done.returncode == 0, done.stderr
    assert "it goes, and they with it" in done.stderr


def test_another_application_that_vespa_would_replace_is_not_replaced_unasked(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    server.active = {"services.xml": b"<services/>"}
    asked = Asked(answer=False)
    assert deploy(options(server, vespa, encoder=encoder), consent=asked, say=quiet) is None
    (cost,) = asked.changes[0].costs
    assert cost.startswith("the application without any schema")
    assert not asked.changes[0].first


def test_an_application_of_another_name_that_holds_the_machines_is_named(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    message = (
        "Invalid application: 'default.default.default' tried to allocate host 'vespa', but the"
        " host is already taken by 'default.music.default'"
    )
    server.refusal = ("prepared", 400, {"error-code": "BAD_REQUEST", "message": message})
    with pytest.raises(
        EngineError, match=r"the application music, .* runs there, on vespa; deploy"
    ):
        deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)


# -- what cannot be read is not assumed


def test_an_index_that_does_not_answer_keeps_what_its_package_says(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    first = options(
        server, vespa, encoder=encoder, precision="bfloat16", language="fr", weights=(0.3, 2.0)
    )
    deploy(first, consent=Asked(), say=quiet)
    feed(vespa, 2)
    before = dict(server.active)
    activated: list[bool] = []
    server.on_activate = lambda package: activated.append(True)
    vespa.choose_fault = lambda request: None if activated else "reset"
    asked = Asked()
    deploy(options(server, vespa, encoder=encoder), consent=asked, say=quiet)
    assert server.active == before, "precision, language and weights as they were"
    assert asked.changes[0].costs == (), "the same text encoder: nothing is lost"
    (line,) = [one for one in asked.changes[0].differences if "cannot be read (" in one]
    assert vespa.url in line and line.endswith(")") and "is Vespa running" not in line
    info = known(vespa)
    assert (info.precision, info.language, info.bm25_weight) == ("bfloat16", "fr", 0.3)

    activated.clear()
    other = make_encoder(encoder.parent / "other", name="other")
    deploy(options(server, vespa, encoder=other), consent=asked, say=quiet)
    assert "of the encoder before" in asked.changes[1].costs[0]


def test_what_is_deployed_counts_where_the_index_was_told_something_else(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    half = options(server, vespa, encoder=encoder, precision="bfloat16")
    deploy(half, consent=Asked(), say=quiet)
    client = connect(vespa.url)
    write_info(client, replace(known(vespa), precision="float"))
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    assert known(vespa).precision == vespa.precision == "bfloat16"


def test_an_index_of_a_later_version_is_left_alone(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    later = {"content": json.dumps({"format_version": 99, "dimension": 8})}
    vespa.documents[INFO] = later
    requests = len(server.requests)
    start = time.monotonic()
    for where in ({}, {"config_server": None}):
        with pytest.raises(IndexVersionError, match="format 99"):
            deploy(
                options(server, vespa, encoder=encoder, wait=60.0, **where),
                consent=Asked(),
                say=quiet,
            )
    assert time.monotonic() - start < 30, "no waiting mends it"
    assert vespa.documents[INFO] == later
    assert not [one for one in server.requests[requests:] if one.endswith("/active")]


@pytest.mark.parametrize("alone", [False, True])
def test_what_an_index_knows_is_written_anew_where_it_cannot_be_read(
    server: StubConfigServer, vespa: StubVespa, encoder: Path, alone: bool
) -> None:
    """As the error of every other command says."""
    half = options(server, vespa, encoder=encoder, precision="bfloat16")
    deploy(half, consent=Asked(), say=quiet)
    vespa.documents[INFO] = {"content": "{torn"}
    with pytest.raises(EngineError, match="write it anew with: clipsearch deploy"):
        VespaEngine.open(vespa.url)
    where = {"config_server": None} if alone else {}
    deploy(options(server, vespa, encoder=encoder, **where), consent=Asked(), say=quiet)
    assert known(vespa).precision == "bfloat16"
    assert known(vespa).encoder_name == "photos"


def test_reindexing_that_could_not_be_started_is_said(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    server.actions = {"reindex": [REINDEX]}
    server.refusal = ("reindex", 500, {"message": "Zookeeper is away"})
    with pytest.raises(
        EngineError, match=r"Zookeeper is away\nThe change is active, but"
    ) as caught:
        deploy(options(server, vespa, encoder=encoder), consent=Asked(), say=quiet)
    (address,) = re.findall(r"curl -X POST '([^']+)'", str(caught.value))
    server.refusal = None
    status, _ = server.answer("POST", address.removeprefix(server.url), "", b"")
    assert status == 200


def test_rendering_for_an_index_that_cannot_be_read_is_refused(
    encoder: Path, tmp_path: Path
) -> None:
    """Else a package of float would be written for an index of bfloat16."""
    folder = tmp_path / "package"
    done = run("--encoder", str(encoder), "--render", str(folder), "--index", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "connection refused" in done.stderr and "without --index" in done.stderr
    assert "tried for 0 seconds" not in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("wait", ["-1", "nan", "inf"])
def test_a_wait_that_is_none(encoder: Path, wait: str) -> None:
    done = run("--encoder", str(encoder), "--index", "http://127.0.0.1:1", "--wait", wait)
    assert done.returncode == 2 and "--wait" in done.stderr
