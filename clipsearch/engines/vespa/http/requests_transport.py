"""A transport through `requests`, for the few calls to config servers and to pages of health.

Feeding and searching have one of their own
(`clipsearch.engines.vespa.http.connection.PoolTransport`), which
takes a sixth of the processor time for each request; here nothing is repeated often.
"""

import threading
import time

import requests

from clipsearch.engines.vespa.http.address import LOOPBACK, Address
from clipsearch.engines.vespa.http.connection import (
    Body,
    ConnectionFailedError,
    ConnectionSettings,
    Reply,
)
from clipsearch.engines.vespa.http.timed import CONNECT_SECONDS, LARGEST_ANSWER
from clipsearch.version import __version__
from finetune.deadline import GivenUpError, within
from finetune.text.masking import masked


class RequestsTransport:
    """Implements `clipsearch.engines.vespa.http.connection.Transport`, for one thread at a time."""

    def __init__(self, target: str, settings: ConnectionSettings) -> None:
        """Nothing is sent yet. `target` is scheme, host and port, and may have a path.

        Credentials go along as with the container: a name and password of the address, or the
        token, over https or to this machine only. Raises EngineError where it is no address.
        """
        address = Address.parse(target)
        self._url = address.shown
        self._session = requests.Session()
        # A proxy of the environment is none for this machine.
        self._session.trust_env = address.host not in LOOPBACK
        self._session.headers["User-Agent"] = f"clipsearch/{__version__}"
        authorization = address.authorization
        encrypted = address.scheme == "https"
        if authorization is None and settings.token and (encrypted or address.host in LOOPBACK):
            authorization = f"Bearer {settings.token}"

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if authorization is not None:
                request.headers["Authorization"] = authorization
            return request

        # Something must stand here: otherwise `requests` sends what ~/.netrc has for the host.
        self._session.auth = authorize
        if settings.certificate and settings.key:
            self._session.cert = (settings.certificate, settings.key)
        # Of the session, REQUESTS_CA_BUNDLE in the environment would win over it.
        self._verify = settings.authority or True

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`."""
        deadline = time.monotonic() + timeout

        def ask() -> Reply:
            with self._session.request(
                method,
                self._url + path,
                data=body,
                headers={} if body is None else {"Content-Type": content_type},
                timeout=(min(timeout, CONNECT_SECONDS), timeout),
                verify=self._verify,
                allow_redirects=False,  # credentials go nowhere else
                stream=True,
            ) as reply:
                content = bytearray()
                # A byte at a time, so that the clock is looked at however slowly they come; these
                # answers have some thousand.
                for part in reply.iter_content(1):
                    content += part
                    if time.monotonic() > deadline:
                        raise GivenUpError
                    if len(content) > LARGEST_ANSWER:
                        raise ConnectionFailedError(
                            f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB"
                        )
                kind = reply.headers.get("Content-Type", "")
                return Reply(reply.status_code, bytes(content), kind)

        try:
            # The timeout of `requests` holds for each packet, and headers may drip for ever.
            return within(timeout, ask, left)
        except GivenUpError as error:
            raise ConnectionFailedError(f"no whole answer in {timeout:g} seconds") from error
        except requests.exceptions.RequestException as error:
            raise ConnectionFailedError(_reason(error, timeout)) from error

    def close(self) -> None:
        """See `Transport`."""
        self._session.close()


def _reason(error: requests.exceptions.RequestException, timeout: float) -> str:
    """In a few words: `requests` tells addresses and objects."""
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted (VESPA_CLI_DATA_PLANE_CA_CERT_FILE names yours)"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer in {timeout:g} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the answer broke off"
    if "NameResolutionError" in text or "getaddrinfo" in text:
        return "the host name is not known"
    if "Connection refused" in text:
        return "connection refused"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "the connection was closed before the answer came"
    return masked(f"{type(error).__name__}: {error}")
