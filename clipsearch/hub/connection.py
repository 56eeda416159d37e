"""HTTP to the Hugging Face hub with the standard library: searching needs no library of the hub's.

A host that cannot be reached is given up within CONNECT_SECONDS; headers and answers that are read
at once have ANSWER_SECONDS; a file may take as long as it takes, while a part of it comes now and
then. The hub's token goes to the hub alone, never to where it redirects.
"""

import json
import os
import socket
import ssl
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
    getproxies,
    proxy_bypass,
)

from clipsearch.version import __version__
from finetune.deadline import GivenUpError, within
from finetune.errors import HubError
from finetune.text.masking import HUB_TOKENS, check_token

PUBLIC_HUB = "https://huggingface.co"
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 30.0
LARGEST_ANSWER = 16 << 20
MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_YES = frozenset({"1", "ON", "YES", "TRUE"})  # as the hub's own library reads its variables


class CutError(Exception):
    """The connection broke; the message is the reason in a few words."""


class HubConnection:
    """Asks the hub that HF_ENDPOINT names, or the public one."""

    def __init__(self) -> None:
        """Nothing is sent yet. Raises UsageError for a token that cannot be sent."""
        for variable in HUB_TOKENS:
            check_token(variable)
        self.endpoint = (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
        self._token = _token()
        self._opener = _opener()

    def json(self, path: str, about: str) -> Any:
        """Return the JSON of an answer. `about` is what is asked for, for messages.

        Raises HubError.
        """
        try:
            with self.open(path, about) as answer:
                body = within(ANSWER_SECONDS, lambda: answer.read(LARGEST_ANSWER + 1))
            if len(body) > LARGEST_ANSWER:
                raise HubError(f"{self.endpoint}: answers for {about} with more than 16 MiB")
            return json.loads(body)
        except GivenUpError:
            raise HubError(f"{self.endpoint}: no whole answer in {ANSWER_SECONDS:g} s") from None
        except CutError as error:
            raise self._unreachable(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise HubError(
                f"{self.endpoint}: answers for {about} with something that is not JSON; is it the"
                f" address of a Hugging Face hub (HF_ENDPOINT)?"
            ) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(_reason(error)) from error

    def open(self, path: str, about: str, *, start: int = 0) -> BinaryIO:
        """Open what lies under `path` of the hub, from byte `start` on, following redirects.

        The answer's `status` is 206 where it begins at `start`, else it begins at 0. Raises
        CutError where no answer comes, and HubError where it is a refusal.
        """
        address = f"{self.endpoint}/{quote(path, safe='/?=&')}"
        for _ in range(MOST_REDIRECTS):
            answer = self._ask(address, start)
            if isinstance(answer, str):
                address = self._next(address, answer)
            elif isinstance(answer, HTTPError):
                with answer:
                    raise self._refused(answer, about) from answer
            else:
                return answer
        raise HubError(f"{self.endpoint}: sends the request for {about} on and on")

    def _ask(self, address: str, start: int) -> BinaryIO | HTTPError | str:
        """Return the answer, a refusal, or where to ask instead."""
        request = Request(address, headers={"User-Agent": f"clipsearch/{__version__}"})
        # Stored compressed, a part of it would begin elsewhere.
        request.add_header("Accept-Encoding", "identity")
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self._token and _host(address) == _host(self.endpoint):
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            within(CONNECT_SECONDS, lambda: _reach(address))
            answer: BinaryIO = within(
                ANSWER_SECONDS, lambda: self._opener.open(request, timeout=ANSWER_SECONDS)
            )
        except HTTPError as error:
            location = error.headers.get("Location")
            if error.code in _REDIRECTS and location:
                error.close()
                return location
            return error
        except GivenUpError:
            raise CutError("no answer came in time") from None
        except (OSError, HTTPException, ValueError) as error:
            raise CutError(_reason(error)) from error
        return answer

    def _next(self, address: str, location: str) -> str:
        following = urljoin(address, location)
        scheme = urlsplit(following).scheme
        if scheme != "https" and scheme != urlsplit(address).scheme:
            raise HubError(f"{self.endpoint}: sends the request on to {scheme}:, which is not safe")
        return following

    def _refused(self, error: HTTPError, about: str) -> HubError:
        code = error.headers.get("X-Error-Code") or ""
        if code == "GatedRepo" or (error.code == 403 and code != "RepoNotFound"):
            return HubError(
                f"{about}: its owner lets in only who has asked; ask on {self.endpoint}/{about},"
                f" then set HF_TOKEN to a token of yours that may read it"
            )
        # To whom it does not know, the hub says 401 of what is private and of what is not there.
        if error.code in (401, 404):
            return HubError(
                f"{about}: {self.endpoint} has no such model, or it is private; correct the id,"
                f" or set HF_TOKEN to a token that may read it"
            )
        if error.code == 429:
            return HubError(f"{self.endpoint}: too many requests; wait some minutes and try again")
        return HubError(f"{self.endpoint}: answers {error.code} for {about}; try again later")

    def _unreachable(self, reason: str) -> HubError:
        return HubError(
            f"{self.endpoint}: cannot be reached ({reason}); connect to the network, or name an"
            f" encoder folder that is here already with --encoder"
        )

    def gone(self, error: CutError) -> HubError:
        """Return the error for a connection that broke again and again."""
        return self._unreachable(str(error))


def check_online(about: str) -> None:
    """Raise HubError where the user forbids to ask the hub (HF_HUB_OFFLINE)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        raise HubError(
            f"{about}: would be fetched from the Hugging Face hub, which HF_HUB_OFFLINE forbids;"
            f" unset it, or name an encoder folder that is here already with --encoder"
        )


class _NoRedirect(HTTPRedirectHandler):
    """Redirects are followed by `HubConnection.open`, without the token."""

    def redirect_request(self, *arguments: Any) -> None:
        """Follow none."""


def _opener() -> OpenerDirector:
    import certifi  # only where something is fetched

    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    return build_opener(_NoRedirect, HTTPSHandler(context=context))


def _reach(address: str) -> None:
    """Connect to the host, or to the proxy before it, and leave again. Raises OSError."""
    parts = urlsplit(address)
    named = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if named:
        parts = urlsplit(named if "://" in named else f"http://{named}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()


def _host(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc


def _token() -> str:
    """Return the token of the environment, or the one that `hf auth login` left; "" for none."""
    for variable in HUB_TOKENS:
        if token := os.environ.get(variable, "").strip():
            return token
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    try:
        kept = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").read_text("ascii")
    except (OSError, ValueError):
        return ""
    return kept.strip() if kept.strip().isprintable() else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    if isinstance(error, socket.gaierror):
        return "its name is not known here"
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
