"""The HTTP transport: TLS, client certificates, tokens, proxies, addresses, kept connections."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from recording_server import (
    make_certificate,
    recorder,
    server_context,
)

from clipsearch.engines.vespa.http import connection, network
from clipsearch.engines.vespa.http.connection import (
    ConnectionFailedError,
    ConnectionSettings,
    PoolTransport,
    Reply,
)
from finetune.errors import EngineError

SETTINGS = ConnectionSettings(connections=2)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def get(target: str, settings: ConnectionSettings = SETTINGS, path: str = "/x") -> Reply:
    transport = PoolTransport(target, settings)
    try:
        return transport.send("GET", path, None, "", 5.0)
    finally:
        transport.close()


def test_a_certificate_that_is_not_trusted_is_refused_and_the_mend_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_certificate(tmp_path, "server")
    with recorder(server_context(own)) as server:
        target = f"https://127.0.0.1:{server.port}"
        with pytest.raises(ConnectionFailedError, match="SSL_CERT_FILE"):
            get(target)
        assert server.asked == []
        trusting = replace(SETTINGS, authority=own.certificate)
        assert get(target, trusting).status == 200
        monkeypatch.setenv("SSL_CERT_FILE", own.certificate)
        assert get(target).status == 200
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        with pytest.raises(EngineError, match=r"none\.pem: holds no certificates"):
            get(target)


def test_a_client_certificate_and_a_token_are_sent(tmp_path: Path) -> None:
    own, client = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "client")
    with recorder(server_context(own, client)) as server:
        target = f"https://127.0.0.1:{server.port}"
        trusting = replace(SETTINGS, authority=own.certificate)
        with pytest.raises(ConnectionFailedError):
            get(target, trusting)
        known = replace(trusting, certificate=client.certificate, key=client.key, token="secret")
        assert get(target, known).status == 200
        ((_, headers),) = server.asked
        assert headers["authorization"] == "Bearer secret"


def test_a_token_never_travels_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, token="secret")
    with recorder() as server:
        get(f"http://127.0.0.1:{server.port}", settings)
        assert server.asked[-1][1]["authorization"] == "Bearer secret", "this machine"
        # A proxy sees what would be sent to another machine.
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
        get("http://vespa.example:8080", settings)
        assert "authorization" not in server.asked[-1][1]


def test_a_proxy_is_told_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorder() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert get("http://vespa.example:8080/base/", path="/search/?a=b%2Fc").status == 200
        ((path, headers),) = proxy.asked
        assert path == "http://vespa.example:8080/base/search/?a=b%2Fc"
        assert headers["host"] == "vespa.example:8080"
        get(f"http://localhost:{proxy.port}", path="/direct")
        assert proxy.asked[-1][0] == "/direct", "this machine needs no proxy"


def test_a_path_in_the_address_is_kept() -> None:
    with recorder() as server:
        get(f"http://127.0.0.1:{server.port}/vespa/", path="/document/v1/a%2Fb?x=1")
        assert server.asked[-1][0] == "/vespa/document/v1/a%2Fb?x=1"


def test_a_redirect_is_not_followed() -> None:
    with recorder() as server:
        assert get(f"http://127.0.0.1:{server.port}", path="/moved").status == 302
        assert len(server.asked) == 1


def test_connections_are_kept() -> None:
    with recorder() as server:
        transport = PoolTransport(f"http://127.0.0.1:{server.port}", SETTINGS)
        for _ in range(20):
            assert transport.send("GET", "/x", None, "", 5.0).json() == {}
        transport.close()
        assert len(server.connections) == 1


def test_a_proxy_passes_tls_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "server")
    for room in (connection, network):
        monkeypatch.setattr(room, "LOOPBACK", frozenset())
    with recorder(server_context(own)) as server, recorder() as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        target = f"https://127.0.0.1:{server.port}"
        known = replace(SETTINGS, authority=own.certificate, token="secret")
        assert get(target, known, path="/inside").status == 200
        ((path, headers),) = server.asked
        assert (path, headers["authorization"]) == ("/inside", "Bearer secret")
        assert "proxy-authorization" not in headers, "is for the proxy alone"
        ((path, headers),) = proxy.asked
        assert path == f"127.0.0.1:{server.port}"
        assert headers["proxy-authorization"] == "Basic bWU6cEBzcw==", "me:p@ss"
        assert "authorization" not in headers


def test_a_proxy_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(EngineError, match=r"socks5://127.0.0.1:1080.*http_proxy"):
        get("http://vespa.example:8080")


def test_certificates_that_are_none(tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "server")
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing of the kind")
    for settings in (
        replace(SETTINGS, certificate=str(bad), key=own.key),
        replace(SETTINGS, authority=str(bad)),
    ):
        with pytest.raises(EngineError, match=r"bad\.pem"):
            get("https://vespa.example", settings)


class Scripted:
    """Answers each connection's first request with bytes, waiting where there is a number."""

    def __init__(self, *script: bytes | float, keep: bool = False) -> None:
        self.script, self.keep, self.connections = script, keep, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.target = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.suppress(OSError):  # the client gave up
                self._answer(connection)
            if not self.keep:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        connection.recv(65_536)
        for step in self.script:
            if isinstance(step, bytes):
                connection.sendall(step)
            else:
                time.sleep(step)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "script",
    [
        (HEAD + b"Content-Length: 6\r\n\r\n", 0.01, b"abc", 0.01, b"def"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", 0.01, b"c\r\n3\r\ndef\r\n0\r\n\r\n"),
        (HEAD + b"Connection: close\r\n\r\nabc", 0.01, b"def"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"Content-Length: 6\r\n\r\nabcdef"),
    ],
    ids=["length", "chunked", "until closed", "after a 100"],
)
def test_a_body_is_read_whole(script: tuple[bytes | float, ...]) -> None:
    with Scripted(*script) as server:
        assert get(server.target).body == b"abcdef"


def test_a_body_of_nothing_is_not_waited_for() -> None:
    with Scripted(HEAD + b"Content-Length: 0\r\n\r\n", keep=True) as server:
        assert get(server.target).body == b""
    with Scripted(b"HTTP/1.1 204 No Content\r\n\r\n", keep=True) as server:
        assert get(server.target).status == 204


@pytest.mark.parametrize(
    "script",
    [
        (HEAD + b"Content-Length: 6\r\n\r\nabc",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\nabc",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",),
        (HEAD[:9],),
        (),
    ],
    ids=["length", "inside a chunk", "between chunks", "status", "nothing"],
)
def test_half_an_answer_is_none(script: tuple[bytes | float, ...]) -> None:
    with (
        Scripted(*script) as server,
        pytest.raises(ConnectionFailedError, match=r"broke off|was closed"),
    ):
        get(server.target)


def test_a_body_that_drips_is_given_up() -> None:
    for head in (b"Content-Length: 60\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3c\r\n"):
        drops = [each for _ in range(60) for each in (0.05, b"x")]
        with Scripted(HEAD + head, *drops) as server:
            transport = PoolTransport(server.target, SETTINGS)
            start = time.monotonic()
            with pytest.raises(ConnectionFailedError, match=r"no whole answer in 0\.2 seconds"):
                transport.send("GET", "/", None, "", 0.2)
            assert time.monotonic() - start < 2.5
            transport.close()


def test_a_connection_that_was_closed_meanwhile_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.05)
    with Scripted(HEAD + b"Content-Length: 2\r\n\r\n{}") as server:
        transport = PoolTransport(server.target, SETTINGS)
        for _ in range(3):  # the server closes after each answer, without saying so
            assert transport.send("GET", "/", None, "", 5.0).json() == {}
            time.sleep(0.1)
        transport.close()
        assert server.connections == 3


def test_threads_have_connections_of_their_own() -> None:
    with recorder() as server:
        transport = PoolTransport(f"http://127.0.0.1:{server.port}", SETTINGS)

        def ask(number: int) -> None:
            for turn in range(20):
                path = f"/{number}/{turn}"
                assert transport.send("GET", path, None, "", 5.0).json() == {}

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        transport.close()
        assert len(server.asked) == 160 and len({path for path, _ in server.asked}) == 160
        assert len(server.connections) <= 8


@pytest.mark.parametrize(
    "address", ["http://", "ftp://vespa:8080", "http://vespa:99999", "http://[::1", "http://a b:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(EngineError, match="is no address"):
        PoolTransport(address, SETTINGS)
