"""The HTTP transport: TLS, client certificates, tokens, proxies, addresses, kept connections."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clipsearch.vespa.connection import (
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


class Recorder(http.server.ThreadingHTTPServer):
    """Answers everything with {}, and remembers what it was asked and by whom."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections: set[tuple[str, int]] = set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Handshakes that fail on purpose are no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.server.connections.add(self.client_address)
        self.send_response(302 if "moved" in self.path else 200)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@contextmanager
def recorder(tls: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    server = Recorder()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(target: str, settings: ConnectionSettings = SETTINGS, path: str = "/x") -> Reply:
    transport = PoolTransport(target, settings)
    try:
        return transport.send("GET", path, None, "", 5.0)
    finally:
        transport.close()


@dataclass(frozen=True)
class Certificate:
    certificate: str
    key: str


def make_certificate(folder: Path, name: str) -> Certificate:
    """Signed by itself, for 127.0.0.1; good for a server, a client, and as an authority."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    pem = serialization.Encoding.PEM
    Path(files.certificate).write_bytes(certificate.public_bytes(pem))
    Path(files.key).write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def server_context(own: Certificate, client: Certificate | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    if client is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client.certificate)
    return context


def test_a_certificate_that_is_not_trusted_is_refused_and_the_mend_is_named(tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "server")
    with recorder(server_context(own)) as server:
        target = f"https://127.0.0.1:{server.port}"
        with pytest.raises(ConnectionFailedError, match="VESPA_CLI_DATA_PLANE_CA_CERT_FILE"):
            get(target)
        assert server.asked == []
        trusting = replace(SETTINGS, authority=own.certificate)
        assert get(target, trusting).status == 200


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


@pytest.mark.parametrize(
    "address", ["http://", "ftp://vespa:8080", "http://vespa:99999", "http://[::1", "http://a b:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(EngineError, match="is no address"):
        PoolTransport(address, SETTINGS)
