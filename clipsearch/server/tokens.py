"""Who may read and who may write: a bearer token, or the same as the password of a browser."""

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
    if settings.token is None:
        return
    accepted = [each for each in (settings.token, settings.write_token) if each is not None]
    if not _is_one_of(_given(request), accepted):
        raise RefusedError(
            401,
            "this service tells only who has its token; send it as `Authorization: Bearer TOKEN`,"
            " or as the password of any user",
            _CHALLENGE,
        )


def check_writer(request: Request, settings: ServerSettings) -> None:
    """Raise RefusedError (403, 401) unless who asks may write."""
    if settings.write_token is None:
        raise RefusedError(
            403,
            f"this service changes nothing: it was started without {WRITE_TOKEN_VARIABLE}",
        )
    if not _is_one_of(_given(request), [settings.write_token]):
        raise RefusedError(
            401,
            "documents are changed with another token than read; send the one of"
            f" {WRITE_TOKEN_VARIABLE} as `Authorization: Bearer TOKEN`",
            _CHALLENGE,
        )


def _is_one_of(given: str, accepted: list[str]) -> bool:
    """Compare with each, in a time that tells nothing of how much is right."""
    data = given.encode()
    same = [hmac.compare_digest(data, each.encode()) for each in accepted]
    return any(same)


def _given(request: Request) -> str:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if kind.lower() != "basic":
        return value if kind.lower() == "bearer" else ""
    try:
        return b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
