"""HTTP to Vespa: what is sent how, with which credentials, and what is tried again.

Tried again, with exponential backoff and full jitter: 429, 502, 503, 504, connection errors, and a
200 whose body is not the JSON that it should be. Everything that we send may be repeated: a put, an
update that assigns and a delete have the same effect twice, and a search has none.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from clipsearch.version import __version__
from finetune.errors import EngineError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0

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
    """A pool of kept HTTP/1.1 connections.

    `requests` over the same pool takes three times the processor time for each document, and half
    the documents a second: see benchmarks/vespa_feed.py.
    """

    def __init__(self, target: str, settings: ConnectionSettings) -> None:
        """Nothing is sent yet. `target` is scheme, host and port, and may have a path.

        Raises EngineError where that is no address.
        """
        import certifi  # with urllib3, 0.05 s: not for --help
        import urllib3

        self._failures = (urllib3.exceptions.HTTPError, HTTPException, OSError)
        self._timeout = urllib3.Timeout
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise EngineError(f"{target}: is no address ({error})") from error
        host = parts.hostname or ""
        self._headers = {"User-Agent": f"clipsearch/{__version__}", "Accept-Encoding": "identity"}
        if settings.token and (parts.scheme == "https" or host in _LOOPBACK):
            self._headers["Authorization"] = f"Bearer {settings.token}"
        options: dict[str, Any] = {
            "maxsize": settings.connections + 1,
            "block": True,
            "cert_file": settings.certificate,
            "key_file": settings.key,
            "ca_certs": settings.authority or certifi.where(),
        }
        proxy = _proxy(parts.scheme, host)
        # A proxy is told the whole address, but for https, where it only passes bytes on.
        whole = proxy is not None and parts.scheme == "http"
        self._prefix = target.rstrip("/") if whole else parts.path.rstrip("/")
        try:
            self._manager = (
                urllib3.PoolManager(**options)
                if proxy is None
                else urllib3.ProxyManager(proxy, **options)
            )
            self._pool = self._manager.connection_from_url(target)
        except ValueError as error:
            raise EngineError(f"{target}: is no address ({error})") from error

    def send(
        self, method: str, path: str, body: bytes | None, content_type: str, timeout: float
    ) -> Reply:
        """See `Transport`."""
        deadline = time.monotonic() + timeout
        headers = self._headers
        if body is not None:
            headers = {**headers, "Content-Type": content_type}
        try:
            response = self._pool.urlopen(
                method,
                self._prefix + path,
                body,
                headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=self._timeout(connect=min(timeout, 10.0), read=timeout),
                preload_content=False,
            )
            try:
                # The timeout above holds for each read: a server that drips bytes would never
                # reach it.
                parts: list[bytes] = []
                while part := response.read1(_READ_BYTES, decode_content=True):
                    parts.append(part)
                    if time.monotonic() > deadline:
                        raise ConnectionFailedError(f"no whole answer in {timeout:g} seconds")
            except BaseException:
                response.close()  # half an answer is left in it: it must not serve again
                raise
            response.release_conn()
            kind = response.headers.get("Content-Type", "")
            return Reply(response.status, b"".join(parts), kind)
        except self._failures as error:
            raise ConnectionFailedError(_reason(error, timeout)) from error

    def close(self) -> None:
        """See `Transport`."""
        self._manager.clear()


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


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names (https_proxy, no_proxy); none for this machine."""
    return None if host in _LOOPBACK or proxy_bypass(host) else getproxies().get(scheme)


def _sleep(seconds: float, stop: threading.Event | None) -> bool:
    """Whether `stop` was set meanwhile."""
    if stop is not None:
        return stop.wait(seconds)
    time.sleep(seconds)
    return False


def _reason(error: Exception, timeout: float) -> str:
    text = str(error)
    name = type(error).__name__
    if "refused" in text:
        return "connection refused"
    if "NameResolution" in text or "Name or service not known" in text:
        return "the host name is not known"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted (VESPA_CLI_DATA_PLANE_CA_CERT_FILE names yours)"
    if "Timeout" in name or "timed out" in text:
        return f"no answer in {timeout:g} seconds"
    if "IncompleteRead" in text:
        return "the answer broke off"
    if "reset" in text or "aborted" in text or "closed" in text.lower():
        return "the connection was closed before the answer came"
    return f"{name}: {text}"
