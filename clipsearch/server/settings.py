"""What a service is asked to be: which index, where it listens, who may ask, and how much."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from clipsearch.search.synonyms import NO_SYNONYMS, Synonyms
from finetune.cores import available_cores
from finetune.errors import UsageError
from finetune.text.masking import has_control_characters

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
TOKEN_VARIABLE = "CLIPSEARCH_TOKEN"
WRITE_TOKEN_VARIABLE = "CLIPSEARCH_WRITE_TOKEN"
# A shorter one can be guessed by trying.
SHORTEST_TOKEN = 16
MOST_HITS = 1000
DEEPEST = 10_000
# What is ours begins otherwise, so that a path can be told from one that has its root path still.
_ROOT_PATH = re.compile(r"(?!/(v1|static|docs)(/|$))(/[A-Za-z0-9._~-]+)+")
_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much the service takes; what is more is refused, never kept waiting without end.

    Attributes:
        body_bytes: Of a request, uploads together.
        upload_pixels: Of an uploaded image, looked at before it is decoded.
        uploads: Files of one request.
        hits: Of one page (`k`).
        depth: Hits that may lie before the end of a page: k times page.
        requests: Under way at once, those that wait among them; more are answered 503.
        threads: Requests that are worked on at once; most of them wait for the encoder.
        engine_searches: That run at once in the engine.
        queued_texts: Texts that wait for the encoder; more are answered 503.
        texts_remembered: Embeddings of texts that are kept.
        answer_bytes: Of the answers that are remembered.
        thumbnail_bytes: Of the cache of thumbnails.
        head_bytes: Of a request without its body: address, head, what stands behind the body.
        head_seconds: Until the head of a request must have come.
        body_seconds: Until the whole body must have come.
        stalled_seconds: After which a client that takes nothing of its answer is cut off.
        drain_seconds: Until answers under way must be done after SIGTERM.
    """

    body_bytes: int = 32 * _MEBIBYTE
    upload_pixels: int = 50_000_000
    uploads: int = 8
    hits: int = MOST_HITS
    depth: int = DEEPEST
    requests: int = 256
    threads: int = 64
    engine_searches: int = field(default_factory=lambda: max(2, available_cores()))
    queued_texts: int = 512
    texts_remembered: int = 10_000
    answer_bytes: int = 32 * _MEBIBYTE
    thumbnail_bytes: int = 512 * _MEBIBYTE
    head_bytes: int = 65_536
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    stalled_seconds: float = 20.0
    drain_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """A service.

    Attributes:
        index: The target: a folder or an http(s) address.
        host, port: Where it listens; port 0 takes a free one.
        root_path: That a server before this one puts it below, as "/images"; "" for none.
        token: Without it nothing but the state is told; None lets everybody read.
        write_token: Who has it may change documents, and read; None lets nobody change any.
        uploads: Folder of the images that are sent to be indexed; None takes none.
        ledger: Of the index; None is where it lies unless named.
        cors: Origins whose pages may read answers.
        encoder: Its folder, if it has moved since the feed.
        device: Where the encoder runs.
        synonyms: For the words of texts.
        images: Folders of the images, beside the one that the index was fed from.
        cache: Folder of the thumbnails.
        limits: How much.
    """

    index: str
    cache: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    root_path: str = ""
    token: str | None = None
    write_token: str | None = None
    uploads: Path | None = None
    ledger: Path | None = None
    cors: tuple[str, ...] = ()
    encoder: str | None = None
    device: str = "cpu"
    synonyms: Synonyms = NO_SYNONYMS
    images: tuple[Path, ...] = ()
    limits: ServerLimits = field(default_factory=ServerLimits)

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        if self.token is not None:
            _check_token(TOKEN_VARIABLE, self.token)
        if self.write_token is not None:
            _check_token(WRITE_TOKEN_VARIABLE, self.write_token)
            if self.write_token == self.token:
                raise UsageError(
                    f"{WRITE_TOKEN_VARIABLE} is the token that lets others read; take another one"
                )
        elif self.uploads is not None:
            raise UsageError(
                f"--uploads needs a token for those who may send images: set {WRITE_TOKEN_VARIABLE}"
            )
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise UsageError(
                f"--root-path {self.root_path}: is no path that the service can be below; write it"
                f" as /images: not /v1, /static or /docs, and without a slash at the end"
            )
        for origin in self.cors:
            _check_origin(origin)

    @property
    def is_local(self) -> bool:
        """Whether only this machine is listened to."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _check_token(name: str, token: str) -> None:
    if has_control_characters(token) or not token.isascii() or token.strip() != token:
        raise UsageError(
            f"{name} holds a character that no header can (a line end that was copied along,"
            f" perhaps); set the token alone"
        )
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"{name} has {len(token)} characters, and can be guessed; take {SHORTEST_TOKEN} or"
            f" more, as of: openssl rand -hex 32"
        )


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or origin.endswith("/"):
        raise UsageError(
            f"--cors {origin}: is no origin; write scheme, host and port, as"
            f" https://photos.example or http://localhost:3000"
        )
    if parts.path or parts.query or parts.fragment:
        raise UsageError(
            f"--cors {origin}: is more than an origin; leave out what follows the host"
        )
