"""A config server's answers: read, or one error, whatever stands in them."""

import contextlib
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import VALUES, places
from raw_server import RawServer, Step, for_ever, http_answer

from clipsearch.deployment.config_server import ConfigServer, Running, health
from clipsearch.engines.vespa.http.connection import Reply
from finetune.errors import EngineError

SERVICE = {"type": "container", "host": "vespa", "port": 8080, "currentGeneration": 3, "url": "u"}
CHANGED = {
    "clusterName": "images",
    "documentType": "image",
    "messages": ["a field"],
    "services": [{"serviceName": "searchnode", "hostName": "vespa"}],
}
ANSWERS: list[Any] = [
    {"session-id": "5", "message": "Session 5 created."},
    {
        "log": [{"level": "WARNING", "message": "odd"}],
        "configChangeActions": {"restart": [CHANGED], "refeed": [CHANGED], "reindex": [CHANGED]},
    },
    {"services": [SERVICE], "wantedGeneration": 4, "currentGeneration": 3, "converged": False},
    [{"name": "http://vespa/content/schemas/image.sd", "status": "new", "md5": "a"}],
    {"time": 1, "status": {"code": "initializing", "message": "soon"}},
    {"error-code": "NOT_FOUND", "message": "No such application"},
]


class Canned:
    """A transport that gives one answer to everything."""

    def __init__(self, status: int, body: Any) -> None:
        self.reply = Reply(status, json.dumps(body).encode())

    def send(self, *arguments: Any, **named: Any) -> Reply:
        return self.reply

    def close(self) -> None:
        """Nothing is open."""


def server_that_says(status: int, body: Any) -> ConfigServer:
    server = ConfigServer("http://vespa.example:19071")
    server._transport = Canned(status, body)  # type: ignore[assignment]
    return server


@st.composite
def changed_answers(draw: st.DrawFn) -> Any:
    """An answer in which one thing is something else."""
    body = copy.deepcopy(draw(st.sampled_from(ANSWERS)))
    way = draw(st.sampled_from(list(places(body))))
    if not way:
        return draw(VALUES)
    holder = body
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = draw(VALUES)
    return body


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(status=st.sampled_from([200, 400, 404, 500]), body=changed_answers())
def test_any_answer_is_read_or_refused(status: int, body: Any, tmp_path: Path) -> None:
    server = server_that_says(status, body)
    archive = tmp_path / "a.zip"
    archive.touch()
    printed: list[str] = []
    for ask in (
        lambda: server.create_session(archive),
        lambda: server.prepare("5"),
        lambda: server.activate("5"),
        lambda: server.running(),
        lambda: server.convergence(1.0),
        lambda: server.read("services.xml"),
        lambda: health(server._transport, 1.0),
    ):
        with contextlib.suppress(EngineError):
            try:
                printed.append(repr(ask()))
            except EngineError as error:
                printed.append(str(error))
                raise
    "".join(printed).encode()


def test_only_a_config_servers_own_words_say_that_nothing_is_deployed() -> None:
    """A page of another server, taken for that, would let documents go."""
    own = {"error-code": "NOT_FOUND", "message": "Application 'default.default' was not found."}
    assert server_that_says(404, own).running() == Running({})
    for foreign in ("<html>404</html>", {"detail": "Not Found"}, [], None):
        running = server_that_says(404, foreign).running()
        assert running.files is None and "answered 404" in running.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"status": {"code": "up"}}, None),
        ({"status": {"code": "down", "message": "no disk"}}, "says that it is down (no disk)"),
        ({"status": "up"}, "answered 200, and not as Vespa does"),
    ],
)
def test_health(body: Any, reason: str | None) -> None:
    assert server_that_says(200, body).failure(1.0) == reason


def test_a_server_that_drips_is_not_waited_for() -> None:
    head = b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n"

    def script() -> Iterator[Step]:
        yield head
        yield from for_ever(b"x", 0.1)

    with RawServer(script=script) as raw:
        start = time.monotonic()
        assert ConfigServer(raw.url).failure(1.0) == "no whole answer in 1 seconds"
        assert time.monotonic() - start < 20
    broken = http_answer('{"status"', length="100")
    with RawServer(answer=lambda request: broken) as raw:
        assert "broke" in str(ConfigServer(raw.url).failure(2.0))


def test_credentials_go_to_the_server_that_was_named_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("VESPA_CLOUD_SECRET_TOKEN", "a-secret-token")
    with RawServer(answer=lambda request: http_answer("{}")) as there:
        moved = f"HTTP/1.1 302 X\r\nLocation: {there.url}\r\nContent-Length: 0\r\n\r\n".encode()
        with RawServer(answer=lambda request: moved) as raw:
            assert ConfigServer(raw.url).failure(5.0) == "answered 302, and not as Vespa does"
            assert b"Authorization: Bearer a-secret-token\r\n" in raw.requests[0]
            ConfigServer(raw.url.replace("://", "://me:mine@")).failure(5.0)
            assert b"Authorization: Basic bWU6bWluZQ==\r\n" in raw.requests[1]
        assert there.requests == []
    monkeypatch.delenv("VESPA_CLOUD_SECRET_TOKEN")
    with RawServer(answer=lambda request: http_answer("{}")) as raw:
        ConfigServer(raw.url).failure(5.0)
        assert b"uthorization" not in raw.requests[0], "not what ~/.netrc has for the host"
