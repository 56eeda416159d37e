"""Vespa's config server: prepare an application, hear what it would change, then activate it.

https://docs.vespa.ai/en/reference/api/deploy-v2.html
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipsearch.vespa.connection import ConnectionSettings, Json
from finetune.errors import EngineError

TENANT = "/application/v2/tenant/default"
APPLICATION = f"{TENANT}/application/default/environment/prod/region/default/instance/default"
PREPARE_SECONDS = 360  # a large model is copied between config servers and validated
POLL_SECONDS = 0.5

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


class ConfigServer:
    """Speaks to one config server. Its errors are shown in its own words, line by line."""

    def __init__(self, url: str) -> None:
        """Nothing is sent yet. `url` is scheme, host and port (19071).

        Over https, certificates and token of the environment go along, as to the container.
        """
        import requests  # takes 0.1 s: not for --help

        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._options: dict[str, Json] = {}
        if url.startswith("https://"):
            settings = ConnectionSettings.from_environment()
            # Of the session, REQUESTS_CA_BUNDLE in the environment would win over it.
            self._options["verify"] = settings.authority or True
            if settings.certificate and settings.key:
                self._session.cert = (settings.certificate, settings.key)
            if settings.token:
                self._session.headers["Authorization"] = f"Bearer {settings.token}"
        self._failures = requests.exceptions.RequestException

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            reply = self._session.get(f"{self.url}/state/v1/health", timeout=5, **self._options)
            return bool(reply.json()["status"]["code"] == "up")
        except (self._failures, ValueError, KeyError, TypeError):
            return False

    def wait_until_up(self, seconds: float) -> None:
        """Return when it answers; raises EngineError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.is_up():
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.url}: no config server answers (waited {seconds:g} s);"
                    f" is Vespa running there, and is it the address of port 19071?"
                )
            time.sleep(POLL_SECONDS)

    def create_session(self, package: Path) -> str:
        """Upload a zip; the session's id."""
        with package.open("rb") as file:
            content = self._call("POST", f"{TENANT}/session", file)
        return str(content["session-id"])

    def prepare(self, session: str) -> Prepared:
        """Validate an uploaded package. Raises EngineError with Vespa's own message."""
        content = self._call("PUT", f"{TENANT}/session/{session}/prepared")
        warnings = tuple(
            f"{entry.get('level', 'INFO')}: {entry.get('message', '')}"
            for entry in content.get("log", [])
        )
        return Prepared(session, warnings, _actions(content.get("configChangeActions", {})))

    def activate(self, session: str) -> str:
        """Make a prepared session the one that runs; Vespa's message."""
        return str(self._call("PUT", f"{TENANT}/session/{session}/active").get("message", ""))

    def deployed(self) -> Mapping[str, str] | None:
        """Path to md5 of the files that run now; empty where nothing does, None if unknown."""
        path = f"{APPLICATION}/content/?recursive=true&return=status"
        try:
            reply = self._session.get(self.url + path, timeout=60, **self._options)
            entries = reply.json()
        except (self._failures, ValueError):
            return None
        if reply.status_code == 404:
            return {}
        if reply.status_code != 200 or not isinstance(entries, list):
            return None
        files = {}
        for entry in entries:
            if not isinstance(entry, dict) or not entry.get("md5"):
                continue  # a folder
            files[str(entry.get("name", "")).split("/content/", 1)[-1]] = str(entry["md5"])
        return files

    def reindex(self, cluster: str, document_type: str) -> None:
        """Mark a document type for re-indexing, which starts with the next deployment."""
        limits = f"clusterId={cluster}&documentType={document_type}"
        self._call("POST", f"{APPLICATION}/reindex?{limits}")

    def converged(self) -> bool:
        """Whether all services run what was activated last; True where it cannot tell."""
        try:
            reply = self._session.get(
                f"{self.url}{APPLICATION}/serviceconverge", timeout=30, **self._options
            )
            return reply.status_code != 200 or bool(reply.json().get("converged", True))
        except (self._failures, ValueError, AttributeError):
            return True

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _call(self, method: str, path: str, data: Json = None) -> dict[str, Json]:
        headers = {"Content-Type": "application/zip"} if data is not None else {}
        try:
            reply = self._session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                timeout=(10, PREPARE_SECONDS),
                **self._options,
            )
        except self._failures as error:
            raise EngineError(f"{self.url}: the config server did not answer: {error}") from error
        try:
            content = reply.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise EngineError(
                f"{self.url}: answered {reply.status_code}, and not as a config server does;"
                f" is it the address of port 19071?"
            )
        if reply.status_code != 200:
            raise EngineError(str(content.get("message", content)).strip())
        return content


def _actions(content: Mapping[str, Json]) -> tuple[Action, ...]:
    return tuple(
        Action(
            kind=kind,
            cluster=str(entry.get("clusterName", "")),
            document_type=str(entry.get("documentType", "")),
            messages=tuple(str(message) for message in entry.get("messages", [])),
            services=tuple(
                f"{service.get('serviceName', '')} on {service.get('hostName', '')}"
                for service in entry.get("services", [])
            ),
        )
        for kind in _KINDS
        for entry in content.get(kind, [])
    )
