"""Images by their addresses, https://…: fetched once, with limits, and kept in the user's cache.

What is kept is asked after once a day where its server told a version, and where a manifest is
read: by a question that names the image it is taken as it is. A host that does not answer is not
waited for with every image of it.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from finetune.deadline import GivenUpError, within
from finetune.errors import ImageError
from finetune.images.address_cache import AddressCache, Version, cached_file

PRIVATE_VARIABLE = "CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES"
FETCHED_AT_ONCE = 8
_SCHEMES = ("http://", "https://")
_READ_AT_ONCE = 1 << 16
NO_HEADERS: Mapping[str, str] = {}
GIVEN_UP_AFTER = 3
"""Requests in a row that a host has not answered: one alone may be for the sake of its image."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much an address may cost.

    Attributes:
        private: Whether hosts without a public address are asked: this machine, this network.
        most_bytes: Of an image.
        seconds: For all of one image, redirects among it.
        redirects: That are followed.
    """

    private: bool = field(default_factory=lambda: os.environ.get(PRIVATE_VARIABLE, "") == "1")
    most_bytes: int = 64 << 20
    seconds: float = 30.0
    redirects: int = 5


def is_address(image: str) -> bool:
    """Return whether an image is named by an address."""
    return image[:8].lower().startswith(_SCHEMES)


def fetched(
    address: str,
    limits: FetchLimits | None = None,
    *,
    cache: AddressCache | None = None,
    hosts: "Hosts | None" = None,
) -> Path:
    """Return the file of an address's image, fetched where the cache does not have it.

    With `hosts` its server is asked for another version, where that is due; what is kept stays
    where it has none, or does not answer, or did not answer those before.

    Raises ImageError where it cannot be had, is larger or slower than `limits` allow, or is no
    image.
    """
    try:
        file = cached_file(address)
        limits, cache = limits or FetchLimits(), cache or AddressCache()
        if file.is_file():
            version = cache.version(file)
            if hosts is not None and version.is_due:
                _refresh(address, file, version, limits, cache, hosts)
            return file
        data, version = (hosts or Hosts()).asked(address, limits)
        cache.keep(file, data, version)
    except (OSError, RuntimeError) as error:
        raise ImageError(f"{address}: cannot be kept in the cache: {error}") from error
    return file


def _refresh(
    address: str,
    file: Path,
    known: Version,
    limits: FetchLimits,
    cache: AddressCache,
    hosts: "Hosts",
) -> None:
    if hosts.is_given_up(address):
        cache.confirm(file, known)
        return
    try:
        data, version = hosts.asked(address, limits, known.headers)
    except (_SameVersionError, _NoAnswerError):
        cache.confirm(file, known)  # of a host that is away, too: the next day is soon enough
    except ImageError:
        return  # asked again by the next feed
    else:
        with suppress(OSError):  # what is kept is as good as it was
            if data == file.read_bytes():  # its times stay, by which a feed knows it
                cache.confirm(file, version)
            else:
                cache.keep(file, data, version)


class _SameVersionError(ImageError):
    """The server has the version that was asked with."""


class _NoAnswerError(ImageError):
    """The server could not be reached, or took too long."""


class Hosts:
    """How often each host has not answered, since it last did; safe between threads."""

    def __init__(self) -> None:
        self._unanswered: dict[str, int] = {}
        self._lock = Lock()

    def is_given_up(self, address: str) -> bool:
        """Return whether the host has not answered GIVEN_UP_AFTER times in a row."""
        return self._unanswered.get(_host(address), 0) >= GIVEN_UP_AFTER

    def asked(
        self, address: str, limits: FetchLimits, headers: Mapping[str, str] = NO_HEADERS
    ) -> tuple[bytes, Version]:
        """Return the bytes of an image and their version. Raises ImageError."""
        is_answered = True
        try:
            return _image_at(address, limits, headers)
        except _NoAnswerError:
            is_answered = False
            raise
        finally:
            with self._lock:
                host = _host(address)
                self._unanswered[host] = 0 if is_answered else self._unanswered.get(host, 0) + 1


def _host(address: str) -> str:
    """Return the host of an address, with its port; also of what is none."""
    return address.partition("://")[2].partition("/")[0].lower()


class AddressBook:
    """The addresses of a manifest, fetched some at a time; it remembers what cannot be had."""

    def __init__(self, limits: FetchLimits | None = None) -> None:
        self._limits = limits or FetchLimits()
        self._cache = AddressCache()
        self._hosts = Hosts()
        self.failures: dict[str, str] = {}

    def fetch(self, addresses: Iterable[str]) -> None:
        """Fetch all of them, FETCHED_AT_ONCE at a time."""
        wanted = [each for each in dict.fromkeys(addresses) if each not in self.failures]
        if not wanted:
            return
        with ThreadPoolExecutor(FETCHED_AT_ONCE, "clipsearch-fetch") as threads:
            list(threads.map(self.find, wanted))

    def find(self, address: str) -> Path | None:
        """Return the file of an address's image; None, with the reason in `failures`, for none."""
        if address in self.failures:
            return None
        try:
            return fetched(address, self._limits, cache=self._cache, hosts=self._hosts)
        except ImageError as error:
            self.failures[address] = str(error).removeprefix(f"{address}: ")
            return None


def _image_at(
    address: str, limits: FetchLimits, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[bytes, Version]:
    """Return the bytes of an image, which decodes, and their version. Raises ImageError."""
    from finetune.images.open import decode_image  # light path: Pillow

    try:
        parts = urlsplit(address)
        known = parts.hostname is not None and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ImageError(f"{address}: is no address of an image")
    if parts.username is not None or parts.password is not None:
        raise ImageError(f"{parts.hostname}: an address with a password is not taken")
    try:
        data, version = within(limits.seconds, lambda: _read(address, limits, headers))
    except GivenUpError:
        reason = f"took more than {limits.seconds:g} s"
        raise _NoAnswerError(f"{address}: {reason}; fetch it by hand, and name the file") from None
    try:
        decode_image(data)
    except ImageError as error:
        raise ImageError(f"{address}: what it gives is no image that can be read") from error
    return data, version


def _read(address: str, limits: FetchLimits, headers: Mapping[str, str]) -> tuple[bytes, Version]:
    # Light path: little asks the web.
    import requests

    from finetune.images.address_connection import session

    try:
        with (
            session(private=limits.private, redirects=limits.redirects) as asked,
            asked.get(
                address, stream=True, timeout=limits.seconds, headers=dict(headers)
            ) as answer,
        ):
            if answer.status_code == 304 and headers:
                raise _SameVersionError(address)
            if answer.status_code != 200:
                raise ImageError(f"{address}: the server answers {answer.status_code}")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise ImageError(f"{address}: comes compressed, which was not asked for")
            data = bytearray()
            while part := answer.raw.read(_READ_AT_ONCE, decode_content=False):
                data += part
                if len(data) > limits.most_bytes:
                    raise ImageError(f"{address}: has more than {limits.most_bytes >> 20} MiB")
            return bytes(data), Version.of(answer.headers)
    except requests.TooManyRedirects:
        raise ImageError(f"{address}: redirects more than {limits.redirects} times") from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _NoAnswerError(f"{address}: cannot be reached ({_reason(error)})") from error
    except requests.RequestException as error:
        raise ImageError(f"{address}: cannot be reached ({_reason(error)})") from error
    except _SameVersionError:
        raise
    except Exception as error:
        if isinstance(error, ImageError):
            raise ImageError(f"{address}: {str(error).removeprefix(f'{address}: ')}") from error
        raise ImageError(f"{address}: cannot be read ({type(error).__name__})") from error


def _reason(error: Exception) -> str:
    """Return the innermost reason of a failure in a few words."""
    seen: BaseException = error
    while (cause := seen.__cause__ or seen.__context__) is not None:
        seen = cause
    return getattr(seen, "strerror", None) or type(seen).__name__
