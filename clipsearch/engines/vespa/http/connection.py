"""HTTP to Vespa: what is sent how, with which credentials, and what is tried again.

Tried again, with exponential backoff and full jitter: 429, 502, 503, 504, connection errors, and a
200 whose body is not the JSON that it should be, or does not name the document that it is about.
Everything that we send may be repeated: a put, an update that assigns and a delete have the same
effect twice, and a search has none.
"""

import contextlib
import os
import random
import select
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPException, IncompleteRead
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from clipsearch.engines.vespa.http.address import LOOPBACK, Address, without_credentials
from clipsearch.engines.vespa.http.network import Proxy, tls_context
from clipsearch.engines.vespa.http.timed import (
    CONNECT_SECONDS,
    LARGEST_ANSWER,
    LeftError,
    Limit,
    TimedConnection,
    TooLargeError,
    recorded_head,
)
from clipsearch.version import __version__
from finetune.errors import EngineError
from finetune.text.masking import has_control_characters, masked

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
# What waits for less is over before anybody wonders.
SHORTEST_WAIT_TOLD = 2.0
# A connection that lay idle for longer may have been closed by the other side: look first.
IDLE_SECONDS = 0.5
# What is sent may take longer than the answer, by its size at this rate.
SLOWEST_BYTES_PER_SECOND = 100_000
TOKEN_VARIABLE = "VESPA_CLOUD_SECRET_TOKEN"

Json = Any  # what json.loads gives: parsed field by field in `clipsearch.engines.vespa.answers`
Body = bytes | BinaryIO | None


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
        """Read the names that Vespa's own tools read.

        VESPA_CLOUD_SECRET_TOKEN, VESPA_CLI_DATA_PLANE_CERT_FILE, VESPA_CLI_DATA_PLANE_KEY_FILE,
        VESPA_CLI_DATA_PLANE_CA_CERT_FILE. Raises EngineError where only one of certificate and
        key is there, a file is missing, or the token is none that can be sent.
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
        token = values.get(TOKEN_VARIABLE) or None
        if token is not None and (has_control_characters(token) or not token.isascii()):
            raise EngineError(
                f"{TOKEN_VARIABLE} holds a character that no header can (a line end that was copied"
                f" along, perhaps); set the token alone"
            )
        return cls(token=token, certificate=certificate, key=key, authority=authority)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read to its end.

    Attributes:
        whole: Whether its length or its chunks said where the body ends; otherwise it ended with
            the connection, and may have broken off.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    whole: bool = True

    def json(self) -> Json:
        """Return the body parsed; None where it is not JSON, which knows no NaN."""
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None


class ConnectionFailedError(Exception):
    """No whole answer came; the message is the reason in a few words."""


class Transport(Protocol):
    """Sends one request and reads its whole answer. Safe between threads."""

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """Send; raises ConnectionFailedError where no whole answer came in `timeout` seconds.

        That is for everything together: name, connection, headers, body. `left` is set by another
        thread where nobody waits for the answer any more; then this fails at once.
        """

    def close(self) -> None:
        """Close what is open."""


class PoolTransport:
    """A pool of kept HTTP/1.1 connections of the standard library, to either of Vespa's servers.

    urllib3 takes twice the processor time for each document, `requests` six times: see
    benchmarks/README.md.
    """

    def __init__(self, target: str, settings: ConnectionSettings) -> None:
        """Nothing is sent yet. `target` is scheme, host and port, and may have a path.

        A name and password in it are sent (and no token then). Raises EngineError where that is no
        address, or a certificate cannot be used.
        """
        self._address = address = Address.parse(target)
        encrypted = address.scheme == "https"
        try:
            self._proxy = Proxy.of_environment(address.scheme, address.host)
            self._tls = (
                tls_context(settings.authority, settings.certificate, settings.key)
                if encrypted
                else None
            )
            # Taken from the right and put back there: the oldest are left alone, and time out.
            self._idle = deque([(self._new_connection(), 0.0)])
        except (ValueError, HTTPException) as error:
            raise EngineError(f"{address.shown}: is no address ({error})") from error
        self._headers = {"User-Agent": f"clipsearch/{__version__}"}
        if address.authorization is not None:
            self._headers["Authorization"] = address.authorization
        elif settings.token and (encrypted or address.host in LOOPBACK):
            self._headers["Authorization"] = f"Bearer {settings.token}"
        self._prefix = address.path
        if self._proxy is not None and not encrypted:
            # A proxy is told the whole address, but for https, where it only passes bytes on.
            self._prefix = address.shown
            self._headers.update(self._proxy.headers)

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`."""
        headers, size = self._headers, 0
        if body is not None:
            size = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
            headers = {**headers, "Content-Type": content_type, "Content-Length": str(size)}
        connection = self._take()
        connection.limit = Limit(timeout + size / SLOWEST_BYTES_PER_SECOND, left)
        try:
            # Refused before all was sent: an answer that tells why may have come.
            with contextlib.suppress(BrokenPipeError):
                connection.request(method, self._prefix + path, body, headers)
            answer = connection.getresponse()
            ends = answer.chunked or answer.length is not None
            content = connection.read_whole(answer)
        except (HTTPException, OSError, ValueError, LeftError) as error:
            waited = min(timeout, CONNECT_SECONDS) if connection.sock is None else timeout
            connection.close()
            raise ConnectionFailedError(_reason(error, waited)) from error
        except BaseException:
            connection.close()  # half an answer is left in it: it must not serve again
            raise
        self._idle.append((connection, time.monotonic()))
        return Reply(answer.status, content, answer.headers.get("Content-Type", ""), ends)

    def close(self) -> None:
        """See `Transport`."""
        while self._idle:
            self._idle.pop()[0].close()

    @property
    def is_encrypted(self) -> bool:
        """Whether what travels is TLS."""
        return self._tls is not None

    def take_open(self) -> TimedConnection | None:
        """Take an open connection that nobody uses; None where none is open."""
        while self._idle:
            connection = self._take()
            if connection.sock is not None:
                return connection
        return None

    def give_back(self, connection: TimedConnection) -> None:
        """Let others use an open connection that was taken."""
        self._idle.append((connection, time.monotonic()))

    def head(self, method: str, path: str, content_type: str, size: int) -> bytes:
        """Return what stands before a body of `size` bytes, as `send` would send it."""
        headers = {**self._headers, "Content-Type": content_type, "Content-Length": str(size)}
        there = self._address
        return recorded_head(there.host, there.port, method, self._prefix + path, headers)

    def _take(self) -> TimedConnection:
        """Return a connection that nobody uses, open or yet to be opened."""
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

    def _new_connection(self) -> TimedConnection:
        there = self._address
        if self._proxy is None:
            return TimedConnection(there.host, there.port, self._tls)
        connection = TimedConnection(self._proxy.host, self._proxy.port, self._tls, there.host)
        if self._tls is not None:
            connection.set_tunnel(there.host, there.port, dict(self._proxy.headers))
        return connection


class Client:
    """Sends through a transport, again and again where that may help."""

    def __init__(self, target: str, transport: Transport, settings: ConnectionSettings) -> None:
        """`target` is for messages; `transport` knows where it sends."""
        self.target = target
        self.settings = settings
        self._transport = transport
        self._random = random.Random()
        self._has_told = False

    def call(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        patience: float,
        stop: threading.Event | None = None,
        about: str | None = None,
        again: bool = False,
    ) -> tuple[int, Json]:
        """Send `body` as JSON; the answer's status and JSON (None where the body is not JSON).

        A body of bytes is JSON already. Tried again for `patience` seconds, or until `stop` is
        set; then the last answer is returned as it is. `about` is the document that an answer must
        name (`document_name`) to count as done, or as "there is none". `again` says that it was
        tried before, so that it waits first. Raises EngineError where no answer came at all.
        """
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        if again:
            _sleep(self._random.uniform(FIRST_WAIT_SECONDS / 2, FIRST_WAIT_SECONDS), stop)
        status, content, failure = self._retry(method, path, data, patience, stop, about)
        if failure is not None:
            tried = f"; tried for {patience:g} seconds" if patience else ""
            raise EngineError(
                f"{self.target}: {failure}{tried};"
                f" is Vespa running there, and is it the address of its container (port 8080)?"
            )
        return status, content

    @property
    def transport(self) -> Transport:
        """What it sends through."""
        return self._transport

    def through(self, wrap: Callable[[Transport], Transport]) -> "Client":
        """Return the same client, with its transport wrapped."""
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
        about: str | None,
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
                failure = why_doubted(reply, content, about)
            except ConnectionFailedError as error:
                failure = str(error)
            if failure is None and status not in RETRIED_STATUSES:
                return status, content, None
            wait = self._random.uniform(longest / 2, longest)
            longest = min(longest * 2, LONGEST_WAIT_SECONDS)
            if time.monotonic() + wait > deadline:
                return status, content, failure
            if failure is not None and status == 0:
                self._tell_waiting(failure, deadline - time.monotonic())
            if _sleep(wait, stop):
                return status, content, failure

    def _tell_waiting(self, failure: str, seconds: float) -> None:
        """Tell who sits at a terminal, once, why nothing happens for a while."""
        if self._has_told or seconds < SHORTEST_WAIT_TOLD or not sys.stderr.isatty():
            return
        self._has_told = True
        said = f"{self.target}: {failure}; trying for {seconds:.0f} s more …"
        print(said, file=sys.stderr, flush=True)


def connect(target: str, settings: ConnectionSettings | None = None) -> Client:
    """Return a client of the Vespa at `target`, with settings of the environment unless given."""
    settings = ConnectionSettings.from_environment() if settings is None else settings
    return Client(
        without_credentials(target).rstrip("/"), PoolTransport(target, settings), settings
    )


def why_doubted(reply: Reply, content: Json, about: str | None) -> str | None:
    """Return why an answer cannot be believed, in a few words; None where it can.

    Vespa names the document in all it says of one: what it did (200), and that there is none (404).
    """
    if reply.status == 200 and not isinstance(content, dict):
        return "the answer is not the JSON that Vespa sends"
    missing = reply.status == 404 and isinstance(content, dict) and "pathId" in content
    if about is None or not (reply.status == 200 or missing):
        return None
    if not reply.whole:
        return "the answer does not say where it ends"
    return None if content.get("id") == about else "the answer does not name the document"


def _sleep(seconds: float, stop: threading.Event | None) -> bool:
    """Return whether `stop` was set meanwhile."""
    if stop is not None:
        return stop.wait(seconds)
    time.sleep(seconds)
    return False


def _reason(error: Exception, seconds: float) -> str:
    if isinstance(error, LeftError):
        return "it was stopped"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, TimeoutError):
        return f"no whole answer in {seconds:g} seconds"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted (SSL_CERT_FILE names those that are)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, IncompleteRead):
        return "the answer broke off"
    if isinstance(error, TooLargeError):
        return f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB"
    if isinstance(error, ConnectionError | BadStatusLine):
        return "the connection was closed before the answer came"
    return masked(f"{type(error).__name__}: {error}")
