"""Vespa's config server: prepare an application, hear what it would change, then activate it.

It also says what runs now (`Running`), and which services have taken up what was activated last
(`Convergence`).

https://docs.vespa.ai/en/reference/api/deploy-v2.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from clipsearch.engines.vespa.http.address import without_credentials
from clipsearch.engines.vespa.http.checked import (
    MalformedAnswerError,
    count,
    listed,
    mapping,
    objects,
    text,
    whole,
)
from clipsearch.engines.vespa.http.connection import (
    Body,
    ConnectionFailedError,
    ConnectionSettings,
    Json,
    PoolTransport,
    Reply,
    Transport,
)
from finetune.errors import EngineError

TENANT = "/application/v2/tenant/default"
APPLICATION = f"{TENANT}/application/default/environment/prod/region/default/instance/default"
PREPARE_SECONDS = 360  # a large model is copied between config servers and validated
CONTENT_SECONDS = 60.0
HEALTH_SECONDS = 5.0

ActionKind = Literal["restart", "reindex", "refeed"]
_KINDS: tuple[ActionKind, ...] = ("restart", "reindex", "refeed")


@dataclass(frozen=True, slots=True)
class Action:
    """What must follow the activation for a change to take effect.

    Attributes:
        kind: "restart" of services, "reindex" (Vespa goes through its documents), "refeed".
        cluster: The content or container cluster.
        document_type: "" for a restart.
        messages: Vespa's own words on what changed.
        services: Names and hosts of what must be restarted.
    """

    kind: ActionKind
    cluster: str
    document_type: str
    messages: tuple[str, ...]
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A session that was validated and waits to be activated."""

    session: str
    warnings: tuple[str, ...]
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """The application that runs now.

    Attributes:
        files: Path to md5; empty where nothing is deployed, None where it cannot be read.
        reason: Why it cannot be read; "" where it was.
    """

    files: Mapping[str, str] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A process of the application.

    Attributes:
        type: "container", "searchnode" and so on.
        host, port: Where its /state/v1 pages are.
        generation: Of the configuration that it runs; -1 where it does not say.
    """

    type: str
    host: str
    port: int
    generation: int

    def __str__(self) -> str:
        """Return it for people, as "container on localhost:8080"."""
        return f"{self.type} on {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Convergence:
    """Which services run what was activated last, whose generation is `wanted`."""

    converged: bool
    wanted: int
    services: tuple[Service, ...]

    def behind(self) -> tuple[Service, ...]:
        """Return the services that do not run it."""
        return tuple(one for one in self.services if one.generation < self.wanted)


class RefusedError(EngineError):
    """The config server was asked, and said no; the message is its own."""


class ConfigServer:
    """Speaks to one config server. Its errors are shown in its own words, line by line."""

    def __init__(self, url: str) -> None:
        """Nothing is sent yet. `url` is scheme, host and port (19071).

        Certificates and token of the environment go along as to the container. Raises EngineError
        where it is no address.
        """
        self.url = without_credentials(url).rstrip("/")
        self._transport: Transport = PoolTransport(url, ConnectionSettings.from_environment())

    def is_up(self) -> bool:
        """Return whether it answers, and says that it is up."""
        return self.failure(HEALTH_SECONDS) is None

    def failure(self, seconds: float) -> str | None:
        """Return why it is not up, asked for so many seconds; None where it is."""
        return health(self._transport, seconds)

    def create_session(self, package: Path) -> str:
        """Upload a zip; the session's id."""
        with package.open("rb") as file:
            content = self._call("POST", f"{TENANT}/session", file)
        session = content.get("session-id")
        if not isinstance(session, str | int):
            raise MalformedAnswerError("session-id", "text")
        return str(session)

    def prepare(self, session: str) -> Prepared:
        """Validate an uploaded package. Raises EngineError with Vespa's own message."""
        content = self._call("PUT", f"{TENANT}/session/{session}/prepared")
        warnings = tuple(
            f"{_words(entry.get('level')) or 'INFO'}: {_words(entry.get('message'))}"
            for entry in objects(content.get("log"), "log")
        )
        actions = mapping(content.get("configChangeActions"), "configChangeActions")
        return Prepared(session, warnings, _actions(actions))

    def activate(self, session: str) -> str:
        """Make a prepared session the one that runs; Vespa's message."""
        return _words(self._call("PUT", f"{TENANT}/session/{session}/active").get("message"))

    def running(self) -> Running:
        """Return the files of the application that runs now."""
        try:
            path = f"{APPLICATION}/content/?recursive=true&return=status"
            reply = self._send("GET", path, CONTENT_SECONDS)
        except EngineError as error:
            return Running(None, str(error))
        status, entries = reply.status, reply.json()
        if status == 404 and isinstance(entries, dict) and entries.get("error-code") == "NOT_FOUND":
            return Running({})
        if status != 200 or not isinstance(entries, list):
            return Running(None, f"{self.url}: {_said(status, entries)}")
        try:
            files = {
                _words(entry.get("name")).split("/content/", 1)[-1]: _words(entry.get("md5"))
                for entry in objects(entries, "content")
                if entry.get("md5")  # a folder has none
            }
        except MalformedAnswerError as error:
            return Running(None, f"{self.url}: {error}")
        return Running(files)

    def read(self, path: str) -> str:
        """Return the text of a file of the application that runs now. Raises EngineError."""
        reply = self._send("GET", f"{APPLICATION}/content/{quote(path)}", CONTENT_SECONDS)
        if reply.status != 200:
            raise EngineError(f"{self.url}: {_said(reply.status, reply.json())} ({path})")
        return reply.body.decode("utf-8", "replace")

    @property
    def reindex_address(self) -> str:
        """Where a POST marks everything for re-indexing."""
        return f"{self.url}{APPLICATION}/reindex"

    def reindex(self, cluster: str, document_type: str) -> None:
        """Mark a document type for re-indexing, which starts with the next deployment."""
        limits = f"clusterId={cluster}&documentType={document_type}"
        self._call("POST", f"{APPLICATION}/reindex?{limits}")

    def convergence(self, seconds: float) -> Convergence:
        """Return which services run what was activated last, asked for so many seconds.

        Raises EngineError where the config server cannot tell.
        """
        reply = self._send("GET", f"{APPLICATION}/serviceconverge", seconds)
        status, content = reply.status, reply.json()
        if status != 200 or not isinstance(content, dict) or "converged" not in content:
            raise EngineError(f"{self.url}: {_said(status, content)}")
        services = tuple(
            Service(
                type=_words(entry.get("type")) or "service",
                host=_words(entry.get("host")),
                port=count(entry.get("port", 0), "port"),
                generation=whole(entry.get("currentGeneration", -1), "currentGeneration"),
            )
            for entry in objects(content.get("services"), "services")
        )
        wanted = whole(content.get("wantedGeneration", 0), "wantedGeneration")
        return Convergence(content["converged"] is True, wanted, services)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _send(self, method: str, path: str, seconds: float, body: Body = None) -> Reply:
        """Send a request. Raises EngineError where no answer came in so many seconds."""
        try:
            return self._transport.send(method, path, body, "application/zip", seconds)
        except ConnectionFailedError as error:
            raise EngineError(f"{self.url}: {error}") from error

    def _call(self, method: str, path: str, body: Body = None) -> dict[str, Json]:
        reply = self._send(method, path, PREPARE_SECONDS, body)
        content = reply.json()
        if not isinstance(content, dict):
            raise EngineError(
                f"{self.url}: answered {reply.status}, and not as a config server does;"
                f" is it the address of port 19071?"
            )
        if reply.status != 200:
            raise RefusedError(_said(reply.status, content))
        return content


def health(transport: Transport, seconds: float) -> str | None:
    """Return why a service of Vespa is not up, by its own /state/v1/health; None where it is."""
    try:
        reply = transport.send("GET", "/state/v1/health", None, "application/json", seconds)
    except ConnectionFailedError as error:
        return str(error)
    content = reply.json()
    status = content.get("status") if isinstance(content, dict) else None
    code = status.get("code") if isinstance(status, dict) else None
    if not isinstance(status, dict) or not isinstance(code, str):
        return f"answered {reply.status}, and not as Vespa does"
    if code == "up":
        return None
    message = status.get("message")
    return _printable(f"says that it is {code}{f' ({message})' if message else ''}")


def _said(status: int, content: Json) -> str:
    """Return the config server's own words, line by line, or that there are none."""
    message = content.get("message") if isinstance(content, dict) else None
    if isinstance(message, str) and message.strip():
        return _printable(message.strip())
    return f"answered {status} without a message, not as a config server does"


def _printable(sentence: str) -> str:
    return sentence.encode("utf-8", "replace").decode()


def _words(value: Json) -> str:
    return text(value, "a name or message")


def _actions(content: Mapping[str, Json]) -> tuple[Action, ...]:
    return tuple(
        Action(
            kind=kind,
            cluster=_words(entry.get("clusterName")),
            document_type=_words(entry.get("documentType")),
            messages=tuple(map(_words, listed(entry.get("messages"), "messages"))),
            services=tuple(
                f"{_words(service.get('serviceName'))} on {_words(service.get('hostName'))}"
                for service in objects(entry.get("services"), "services")
            ),
        )
        for kind in _KINDS
        for entry in objects(content.get(kind), kind)
    )
