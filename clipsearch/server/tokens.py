"""Who may ask: a bearer token, or the same as the password of a browser."""

import binascii
import hmac
from base64 import b64decode

from starlette.requests import Request

from clipsearch.server.problems import RefusedError
from clipsearch.server.settings import WRITE_TOKEN_VARIABLE, ServerSettings

# A browser that is asked so asks its user, and sends the password with images too.
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="clipsearch", charset="UTF-8"'}


def check_reader(request: Request, settings: ServerSettings) -> None:
    """Raise RefusedError (401) unless who asks may read."""
    if settings.token is None or _has(request, settings.token):
        return
    if not _has(request, settings.write_token):
        raise RefusedError(
            401,
            "this service tells only who has its token; send it as `Authorization: Bearer TOKEN`,"
            " or as the password of any user",
            _CHALLENGE,
        )


def check_writer(request: Request, settings: ServerSettings) -> None:
    """Raise RefusedError unless who asks may change documents.

    403 where nobody may, or the token is that of readers; 401 for none or another one.
    """
    if settings.write_token is None:
        raise RefusedError(
            403,
            f"this service changes nothing; start it with {WRITE_TOKEN_VARIABLE} to let those who"
            f" have that token change documents",
        )
    if _has(request, settings.write_token):
        return
    if _has(request, settings.token):
        raise RefusedError(403, "this token lets you read alone; changes need the write token")
    raise RefusedError(
        401,
        "only who has the write token may change documents; send it as a bearer token",
        _CHALLENGE,
    )


def _has(request: Request, token: str | None) -> bool:
    """Return whether the request brings this token; compared in constant time."""
    return token is not None and hmac.compare_digest(_given(request).encode(), token.encode())


def _given(request: Request) -> str:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if kind.lower() != "basic":
        return value if kind.lower() == "bearer" else ""
    try:
        return b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
