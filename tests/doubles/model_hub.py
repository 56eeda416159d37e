"""A stand-in for the Hugging Face hub: a model as transformers.js has it, over real HTTP.

Large files are redirected to another host, as the hub does, which takes parts (`Range`) and must
not be sent the token.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "1" * 40
LARGE = ".onnx"


@dataclass
class ModelHub:
    """Attributes:
    models: Content of files by path, by model.
    cut: By path, after how many bytes the connection breaks, the next time.
    spoilt: Paths that come with another content than the hub names.
    refuse: By model, status and error code.
    requests: "METHOD path range" in the order of arrival.
    tokens: By "hub" or "cdn", what was sent for authorization.
    license: Of all models.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: dict[str, set[str | None]] = field(default_factory=lambda: {"hub": set(), "cdn": set()})
    port: int = 0
    license: str = "mit"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def downloads(self) -> list[str]:
        return [line for line in self.requests if "/cdn/" in line]

    def description(self, model: str) -> dict:
        siblings = []
        for path, content in self.models[model].items():
            entry = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(content)}}
            siblings.append(entry)
        return {"sha": COMMIT, "cardData": {"license": self.license}, "siblings": siblings}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def transformers_js_layout(encoder: Path) -> dict[str, bytes]:
    """An encoder folder's files as transformers.js has them: towers with two outputs, of which the
    embedding is not of unit length."""
    files = {
        name: (encoder / name).read_bytes()
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json",
                     "tokenizer_config.json")
    }  # fmt: skip
    for ours, theirs in (("text", "text_model"), ("image", "vision_model")):
        files[f"onnx/{theirs}.onnx"] = _longer(encoder / "onnx" / f"{ours}.onnx")
    files["README.md"] = b"---\nlicense: mit\n---\n"
    return files


def _longer(tower: Path) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(tower)
    (output,) = model.graph.output
    name = output.name
    for node in model.graph.node:
        for place, each in enumerate(node.output):
            if each == name:
                node.output[place] = "last_hidden_state"
    model.graph.initializer.append(helper.make_tensor("three", TensorProto.FLOAT, [], [3.0]))
    model.graph.node.append(helper.make_node("Mul", ["last_hidden_state", "three"], [name]))
    other = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, None)
    del model.graph.output[:]
    model.graph.output.extend([other, output])
    return model.SerializeToString()


@contextmanager
def model_hub(**models: Path) -> Iterator[ModelHub]:
    """A server on a free port of this machine, while the block runs."""
    hub = ModelHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"GET {path} {self.headers.get('Range', '')}".strip())
            side = "cdn" if path.startswith("/cdn/") else "hub"
            hub.tokens[side].add(self.headers.get("Authorization"))
            model = next((name for name in (*hub.models, *hub.refuse) if name in path), None)
            if model in hub.refuse and side == "hub":
                status, code = hub.refuse[model]
                self.answer(status, b"{}", {"X-Error-Code": code})
            elif model is None:
                self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif path.startswith("/api/models/"):
                self.answer(200, json.dumps(hub.description(model)).encode())
            else:
                self.send_file(model, path.partition(COMMIT + "/")[2], side)

        def send_file(self, model: str, path: str, side: str) -> None:
            if side == "hub" and path.endswith(LARGE):
                # Another name of this machine is another host.
                there = f"http://localhost:{hub.port}/cdn/{model}/{COMMIT}/{path}"
                self.answer(302, b"", {"Location": there})
                return
            content = hub.models[model][path]
            if path in hub.spoilt:
                content = bytes([content[0] ^ 1]) + content[1:]
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            head = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content = content[start:]
            cuts = hub.cut.get(path)
            kept = content[: cuts.pop(0)] if cuts else content
            self.answer(206 if start else 200, kept, head, length=len(content))
            self.close_connection = self.close_connection or len(kept) < len(content)

        def answer(self, status, body, headers=(), length=None) -> None:
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("", 0), Handler)
    hub.port = server.server_address[1]
    for name, encoder in models.items():
        hub.models[name.replace("__", "/")] = transformers_js_layout(encoder)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
