"""Who may ask: a bearer token, or the same as the password of a browser."""

import binascii
import hmac
from base64 import b64decode

from starlette.requests import Request

from clipsearch.server.problems import RefusedError
from clipsearch.server.settings import ServerSettings

# A browser that is asked so asks its user, and sends the password with images too.
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="clipsearch", charset="UTF-8"'}


def check_reader(request: Request, settings: ServerSettings) -> None:
    """Raise RefusedError (401) unless who asks may read."""
    if settings.token is None:
        return
    if not hmac.compare_digest(_given(request).encode(), settings.token.encode()):
        raise RefusedError(
            401,
            "this service tells only who has its token; send it as `Authorization: Bearer TOKEN`,"
            " or as the password of any user",
            _CHALLENGE,
        )


def _given(request: Request) -> str:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if kind.lower() != "basic":
        return value if kind.lower() == "bearer" else ""
    try:
        return b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
