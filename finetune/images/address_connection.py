"""Connections to the hosts of image addresses: to public ones, and to what was looked at.

A name is looked up once, each address that it has is checked, and the socket is connected to one of
those that passed: a name that means another address a moment later leads nowhere else. Redirects go
the same way. Proxies and .netrc are not asked.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from finetune.errors import ImageError

_CONNECT_SECONDS = 5.0
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64, RFC 6052


class AddressRefusedError(ImageError):
    """The host has no public address."""


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public Internet.

    An IPv4 address inside of an IPv6 one is looked at as well.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        within = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _TRANSLATED:
            within.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(each is not None and not _is_public(each) for each in within):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return _is_public(ip)


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not ip.is_multicast


def connected(host: str, port: int, *, private: bool) -> socket.socket:
    """Connect to one of the host's addresses that may be asked.

    Raises AddressRefusedError where it has none, and OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [each for each in found if private or is_public(str(each[4][0]))]
    if not allowed:
        raise AddressRefusedError(
            f"{host} has no public address, and private ones are not asked; give"
            f" --allow-private-addresses (or CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES=1) to ask it"
        )
    failure: OSError | None = None
    for family, kind, protocol, _, place in allowed:
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_CONNECT_SECONDS)
            made.connect(place)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    assert failure is not None
    raise failure


def session(*, private: bool, redirects: int) -> requests.Session:
    """Return a session whose every connection is checked."""
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = redirects
    # Compressed, a small answer may be a huge one.
    made.headers.update(
        {"User-Agent": "clipsearch", "Accept": "image/*", "Accept-Encoding": "identity"}
    )
    for scheme in ("http://", "https://"):
        made.mount(scheme, _CheckedAdapter(private))
    return made


class _CheckedAdapter(HTTPAdapter):
    def __init__(self, private: bool) -> None:
        self._private = private
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make connections that are checked."""
        super().init_poolmanager(*args, **options)
        manager: PoolManager = self.poolmanager
        private = self._private

        def new(self: HTTPConnection) -> socket.socket:
            return connected(self.host.strip("[]"), self.port, private=private)

        manager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, HTTPConnection, new),
            "https": _pool(HTTPSConnectionPool, HTTPSConnection, new),
        }


def _pool(pool: type[Any], connection: type[Any], new: Callable[..., socket.socket]) -> type[Any]:
    checked = type(f"Checked{connection.__name__}", (connection,), {"_new_conn": new})
    return type(f"Checked{pool.__name__}", (pool,), {"ConnectionCls": checked})
