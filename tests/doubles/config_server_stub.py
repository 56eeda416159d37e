"""A small Vespa config server for tests, of the answers in tests/recorded/http-deploy.json and of
https://docs.vespa.ai/en/reference/api/deploy-v2.html; activating a package runs `on_activate`.

Like the real one it refuses what would lose data, unless the package allows it: an embedding of
another type, and a document type that is gone.
"""

import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TENANT = "/application/v2/tenant/default"
APPLICATION = f"{TENANT}/application/default/environment/prod/region/default/instance/default"


@dataclass
class StubConfigServer:
    """A context manager; `url` is its address.

    `refusal` is (step, status, body): what "session" or "prepared" answers instead. `services` are
    the processes that serviceconverge names, each as type, host and port; with `loops` the first
    of them starts and stops again and again, and never runs what was activated. `not_converged` is
    how often it is said that services are behind.
    """

    active: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    actions: dict[str, list[Any]] = field(default_factory=dict)
    log: list[dict[str, str]] = field(default_factory=list)
    refusal: tuple[str, int, Any] | None = None
    content_is_readable: bool = True
    up: bool = True
    not_converged: int = 0
    services: list[tuple[str, str, int]] = field(default_factory=list)
    loops: bool = False
    converge_delay: float = 0.0
    on_activate: Callable[[dict[str, bytes]], None] | None = None

    def __enter__(self) -> Self:
        stub = self
        self.sessions: dict[str, dict[str, bytes]] = {}
        self.generation = 1
        self.asked_to_converge = 0

        class Handler(_Handler):
            server_stub = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, query: str, data: bytes) -> tuple[int, Any]:
        step = path.rstrip("/").rsplit("/", 1)[-1]
        if self.refusal is not None and step == self.refusal[0]:
            return self.refusal[1], self.refusal[2]
        if path == "/state/v1/health":
            return 200, {"status": {"code": "up" if self.up else "initializing"}}
        if (method, path) == ("POST", f"{TENANT}/session"):
            session = str(len(self.sessions) + 1)
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self.sessions[session] = {name: archive.read(name) for name in archive.namelist()}
            return 200, {"session-id": session, "message": f"Session {session} created."}
        if path.startswith(f"{TENANT}/session/") and method == "PUT":
            session = path.split("/")[-2]
            return self._session(session, step)
        if path.startswith(f"{APPLICATION}/content/") and query == "recursive=true&return=status":
            return self._content()
        if path.startswith(f"{APPLICATION}/content/"):
            held = self.active.get(unquote(path.removeprefix(f"{APPLICATION}/content/")))
            if held is None or not self.content_is_readable:
                return 404, {"error-code": "NOT_FOUND", "message": "No such file"}
            return 200, held
        if path == f"{APPLICATION}/serviceconverge":
            time.sleep(self.converge_delay)
            return self._converge()
        if (method, path) == ("POST", f"{APPLICATION}/reindex"):
            return 200, {"message": f"Reindexing {query}"}
        return 404, {"error-code": "NOT_FOUND", "message": f"Nothing at '{path}'"}

    def _session(self, session: str, step: str) -> tuple[int, Any]:
        if step == "prepared":
            refused = self._refused(self.sessions[session])
            if refused is not None:
                return 400, {"error-code": "INVALID_APPLICATION_PACKAGE", "message": refused}
            actions = {
                kind: self.actions.get(kind, []) for kind in ("restart", "refeed", "reindex")
            }
            answer = {"session-id": session, "log": self.log, "configChangeActions": actions}
            return 200, {**answer, "message": f"Session {session} prepared."}
        assert step == "active"
        self.active = self.sessions[session]
        self.generation += 1
        if self.on_activate is not None:
            self.on_activate(self.active)
        return 200, {"message": f"Session {session} for tenant 'default' activated."}

    def _refused(self, package: dict[str, bytes]) -> str | None:
        """What a real one was recorded to say, or its documentation shows."""
        allowed = package.get("validation-overrides.xml", b"").decode()

        def unless(id_: str, sentence: str) -> str | None:
            if f">{id_}<" in allowed:
                return None
            return (
                f"Invalid application: {sentence}. To allow this add <allow until='yyyy-mm-dd'>"
                f"{id_}</allow> to validation-overrides.xml, see https://docs.vespa.ai/en/reference"
                f"/applications/validation-overrides.html"
            )

        old, new = _embedding(self.active), _embedding(package)
        cluster = re.compile(rb'<content id="(\w+)"')
        gone = set(cluster.findall(self.active.get("services.xml", b"")))
        gone -= set(cluster.findall(package["services.xml"]))
        if gone:
            return unless(
                "content-cluster-removal",
                f"Content cluster '{gone.pop().decode()}' is removed. This will cause loss of all"
                f" data in this cluster",
            )
        if old and new and old != new:
            return unless(
                "field-type-change",
                f"Field type changes: Document type 'image': Field 'embedding' changed: data type:"
                f" '{old}' -> '{new}'",
            )
        return None

    def _converge(self) -> tuple[int, Any]:
        """As config/…/HttpServiceListResponse of a real one is written; -1 is no answer."""
        self.not_converged -= 1
        self.asked_to_converge += 1
        converged = self.not_converged < 0 and not self.loops
        generations = [self.generation if converged else self.generation - 1 for _ in self.services]
        if self.loops and generations:
            generations = [self.generation] * len(generations)
            generations[0] = self.generation - 1 if self.asked_to_converge % 2 else -1
        entries = [
            {"type": kind, "host": host, "port": port, "currentGeneration": generation}
            for (kind, host, port), generation in zip(self.services, generations, strict=True)
        ]
        return 200, {
            "services": entries,
            "url": f"{self.url}{APPLICATION}/serviceconverge",
            "currentGeneration": min(generations, default=self.generation),
            "wantedGeneration": self.generation,
            "converged": converged,
        }

    def _content(self) -> tuple[int, Any]:
        if not self.content_is_readable:
            return 500, {"message": "cannot be read"}
        if not self.active:
            return 404, {"error-code": "NOT_FOUND", "message": "No such application"}
        url = f"{self.url}{APPLICATION}/content/"
        folders = [{"name": f"{url}schemas/", "status": "new", "md5": ""}]
        files = [
            {"name": url + name, "status": "new", "md5": hashlib.md5(data).hexdigest()}
            for name, data in self.active.items()
        ]
        return 200, folders + files


def _embedding(package: dict[str, bytes]) -> str | None:
    found = re.search(rb"field embedding type (tensor\S+)", package.get("schemas/image.sd", b""))
    return found.group(1).decode() if found else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_stub: StubConfigServer
    wbufsize = -1

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""

    def _serve(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.server_stub.requests.append(f"{self.command} {self.path}")
        status, content = self.server_stub.answer(self.command, parts.path, parts.query, data)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = _serve  # noqa: N815
