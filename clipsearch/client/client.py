"""Ask a service as if its index were here.

>>> from clipsearch import Client
>>> search = Client.open("http://localhost:8000")      # in place of Search.open("photos.index")
>>> page = search.query("two dogs on a beach", mode="hybrid", k=10, filters={"class": "beach"})
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import quote, urlencode

import numpy as np
import numpy.typing as npt

from clipsearch.client.forms import form
from clipsearch.client.questions import (
    image_bytes,
    options_in_address,
    options_json,
    parts_json,
)
from clipsearch.client.refusals import error_of
from clipsearch.documents import Document, Embedding
from clipsearch.engine import IndexInfo, Page
from clipsearch.engines.vespa.http.address import LOOPBACK, Address, without_credentials
from clipsearch.engines.vespa.http.connection import (
    ConnectionFailedError,
    ConnectionSettings,
    PoolTransport,
    Reply,
)
from clipsearch.localization.heat_map import HeatMap
from clipsearch.search.answered import document_from_json, page_from_json
from clipsearch.search.options import (
    ASKED,
    SIMILAR,
    ListKeywords,
    ListOptions,
    QueryKeywords,
    QueryOptions,
    query_options,
)
from clipsearch.search.parts import Part, check_parts, query_parts
from clipsearch.vocabulary import WordCount
from finetune.errors import DocumentNotFoundError, EngineError, UsageError
from finetune.images.pixel_box import PixelBox
from finetune.several import check_several

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 10.0
_JSON = "application/json"
# Answered like this, the same request may be answered otherwise a moment later.
_BUSY = frozenset({429, 502, 503, 504})
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 2.0
_INFO_SECONDS = 30.0


class Client:
    """A service of `clipsearch serve`. A context manager; threads may share it."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Ask nothing yet; see `open`."""
        there = Address.parse(address)
        if token is not None and there.scheme == "http" and there.host not in LOOPBACK:
            raise UsageError(
                f"{without_credentials(address)}: the token would travel in the open; take an"
                f" https:// address"
            )
        self.target = without_credentials(address).rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._transport = PoolTransport(address, ConnectionSettings(timeout=timeout, token=token))
        self._known: tuple[float, Mapping[str, Any]] | None = None

    @classmethod
    def open(
        cls,
        address: str,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> Self:
        """Open the service at an http(s) address.

        Args:
            address: As `clipsearch serve` says it; may hold a user name, and the token as its
                password.
            token: Of a service that asks for one; sent over https and to this machine only.
            timeout: Seconds that one answer may take.
            patience: Seconds during which a service that is full, or not there, is asked again.

        Raises EngineError where no service answers, IndexAccessError where it refuses the token.
        """
        client = cls(address, token=token, timeout=timeout, patience=patience)
        try:
            client._index()
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself, but for places on the service's disk."""
        told = {name: value for name, value in self._index().items() if name != "data_sets"}
        return IndexInfo.from_json(told)

    def query(
        self,
        text: str | None = None,
        *,
        image: "str | Path | bytes | Image | None" = None,
        crop: PixelBox | None = None,
        vector: npt.ArrayLike | None = None,
        parts: Sequence[Part] = (),
        **options: Unpack[QueryKeywords],
    ) -> Page:
        """Find the k best documents of page `page`; see `Search.query`.

        Synonyms are those that the service was started with.
        """
        asked = query_parts(text, image=image, crop=crop, vector=vector, parts=parts)
        return self.ask(asked, query_options(options))

    def ask(self, parts: Sequence[Part], options: QueryOptions = ASKED) -> Page:
        """Find what `query` finds, for a question that is in parts already."""
        asked = self._question(None, parts, **options_json(options))
        return page_from_json(self._post("/v1/search", *asked), self.info.date_columns)

    def similar(self, id: str, **options: Unpack[QueryKeywords]) -> Page:
        """Find what is like an indexed image; see `Search.similar`."""
        return self._listed(f"/v1/similar/{_segment(id)}", replace(SIMILAR, **options))

    def locate(
        self,
        text: str | None = None,
        *,
        image: "str | Path | bytes | Image | None" = None,
        id: str | None = None,
        parts: Sequence[Part] = (),
        method: str | None = None,
    ) -> HeatMap:
        """Say where in an image a query is answered; see `Search.locate`."""
        if (image is None) == (id is None):
            raise UsageError("locate looks into one image: give either an image or an id")
        question, files = self._question(text, parts, id=id, method=method)
        if image is not None:
            files["picture"] = image_bytes(image)
        return HeatMap.from_json(self._post("/v1/locate", question, files))

    def vector_of(self, parts: Sequence[Part]) -> Embedding:
        """Return the vector of a query, float32[d], unit length; see `Search.vector_of`."""
        check_parts(parts)
        answer = self._post("/v1/embed", *self._question(None, parts))
        return np.array(answer["embedding"], np.float32)

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """Return the documents of these ids, in their order; None where there is none."""
        check_several(ids, "Client.get")
        return [self._get(id, embeddings) for id in ids]

    def suggest(self, prefix: str, limit: int = 10) -> tuple[WordCount, ...]:
        """Return words of the index that go on with what is typed; see `Search.suggest`."""
        told = urlencode({"prefix": prefix, "limit": limit})
        found = self._json(self._send("GET", f"/v1/suggest?{told}"))["words"]
        return tuple(WordCount(each["word"], each["documents"]) for each in found)

    def count(self) -> int:
        """Return the number of documents."""
        self._known = None
        return int(self._index()["count"])

    def image(self, id: str) -> bytes:
        """Return the file of a document's image. Raises ImageError where the service has none."""
        return self._send("GET", f"{_address(id)}/file").body

    def thumbnail(self, id: str, width: int = 320) -> bytes:
        """Return a document's image as WebP, about `width` pixels wide. Raises as `image`."""
        return self._send("GET", f"{_address(id)}/thumbnail?{urlencode({'w': width})}").body

    def list(self, **options: Unpack[ListKeywords]) -> Page:
        """Return the documents that pass the filters; see `Search.list`."""
        return self._listed("/v1/images", ListOptions(**options))

    def put(
        self,
        id: str,
        *,
        captions: Sequence[str] | None = None,
        tags: Mapping[str, str | None] | None = None,
        numbers: Mapping[str, float | None] | None = None,
        image: "str | Path | bytes | Image | None" = None,
    ) -> Document:
        """Change a document, or make it, and return it as it is now; needs the write token.

        Args:
            id: Of a document; one that is not there needs an image.
            captions: In place of all before.
            tags: New value by column; None takes it away. What is not named stays.
            numbers: As `tags`.
            image: To be encoded, and kept by the service.

        Raises DocumentNotFoundError for an unknown id without an image, UsageError for changes
        that cannot be, IndexAccessError where the service refuses the token.
        """
        if captions is not None:
            check_several(captions, "Client.put")
        given = {"captions": captions, "tags": tags, "numbers": numbers}
        changes = {name: value for name, value in given.items() if value is not None}
        if image is None:
            body, media_type = json.dumps(changes).encode(), _JSON
        else:
            body, media_type = form(changes, {"image": image_bytes(image)}, "document")
        self._known = None
        reply = self._send("PUT", _address(id), body, media_type)
        return document_from_json(self._json(reply), self.info.date_columns)

    def delete(self, id: str) -> None:
        """Remove a document; needs the write token. Raises DocumentNotFoundError for none."""
        self._known = None
        self._send("DELETE", _address(id))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _listed(self, path: str, options: ListOptions) -> Page:
        """Ask for a page of hits by an address."""
        told = urlencode(options_in_address(options, self.info), doseq=True)
        reply = self._send("GET", f"{path}?{told}")
        return page_from_json(self._json(reply), self.info.date_columns)

    def _get(self, id: str, embeddings: bool) -> Document | None:
        wanted = "?embedding=true" if embeddings else ""
        try:
            reply = self._send("GET", _address(id) + wanted)
        except DocumentNotFoundError:
            return None
        return document_from_json(self._json(reply), self.info.date_columns)

    def _question(
        self, text: str | None, parts: Sequence[Part], **options: Any
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return JSON and files of a question; options that are None are left out."""
        has_vector = any(part.kind == "vector" for part in parts)
        listed, files = parts_json(parts, self.info.dimension if has_vector else 0)
        given = {"text": text, "parts": listed, **options}
        return {name: value for name, value in given.items() if value is not None}, files

    def _post(self, path: str, question: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
        if files:
            body, media_type = form(question, files)
        else:
            body, media_type = json.dumps(question).encode(), _JSON
        return self._json(self._send("POST", path, body, media_type))

    def _index(self) -> Mapping[str, Any]:
        """Return what the service tells of its index; kept for a while."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _INFO_SECONDS:
            self._known = (now, self._json(self._send("GET", "/v1/index")))
        return self._known[1]

    def _json(self, reply: Reply) -> Any:
        content = reply.json()
        if not isinstance(content, dict):
            raise EngineError(
                f"{self.target}: the answer is not the JSON that clipsearch sends; is it the"
                f" address of `clipsearch serve`?"
            )
        return content

    def _send(
        self, method: str, path: str, body: bytes | None = None, media_type: str = _JSON
    ) -> Reply:
        """Send until the service answers, or for `patience` seconds. Raises what it refused."""
        until = time.monotonic() + self._patience
        longest = _FIRST_WAIT
        while True:
            failure: Exception
            try:
                reply = self._transport.send(method, path, body, media_type, self._timeout)
            except ConnectionFailedError as error:
                failure = EngineError(
                    f"{self.target}: {error}; is `clipsearch serve` running there?"
                )
            else:
                if reply.status < 400:
                    return reply
                failure = error_of(self.target, reply)
                if reply.status not in _BUSY:
                    raise failure
            wait = random.uniform(longest / 2, longest)
            longest = min(2 * longest, _LONGEST_WAIT)
            if time.monotonic() + wait > until:
                raise failure
            time.sleep(wait)


def _address(id: str) -> str:
    return f"/v1/images/{_segment(id)}"


def _segment(id: str) -> str:
    return quote(id, safe="")
