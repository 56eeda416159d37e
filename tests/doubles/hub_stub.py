"""A small stand-in for the Hugging Face hub: what an upload asks for, over real HTTP.

Weights and ONNX files go the way of large files (git-lfs), all others travel inside the commit.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

LARGE = (".safetensors", ".onnx")


@dataclass
class HubStub:
    """Attributes:
    files: Content of a repository's files by path, after a commit.
    private: By repository, as it was made.
    requests: "METHOD path" in the order of arrival.
    tokens: That were sent.
    refuse: Status of an answer to every request whose path contains a word, and its text.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        for word, (status, text) in self.refuse.items():
            if word in path:
                return status, {"error": text}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if repo in self.private else 200
            self.private.setdefault(
                repo, wanted.get("visibility") == "private" or wanted.get("private") is True
            )
            return status, {"url": f"{self.url}/{repo}"}
        if "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/lfs/")
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}
        if "/commit/" in path:
            for line in body.splitlines():
                self.take(json.loads(line))
            url = f"{self.url}/me/birds/commit/1"
            return 200, {"commitUrl": url, "commitOid": "1" * 40, "success": True}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 404, {"error": f"the stub has no {path}"}

    def take(self, line: dict) -> None:
        value = line["value"]
        if line["key"] == "header":
            self.messages.append(value["summary"])
        elif line["key"] == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        else:
            assert line["key"] == "lfsFile", line["key"]
            self.files[value["path"]] = self.large[value["oid"]]


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    """A server on a free port of this machine, while the block runs."""
    hub = HubStub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if not path.startswith("/lfs/"):
                hub.tokens.add(self.headers.get("Authorization"))
            status, value = hub.answer(path, body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_HEAD = serve  # noqa: N815

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
