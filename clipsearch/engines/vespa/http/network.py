"""What lies between us and a server: TLS, and a proxy that the environment names."""

import os
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from clipsearch.engines.vespa.http.address import LOOPBACK, without_credentials
from finetune.errors import EngineError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy for HTTP, and what it must be told about who asks."""

    host: str
    port: int
    headers: Mapping[str, str]

    @classmethod
    def of_environment(cls, scheme: str, host: str) -> "Proxy | None":
        """Return the proxy that the environment names (https_proxy, no_proxy).

        There is none for this machine itself.

        Raises EngineError where it is of a kind that is not known here.
        """
        named = None if host in LOOPBACK or proxy_bypass(host) else getproxies().get(scheme)
        if not named:
            return None
        named = named if "://" in named else f"http://{named}"
        port = None
        try:
            parts = urlsplit(named)
            proxy, port = parts.hostname, parts.port
        except ValueError:  # whose reason may quote a part of the password
            parts, proxy = urlsplit(""), None
        if parts.scheme != "http" or not proxy:
            raise EngineError(
                f"{without_credentials(named)}: is no proxy of the form http://HOST:PORT"
                f" (named in the environment by {scheme}_proxy)"
            )
        headers = {}
        if parts.username is not None:
            known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(known.encode()).decode()}"
        return cls(proxy, port or 80, headers)


def tls_context(authority: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Make TLS that trusts `authority`, or else the usual ones, and shows a client certificate.

    All are files; None is without. The usual ones are those of SSL_CERT_FILE, where the environment
    has that name. Raises EngineError where one cannot be used.
    """
    import certifi  # beside the light path

    trusted = authority or os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        context = ssl.create_default_context(cafile=trusted)
    except OSError as error:
        raise EngineError(f"{trusted}: holds no certificates ({error})") from error
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise EngineError(
                f"{certificate} and {key}: are no client certificate and its key ({error})"
            ) from error
    return context
