"""HTTP to Vespa: what is sent how, with which credentials, and what is tried again.

Tried again, with exponential backoff and full jitter: 429, 502, 503, 504, connection errors, and a
200 whose body is not the JSON that it should be. Everything that we send may be repeated: a put, an
update that assigns and a delete have the same effect twice, and a search has none.
"""

import json
import os
import random
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from clipsearch.version import __version__
from finetune.errors import EngineError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
CONNECT_SECONDS = 10.0
# A connection that lay idle for longer may have been closed by the other side: look first.
IDLE_SECONDS = 0.5

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_READ_BYTES = 65_536

Json = Any  # what json.loads gives: parsed field by field in `clipsearch.vespa.answers`


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How to reach a Vespa.

    Attributes:
        connections: Most requests under way at once while feeding.
        timeout: Seconds that Vespa may take for one request; it answers 504 after.
        search_patience, feed_patience: Seconds during which a failed request is tried again. A
            container takes about 20 seconds to come back, a content node 30.
        token: Sent as a bearer token, over https or to this machine only.
        certificate, key: Files of the client certificate (mTLS).
        authority: File of the certificates that are trusted; None trusts the usual ones.
    """

    connections: int = 64
    timeout: float = 10.0
    search_patience: float = 10.0
    feed_patience: float = 180.0
    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    authority: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "ConnectionSettings":
        """The names that Vespa's own tools read.

        VESPA_CLOUD_SECRET_TOKEN, VESPA_CLI_DATA_PLANE_CERT_FILE, VESPA_CLI_DATA_PLANE_KEY_FILE,
        VESPA_CLI_DATA_PLANE_CA_CERT_FILE. Raises EngineError where only one of certificate and
        key is there, or a file is missing.
        """
        values = os.environ if environment is None else environment
        prefix = "VESPA_CLI_DATA_PLANE_"
        certificate, key, authority = (
            values.get(f"{prefix}{name}_FILE") or None for name in ("CERT", "KEY", "CA_CERT")
        )
        if (certificate is None) != (key is None):
            raise EngineError(
                f"{prefix}CERT_FILE and {prefix}KEY_FILE belong together: set both or none"
            )
        for path in (certificate, key, authority):
            if path is not None and not Path(path).is_file():
                raise EngineError(f"{path}: no such file (named in the environment by {prefix}…)")
        token = values.get("VESPA_CLOUD_SECRET_TOKEN") or None
        return cls(token=token, certificate=certificate, key=key, authority=authority)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    body: bytes
    content_type: str = "application/json"

    def json(self) -> Json:
        """The body parsed; None where it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class ConnectionFailedError(Exception):
    """No whole answer came; the message is the reason in a few words."""


class Transport(Protocol):
    """Sends one request and reads its whole answer. Safe between threads."""

    def send(
        self, method: str, path: str, body: bytes | None, content_type: str, timeout: float
    ) -> Reply:
        """Send; raises ConnectionFailedError where no whole answer came in `timeout` seconds."""

    def close(self) -> None:
        """Close what is open."""


class PoolTransport:
    """A pool of kept HTTP/1.1 connections of the standard library.

    urllib3 takes twice the processor time for each document, `requests` six times: see
    benchmarks/README.md.
    """

    def __init__(self, target: str, settings: ConnectionSettings) -> None:
        """Nothing is sent yet. `target` is scheme, host and port, and may have a path.

        Raises EngineError where that is no address, or a certificate cannot be used.
        """
        try:
            parts = urlsplit(target)
            host, port = parts.hostname or "", parts.port
            if parts.scheme not in ("http", "https") or not host:
                raise ValueError("not of the form http://HOST:PORT")
            self._proxy = _Proxy.of_environment(parts.scheme, host)
            self._tls = _tls_context(settings) if parts.scheme == "https" else None
            self._host, self._port = host, port or (443 if self._tls else 80)
            # Taken from the right and put back there: the oldest are left alone, and time out.
            self._idle = deque([(self._new_connection(), 0.0)])
        except (ValueError, HTTPException) as error:
            raise EngineError(f"{target}: is no address ({error})") from error
        self._headers = {"User-Agent": f"clipsearch/{__version__}"}
        if settings.token and (parts.scheme == "https" or host in _LOOPBACK):
            self._headers["Authorization"] = f"Bearer {settings.token}"
        self._prefix = parts.path.rstrip("/")
        if self._proxy is not None and self._tls is None:
            # A proxy is told the whole address, but for https, where it only passes bytes on.
            self._prefix = target.rstrip("/")
            self._headers.update(self._proxy.headers)

    def send(
        self, method: str, path: str, body: bytes | None, content_type: str, timeout: float
    ) -> Reply:
        """See `Transport`."""
        headers = self._headers
        if body is not None:
            headers = {**headers, "Content-Type": content_type}
        connection = self._take()
        try:
            if connection.sock is None:
                connection.timeout = min(timeout, CONNECT_SECONDS)
                connection.connect()
            connection.sock.settimeout(timeout)
            deadline = time.monotonic() + timeout
            connection.request(method, self._prefix + path, body, headers)
            answer = connection.getresponse()
            content = _read(answer, deadline, timeout)
        except (HTTPException, OSError) as error:
            connection.close()
            raise ConnectionFailedError(_reason(error, timeout)) from error
        except BaseException:
            connection.close()  # half an answer is left in it: it must not serve again
            raise
        self._idle.append((connection, time.monotonic()))
        return Reply(answer.status, content, answer.headers.get("Content-Type", ""))

    def close(self) -> None:
        """See `Transport`."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take(self) -> HTTPConnection:
        """A connection that nobody uses, open or yet to be opened."""
        try:
            connection, used = self._idle.pop()
        except IndexError:
            return self._new_connection()
        if connection.sock is not None and time.monotonic() - used > IDLE_SECONDS:
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if poll.poll(0):  # nothing was asked, so this is the other side closing
                connection.close()
        return connection

    def _new_connection(self) -> HTTPConnection:
        host, port = self._host, self._port
        if self._proxy is not None:
            host, port = self._proxy.host, self._proxy.port
        if self._tls is None:
            return HTTPConnection(host, port)
        connection = HTTPSConnection(host, port, context=self._tls)
        if self._proxy is not None:
            connection.set_tunnel(self._host, self._port, dict(self._proxy.headers))
        return connection


@dataclass(frozen=True, slots=True)
class _Proxy:
    host: str
    port: int
    headers: Mapping[str, str]

    @classmethod
    def of_environment(cls, scheme: str, host: str) -> "_Proxy | None":
        """The proxy that the environment names (https_proxy, no_proxy); none for this machine.

        Raises EngineError where it is of a kind that is not known here.
        """
        named = None if host in _LOOPBACK or proxy_bypass(host) else getproxies().get(scheme)
        if not named:
            return None
        parts = urlsplit(named if "://" in named else f"http://{named}")
        if parts.scheme != "http" or not parts.hostname:
            raise EngineError(
                f"{named}: is no proxy of the form http://HOST:PORT"
                f" (named in the environment by {scheme}_proxy)"
            )
        headers = {}
        if parts.username is not None:
            known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(known.encode()).decode()}"
        return cls(parts.hostname, parts.port or 80, headers)


class Client:
    """Sends through a transport, again and again where that may help."""

    def __init__(self, target: str, transport: Transport, settings: ConnectionSettings) -> None:
        """`target` is for messages; `transport` knows where it sends."""
        self.target = target
        self.settings = settings
        self._transport = transport
        self._random = random.Random()

    def call(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        patience: float,
        stop: threading.Event | None = None,
    ) -> tuple[int, Json]:
        """Send `body` as JSON; the answer's status and JSON (None where the body is not JSON).

        Tried again for `patience` seconds, or until `stop` is set; then the last answer is
        returned as it is. Raises EngineError where none came at all.
        """
        data = None if body is None else json.dumps(body).encode()
        status, content, failure = self._retry(method, path, data, patience, stop)
        if failure is not None:
            raise EngineError(
                f"{self.target}: {failure}; tried for {patience:g} seconds;"
                f" is Vespa running there, and is it the address of its container (port 8080)?"
            )
        return status, content

    def through(self, wrap: Callable[[Transport], Transport]) -> "Client":
        """The same client, with its transport wrapped."""
        return Client(self.target, wrap(self._transport), self.settings)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def _retry(
        self,
        method: str,
        path: str,
        data: bytes | None,
        patience: float,
        stop: threading.Event | None,
    ) -> tuple[int, Json, str | None]:
        deadline = time.monotonic() + patience
        longest = FIRST_WAIT_SECONDS
        # Vespa answers within its own timeout; what comes later than that is a lost connection.
        timeout = self.settings.timeout + 5
        while True:
            status, content, failure = 0, None, None
            try:
                reply = self._transport.send(method, path, data, "application/json", timeout)
                status, content = reply.status, reply.json()
                if status == 200 and not isinstance(content, dict):
                    failure = "the answer is not the JSON that Vespa sends"
            except ConnectionFailedError as error:
                failure = str(error)
            if failure is None and status not in RETRIED_STATUSES:
                return status, content, None
            wait = self._random.uniform(longest / 2, longest)
            longest = min(longest * 2, LONGEST_WAIT_SECONDS)
            if time.monotonic() + wait > deadline or _sleep(wait, stop):
                return status, content, failure


def connect(target: str, settings: ConnectionSettings | None = None) -> Client:
    """A client of the Vespa at `target`, with settings of the environment unless given."""
    settings = ConnectionSettings.from_environment() if settings is None else settings
    return Client(target.rstrip("/"), PoolTransport(target, settings), settings)


def _tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Raises EngineError where a certificate cannot be used."""
    import certifi  # beside the light path

    try:
        context = ssl.create_default_context(cafile=settings.authority or certifi.where())
    except OSError as error:
        raise EngineError(f"{settings.authority}: holds no certificates ({error})") from error
    context.set_alpn_protocols(["http/1.1"])
    if settings.certificate is not None:
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except OSError as error:
            raise EngineError(
                f"{settings.certificate} and {settings.key}: are no client certificate and its"
                f" key ({error})"
            ) from error
    return context


def _read(answer: HTTPResponse, deadline: float, timeout: float) -> bytes:
    """The whole body. Raises ConnectionFailedError where it breaks off, or is late.

    The socket's timeout holds for each packet, and a server that drips bytes would never reach it:
    so only what has come is read, and then the clock is looked at.
    """
    parts = []
    while not answer.isclosed():
        if answer.chunked:
            parts.append(answer.read1(_READ_BYTES))
        else:  # read1 would not count down what is left of the length
            come = len(answer.peek(1)) if answer.length != 0 else 0
            parts.append(answer.read(max(1, come)))
        if time.monotonic() > deadline:
            raise ConnectionFailedError(f"no whole answer in {timeout:g} seconds")
    if answer.length:
        raise ConnectionFailedError("the answer broke off")
    return b"".join(parts)


def _sleep(seconds: float, stop: threading.Event | None) -> bool:
    """Whether `stop` was set meanwhile."""
    if stop is not None:
        return stop.wait(seconds)
    time.sleep(seconds)
    return False


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, TimeoutError):
        return f"no answer in {timeout:g} seconds"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted (VESPA_CLI_DATA_PLANE_CA_CERT_FILE names yours)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, IncompleteRead):
        return "the answer broke off"
    if isinstance(error, ConnectionError | BadStatusLine):
        return "the connection was closed before the answer came"
    return f"{type(error).__name__}: {error}"
