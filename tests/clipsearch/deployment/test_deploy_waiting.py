"""`clipsearch deploy` while it waits: one deadline, lines meanwhile, a report of each service."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from config_server_stub import StubConfigServer
from deploying import Asked, options, quiet
from test_deploy_faults import known
from vespa_stub import StubVespa

from clipsearch import cli
from clipsearch.deployment.config_server import ConfigServer
from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.options import DeployOptions
from clipsearch.deployment.waiting import Services, Waiting, wait_for_services
from finetune.errors import EngineError


def test_a_container_that_restarts_in_a_loop(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    """One deadline for all, lines meanwhile, and at the end what is known of each service."""
    port = int(vespa.url.rsplit(":", 1)[1])
    server.services = [("container", "127.0.0.1", 1), ("searchnode", "127.0.0.1", port)]
    server.loops, server.converge_delay = True, 0.1
    wanted = replace(options(server, vespa, encoder=encoder), index="http://127.0.0.1:1", wait=2.0)
    said: list[str] = []
    start = time.monotonic()
    with pytest.raises(EngineError) as caught:
        deploy(wanted, consent=Asked(), say=said.append)
    assert time.monotonic() - start < 3.9, "twice 2 seconds would be a deadline for each stage"
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("http://127.0.0.1:1 was not ready in 2 seconds (")
    assert "connection refused" in lines[0] and "tried for 0" not in lines[0]
    assert "run the same command with --index http://127.0.0.1:1 as its only place" in lines[0]
    assert re.fullmatch(
        r"  container on 127\.0\.0\.1:1: .*stopped \d+ times meanwhile: it restarts in a loop;"
        r" its health: connection refused",
        lines[1],
    ), lines[1]
    assert lines[2] == f"  searchnode on 127.0.0.1:{port}: runs what was activated; its health: up"
    assert "/opt/vespa/logs/vespa/vespa.log" in lines[3]
    progress = [line for line in said if line.startswith("waiting for http://127.0.0.1:1 (")]
    assert progress and "does not run yet on container on 127.0.0.1:1" in progress[0]


def test_the_command_says_it_in_the_same_words(
    server: StubConfigServer, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.services, server.loops = [("container", "127.0.0.1", 1)], True
    arguments = [
        "deploy", "--encoder", str(encoder), "--config-server", server.url,
        "--index", "http://127.0.0.1:1", "--wait", "1",
    ]  # fmt: skip
    assert cli._run(arguments, debug=False) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\nwaiting for http://127.0.0.1:1 (" in printed.err
    assert "\nError: http://127.0.0.1:1 was not ready in 1 seconds (" in printed.err
    assert "\n  container on 127.0.0.1:1: " in printed.err
    assert "Traceback" not in printed.err and "tried for 0" not in printed.err


def test_a_config_server_that_never_answers_and_one_that_is_slow_share_the_deadline(
    server: StubConfigServer, encoder: Path
) -> None:
    said: list[str] = []
    nobody = DeployOptions(encoder=encoder, config_server="http://127.0.0.1:1", wait=1.0)
    start = time.monotonic()
    with pytest.raises(
        EngineError, match=r"no config server answers \(connection refused; waited 1"
    ):
        deploy(nobody, consent=Asked(), say=said.append)
    assert time.monotonic() - start < 4
    assert any("waiting for the config server at http://127.0.0.1:1 (" in line for line in said)


def test_the_time_of_one_stage_is_missing_in_the_next() -> None:
    waiting = Waiting(1.0, quiet)
    assert waiting.until(lambda seconds: "not yet", "the first", most=0.6) == "not yet"
    assert 0.0 <= waiting.left <= 0.45
    start = time.monotonic()
    assert waiting.until(lambda seconds: "not yet", "the second") == "not yet"
    assert time.monotonic() - start < 1.0 and waiting.left == 0.0
    calls: list[float] = []
    assert waiting.until(lambda seconds: calls.append(seconds), "the third") is None
    assert len(calls) == 1, "asked once, however late it is"


def test_what_is_waited_for_is_said_again_only_where_it_stays_or_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipsearch.deployment.waiting.POLL_SECONDS", 0.01)
    monkeypatch.setattr("clipsearch.deployment.waiting.CHANGED_LINE_SECONDS", 0.0)
    said: list[str] = []
    reasons = iter(["down", "down", "down", "half up", "half up", None])
    assert Waiting(5.0, said.append).until(lambda seconds: next(reasons), "Vespa") is None
    assert [line.rpartition(": ")[2] for line in said] == ["down", "half up"]
    assert said[0].startswith("waiting for Vespa (0 of 5 s): ")


def test_a_machine_that_is_down_does_not_stop_an_index_that_answers(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    server.services = [("searchnode", "127.0.0.1", 1)]
    server.not_converged = 10_000
    said: list[str] = []
    wanted = options(server, vespa, encoder=encoder, wait=1.0)
    deployed = deploy(wanted, consent=Asked(), say=said.append)
    assert deployed is not None and known(vespa) == deployed.info
    assert any(
        "answers, but after 1 seconds what was activated does not run yet" in s for s in said
    )
    assert any("searchnode on 127.0.0.1:1: runs generation 1, not 2" in line for line in said)


def test_services_of_which_nothing_is_known(server: StubConfigServer) -> None:
    def refused(seconds: float) -> None:
        raise EngineError("connection refused")

    waiting = Waiting(0.1, quiet)
    for services, reason in (
        (Services(None), "no config server was asked"),
        (Services(ConfigServer("http://127.0.0.1:1")), "http://127.0.0.1:1: connection refused"),
    ):
        with pytest.raises(EngineError, match=f"nothing is known: {reason}"):
            wait_for_services(refused, services, "http://vespa:8080", waiting)
    services = Services(ConfigServer(server.url))
    assert services.behind(1.0) is None
    server.refusal = ("serviceconverge", 500, {"message": "gone"})
    assert services.behind(1.0) is None, "asked of the index then"
    assert services.report() == [
        f"that was before the config server said no more: {server.url}: gone"
    ]


def test_wrong_credentials_end_at_once(
    server: StubConfigServer, vespa: StubVespa, encoder: Path
) -> None:
    vespa.token = "another"
    start = time.monotonic()
    with pytest.raises(EngineError, match="access refused"):
        deploy(
            DeployOptions(encoder=encoder, index=vespa.url, wait=60.0), consent=Asked(), say=quiet
        )
    with pytest.raises(EngineError, match="access refused"):
        deploy(options(server, vespa, encoder=encoder, wait=60.0), consent=Asked(), say=quiet)
    assert time.monotonic() - start < 30
