"""Answers on their way out: JSON with its tag, images with theirs."""

import hashlib
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clipsearch.search.answer import Answer, answer_json, json_text
from clipsearch.server.remembered_answers import EncodedAnswer, moment_of
from clipsearch.server.service import Service

JSON = "application/json"
# A browser may keep an answer, and asks before each use whether it is still the same.
_ASK_FIRST = "private, no-cache"
_SECONDS = re.compile(r'"seconds": [^,]+,')


def json_answer(request: Request, content: Mapping[str, Any]) -> Response:
    """Return JSON with a tag by what it says; 304 where the client has the same."""
    return _response(request, _encoded(content))


async def hits_answer(
    request: Request, service: Service, sizes: bool, ask: Callable[[], Answer]
) -> Response:
    """Ask in one of the service's threads, and return the page of hits, written there too.

    What the same address was answered is answered again while the index is as it was.
    """

    def answered() -> Response:
        search = service.search
        moment = moment_of(search) if request.method == "GET" else None
        question = (request.scope["path"], request.scope["query_string"])
        known = None if moment is None else service.answers.get(moment, question)
        if moment is not None:
            service.metrics.cached("answer", hit=known is not None)
        if known is not None:
            return _response(request, known)
        answer = ask()
        told = _encoded(
            answer_json(answer, lambda document: service.image_json(document, sizes=sizes))
        )
        # Where the index has changed in between, nobody knows of which of the two it is.
        if moment is not None and service.search is search and moment == moment_of(search):
            service.answers.keep(moment, question, told)
        return _response(request, told)

    return await service.run(answered)


def _encoded(content: Mapping[str, Any]) -> EncodedAnswer:
    text = json_text(content)
    # The time of an answer stands before all names that its documents bring.
    told = _SECONDS.sub("", text, count=1) if "seconds" in content else text
    return EncodedAnswer(text.encode(), tag_of(told.encode()))


def _response(request: Request, answer: EncodedAnswer) -> Response:
    headers = {"ETag": answer.tag, "Cache-Control": _ASK_FIRST}
    if has_tag(request, answer.tag):
        return Response(None, 304, headers)
    return Response(answer.body, 200, headers, JSON)


def image_answer(
    request: Request, data: Callable[[], bytes], media_type: str, stamp: str, modified: float
) -> Response:
    """Return an image's bytes with its tag, or 304 without reading it. Blocks."""
    tag = tag_of(stamp.encode())
    headers = {
        "ETag": tag,
        "Last-Modified": formatdate(modified, usegmt=True),
        "Cache-Control": _ASK_FIRST,
    }
    if has_tag(request, tag):
        return Response(None, 304, headers)
    return Response(data(), 200, headers, media_type)


def tag_of(content: bytes) -> str:
    """Return an entity tag."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def has_tag(request: Request, tag: str) -> bool:
    """Return whether the client says that it has what this tag names."""
    known = request.headers.get("if-none-match", "")
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in known.split(","))
