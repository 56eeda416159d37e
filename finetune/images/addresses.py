"""Images by their addresses, https://…: fetched once, with limits, and kept in the user's cache.

What is kept is asked after once a day where its server told a version, and where a manifest is
read: by a question that names the image it is taken as it is.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from finetune.deadline import GivenUpError, within
from finetune.errors import ImageError
from finetune.images.address_cache import AddressCache, Version, cached_file

PRIVATE_VARIABLE = "CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES"
FETCHED_AT_ONCE = 8
_SCHEMES = ("http://", "https://")
_READ_AT_ONCE = 1 << 16
NO_HEADERS: Mapping[str, str] = {}


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
    latest: bool = False,
) -> Path:
    """Return the file of an address's image, fetched where the cache does not have it.

    With `latest` its server is asked for another version, where that is due; what is kept stays
    where it has none, or does not answer.

    Raises ImageError where it cannot be had, is larger or slower than `limits` allow, or is no
    image.
    """
    try:
        file = cached_file(address)
        limits, cache = limits or FetchLimits(), cache or AddressCache()
        if file.is_file():
            version = cache.version(file)
            if latest and version.is_due:
                _refresh(address, file, version, limits, cache)
            return file
        data, version = _image_at(address, limits)
        cache.keep(file, data, version)
    except (OSError, RuntimeError) as error:
        raise ImageError(f"{address}: cannot be kept in the cache: {error}") from error
    return file


def _refresh(
    address: str, file: Path, known: Version, limits: FetchLimits, cache: AddressCache
) -> None:
    try:
        data, version = _image_at(address, limits, known.headers)
    except _SameVersionError:
        cache.confirm(file, known)
    except ImageError:
        return  # asked again by the next feed
    else:
        if data == file.read_bytes():  # its times stay, by which a feed knows it
            cache.confirm(file, version)
        else:
            cache.keep(file, data, version)


class _SameVersionError(ImageError):
    """The server has the version that was asked with."""


class AddressBook:
    """The addresses of a manifest, fetched some at a time; it remembers what cannot be had."""

    def __init__(self, limits: FetchLimits | None = None) -> None:
        self._limits = limits or FetchLimits()
        self._cache = AddressCache()
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
            return fetched(address, self._limits, cache=self._cache, latest=True)
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
        raise ImageError(f"{address}: {reason}; fetch it by hand, and name the file") from None
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
