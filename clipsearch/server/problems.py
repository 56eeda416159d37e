"""Errors as problem details (RFC 9457), with the sentences of the command line.

`type` is `urn:clipsearch:problem:` and the name of the class in `finetune.errors`, by which a
program (`clipsearch.client`) knows it again.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clipsearch.search.answer import json_text
from finetune.errors import (
    ClipsearchError,
    DocumentError,
    DocumentNotFoundError,
    EncoderError,
    EngineError,
    ImageError,
    IndexAccessError,
    TooLittleMemoryError,
    UsageError,
)
from finetune.memory import is_too_little
from finetune.text.masking import masked

PROBLEM_JSON = "application/problem+json"
PROBLEM_TYPE = "urn:clipsearch:problem:"
RETRY_SECONDS = 1
# The page's address has its own names, which people copy.
_PAGE_NAMES = {"q": "text"}


class OverloadedError(ClipsearchError):
    """More was asked for than the service can hold."""


class RefusedError(ClipsearchError):
    """A request that is refused before anybody looks at what it asks.

    Attributes:
        status: The answer's.
        headers: Of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.headers = dict(headers or {})

    @property
    def kind(self) -> type[ClipsearchError]:
        """What it is in Python."""
        if self.status in (401, 403):
            return IndexAccessError
        return ImageError if self.status == HTTPStatus.NOT_FOUND else UsageError


# The first that an error is one of.
_STATUSES: tuple[tuple[type[ClipsearchError], int], ...] = (
    (UsageError, 400),
    (DocumentError, 400),
    (DocumentNotFoundError, 404),
    (ImageError, 422),
    (EncoderError, 409),
    (OverloadedError, 503),
    (TooLittleMemoryError, 503),
    (IndexAccessError, 502),
    (EngineError, 503),
)


def problem(
    status: int,
    detail: str,
    kind: str = "",
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> Response:
    """Return a problem as an answer; `kind` is the name of the error's class."""
    content = {
        "type": f"{PROBLEM_TYPE}{kind}" if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": masked(detail),
        **more,
    }
    given = {"Cache-Control": "no-store", **(headers or {})}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        given.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(json_text(content), status, given, PROBLEM_JSON)


def problem_of(error: Exception, told: Callable[[str], str] = str) -> Response:
    """Return an error as an answer; one that nobody foresaw is told by its class alone.

    `told` makes of its sentence what clients are told.
    """
    if isinstance(error, RefusedError):
        return problem(error.status, told(str(error)), error.kind.__name__, error.headers)
    if isinstance(error, ClipsearchError):
        status = next((one for kind, one in _STATUSES if isinstance(error, kind)), 500)
        return problem(status, told(str(error)), type(error).__name__)
    if is_too_little(error):
        return problem(503, "too little memory for this request; ask for less at once, or later")
    return problem(500, f"{type(error).__name__}: the service's log has the whole of it")


def _validation(request: Request, error: RequestValidationError) -> Response:
    """Name each value that does not fit."""
    found = [
        {"at": ".".join(map(str, each["loc"])), "reason": reason_of(each, _names(request, each))}
        for each in error.errors()
    ]
    sentence = "; ".join(f"{each['at']}: {each['reason']}" for each in found)
    return problem(422, sentence, UsageError.__name__, errors=found)


def reason_of(wrong: Mapping[str, Any], known: Sequence[str]) -> str:
    """Say what is wrong with one value that pydantic refused; `known` are the names of its place.

    They are empty where it lies within another value.
    """
    if wrong["type"] != "extra_forbidden":
        return str(wrong["msg"])
    name = str(wrong["loc"][-1])
    if not known:
        return f"there is no {name} here; what there is stands at /docs"
    near = [_PAGE_NAMES.get(name, ""), *get_close_matches(name, known, n=1)]
    meant = next((each for each in near if each in known), None)
    mend = f"known are {', '.join(known)}" if meant is None else f"did you mean {meant}?"
    return f"there is no {name}; {mend}"


def _names(request: Request, wrong: Mapping[str, Any]) -> list[str]:
    """Return the names that the address takes where this value came."""
    paths = request.app.openapi()["paths"]
    asked = paths.get(request.scope["route"].path, {}).get(request.method.lower(), {})
    return [each["name"] for each in asked.get("parameters", ()) if each["in"] == wrong["loc"][0]]


def _http(error: HTTPException) -> Response:
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "nothing is at this address; what there is stands at /docs"
    return problem(error.status_code, detail, headers=error.headers)


def add_handlers(app: FastAPI, told: Callable[[str], str]) -> None:
    """Let the app answer every error with a problem; `told` as in `problem_of`."""

    async def known(_: Request, error: Exception) -> Response:
        return problem_of(error, told)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation(request, error)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _http(error)

    app.add_exception_handler(ClipsearchError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)
