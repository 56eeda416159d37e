"""What image addresses gave, in the user's cache: a file each, of which the latest used stay.

Beside an image's file lies what its server said of its version, with which it can be asked whether
that is still the latest. The image's file itself is never touched, since feeds know it by its
times: the times of the file beside it say when it was used last. Where that cannot be written, in a
cache of another user, say, the image is used all the same.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from finetune.files.atomic import replacing
from finetune.files.user_folders import user_cache

CACHE_FOLDER = "addresses"
SIZE_VARIABLE = "CLIPSEARCH_ADDRESS_CACHE_MIB"
MOST_MIB = 8192
"""Of all images together, unless SIZE_VARIABLE says otherwise."""

CHECKED_AFTER = 24 * 3600.0
"""Seconds, for which an image is taken for the latest without asking."""

# How far the cache is emptied when it is full, so that this is rarely done.
_LEFT_SHARE = 0.8
_IMAGE, _VERSION = ".image", ".version"


@dataclass(frozen=True, slots=True)
class Version:
    """What the server said of the version that is kept.

    Attributes:
        headers: To ask with whether there is another: `If-None-Match`, `If-Modified-Since`; empty
            where the server said nothing to ask with.
        checked: When it was taken for the latest, in seconds since 1970.
    """

    headers: Mapping[str, str]
    checked: float

    @property
    def is_due(self) -> bool:
        """Whether the server may be asked for another version, and has not been for long."""
        return bool(self.headers) and time.time() - self.checked > CHECKED_AFTER

    @classmethod
    def of(cls, answered: Mapping[str, str]) -> "Version":
        """Return that of an answer, by its headers."""
        known = {
            "If-None-Match": answered.get("ETag"),
            "If-Modified-Since": answered.get("Last-Modified"),
        }
        return cls({name: value for name, value in known.items() if value}, time.time())


def cached_file(address: str) -> Path:
    """Return where the cache has the image of an address, whether it is there or not."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
    # With a suffix, as all that is taken for an image's file has one.
    return user_cache() / CACHE_FOLDER / digest[:2] / f"{digest}{_IMAGE}"


def is_due(file: str) -> bool:
    """Return whether this is an image of the cache that is to be asked after."""
    if not file.endswith(_IMAGE) or f"/{CACHE_FOLDER}/" not in file:
        return False
    return _read(Path(file).with_suffix(_VERSION)).is_due


@dataclass
class AddressCache:
    """The cache while a manifest is read, say; safe between threads.

    What is used meanwhile stays, whatever the limit: a feed reads each image again.
    """

    # The times of files are a little behind the clock.
    _began: float = field(default_factory=lambda: time.time() - 1)
    _bytes: int | None = None
    _lock: Lock = field(default_factory=Lock)

    def version(self, file: Path) -> Version:
        """Return the version of an image that is kept, and note that it is used."""
        beside = file.with_suffix(_VERSION)
        known = _read(beside)
        with suppress(OSError):
            if known.headers or beside.exists():
                os.utime(beside)  # the least recently used go first
            else:
                self._write(beside, known)
        return known

    def keep(self, file: Path, data: bytes, version: Version) -> None:
        """Keep an image and its version, in room that was made for it. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._make_room(len(data))
        with replacing(file) as made:
            made.write(data)
        with suppress(OSError):
            self._write(file.with_suffix(_VERSION), version)

    def confirm(self, file: Path, version: Version) -> None:
        """Note that what is kept is taken for the latest version."""
        with suppress(OSError):
            self._write(file.with_suffix(_VERSION), Version(version.headers, time.time()))

    def _write(self, beside: Path, version: Version) -> None:
        text = json.dumps({"headers": dict(version.headers), "checked": version.checked})
        with replacing(beside) as made:
            made.write(text.encode())

    def _make_room(self, wanted: int) -> None:
        most = _most_bytes()
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in _held())
            self._bytes += wanted
            if self._bytes <= most:
                return
            self._bytes = wanted + self._emptied(int(_LEFT_SHARE * most) - wanted)

    def _emptied(self, left_bytes: int) -> int:
        """Remove the least recently used, but for what is used now; the bytes that are left."""
        held = sorted(_held())
        left = sum(size for _, size, _ in held)
        for used, size, file in held:
            if left <= left_bytes or used >= self._began:
                break
            with suppress(OSError):
                file.unlink(missing_ok=True)
                left -= size
                file.with_suffix(_VERSION).unlink(missing_ok=True)
        return left


def _read(beside: Path) -> Version:
    try:
        known = json.loads(beside.read_bytes())
        return Version(dict(known["headers"]), float(known["checked"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Version({}, time.time())  # of an earlier clipsearch: there is nothing to ask with


def _most_bytes() -> int:
    try:
        return int(os.environ.get(SIZE_VARIABLE, "") or MOST_MIB) << 20
    except ValueError:
        return MOST_MIB << 20


def _held() -> list[tuple[float, int, Path]]:
    """List images as (last use, bytes, file)."""
    found = []
    for file in (user_cache() / CACHE_FOLDER).glob(f"??/*{_IMAGE}"):
        try:
            status = file.stat()
            beside = file.with_suffix(_VERSION)
            used = beside.stat().st_mtime if beside.exists() else status.st_mtime
        except OSError:  # another process empties it too
            continue
        found.append((used, status.st_size, file))
    return found
