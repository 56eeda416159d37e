"""Images by their addresses, from a server of this machine: limits, hosts, cache, manifests."""

import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_server import RawServer, Step, for_ever

from finetune.errors import ImageError, ManifestError
from finetune.images import address_cache, address_connection
from finetune.images.address_cache import cached_file
from finetune.images.address_connection import is_public
from finetune.images.addresses import (
    FETCHED_AT_ONCE,
    GIVEN_UP_AFTER,
    AddressBook,
    FetchLimits,
    fetched,
    is_address,
)
from finetune.manifest.added_columns import AddedColumns
from finetune.manifest.manifest import Manifest

HERE = FetchLimits(private=True, seconds=5, most_bytes=1 << 20, redirects=3)


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def answer(data: bytes, *headers: str, status: int = 200) -> bytes:
    length = f"Content-Length: {len(data)}"
    lines = [f"HTTP/1.1 {status} X", "Connection: close", length, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def to(place: str) -> bytes:
    return answer(b"", f"Location: {place}", status=302)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES", raising=False)
    return tmp_path / "cache" / "clipsearch" / "addresses"


def files_in(folder: Path) -> list[Path]:
    """The images in the cache."""
    return [each for each in folder.rglob("*") if each.is_file() and each.suffix != ".version"]


def test_an_image_is_fetched_once(cache: Path) -> None:
    with RawServer(lambda _: answer(png())) as server:
        address = f"{server.url}/a%20b.png?x=1//2"
        file = fetched(address, HERE)
        assert file.read_bytes() == png() and file == cached_file(address)
        assert fetched(address, HERE) == file
        assert len(server.requests) == 1
        assert b"accept-encoding: identity" in server.requests[0].lower()
    assert fetched(address) == file and files_in(cache) == [file]


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    now = time.time()
    monkeypatch.setattr(address_cache.time, "time", lambda: now + days * 24 * 3600)


def test_what_is_kept_is_asked_after_once_a_day_where_its_server_tells_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {"/a.png": ("red", "ETag", '"1"'), "/b.png": ("blue", "Last-Modified", "Sat, 1"),
            "/c.png": ("green", "X-No", "version")}  # fmt: skip

    def reply(request: bytes) -> bytes:
        color, header, version = held[request.split(b" ")[1].decode()]
        same = f": {version}\r\n".encode() in request.split(b"Accept-Encoding")[-1]
        return answer(b"", status=304) if same else answer(png(color), f"{header}: {version}")

    def asked() -> list[str]:
        book = AddressBook(HERE)
        book.fetch([f"{server.url}{name}" for name in held])
        found = sorted(each.split(b" ")[1].decode() for each in server.requests)
        server.requests.clear()
        return found

    with RawServer(reply) as server:
        assert asked() == ["/a.png", "/b.png", "/c.png"] and asked() == []
        first = cached_file(f"{server.url}/a.png")
        times = first.stat()
        later(monkeypatch, 1.1)
        assert asked() == ["/a.png", "/b.png"] and asked() == []
        assert first.stat() == times and first.read_bytes() == png("red")
        later(monkeypatch, 3)
        held["/a.png"] = ("white", "ETag", '"2"')
        assert asked() == ["/a.png", "/b.png"]
        assert first.read_bytes() == png("white")
        later(monkeypatch, 3)
        fetched(f"{server.url}/a.png", HERE)  # a question takes what is there
        assert server.requests == []
        server.answer = lambda _: answer(b"", status=500)
        assert asked() == ["/a.png", "/b.png"]
        assert first.read_bytes() == png("white")  # kept, where its server does not answer


VERSION = 'ETag: "1"'


def test_a_host_that_does_not_answer_is_given_up_for_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RawServer(lambda _: answer(png(), VERSION)) as server:
        names = [f"{server.url}/{number}.png" for number in range(20)]
        AddressBook(HERE).fetch(names)
        server.requests.clear()
        later(monkeypatch, 1.1)
        server.answer = lambda _: b""
        book = AddressBook(HERE)
        book.fetch(names)
        assert GIVEN_UP_AFTER <= len(server.requests) < GIVEN_UP_AFTER + FETCHED_AT_ONCE
        assert book.failures == {} and book.find(names[-1]) == cached_file(names[-1])
        server.requests.clear()
        AddressBook(HERE).fetch(names)
        assert server.requests == [], "within the day"
        later(monkeypatch, 2.2)
        answers = iter([b"", b"", answer(b"", status=304)] * len(names))
        server.answer = lambda _: next(answers)
        book = AddressBook(HERE)
        assert all(map(book.find, names))
        assert len(server.requests) == len(names), "it answers, if not always"


def test_an_image_is_used_where_nothing_can_be_noted_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    with RawServer(lambda _: answer(png(), VERSION)) as server:
        name = f"{server.url}/a.png"
        file = fetched(name, HERE)
        later(monkeypatch, 1.1)
        monkeypatch.setattr(address_cache.os, "utime", refuse)
        monkeypatch.setattr(address_cache, "replacing", refuse)
        same, new = answer(b"", status=304), answer(png("blue"), VERSION)
        for reply in (same, b"", answer(png(), VERSION), new):
            server.answer = lambda _, reply=reply: reply
            book = AddressBook(HERE)
            assert book.find(name) == file and book.failures == {}
            assert file.read_bytes() == png()
        assert len(server.requests) == 5
        file.with_suffix(".version").unlink()
        assert fetched(name, HERE) == file


def test_the_least_recently_used_go_when_the_cache_is_full_and_none_that_is_in_use(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (360, 360, 3), np.uint8)
    big = io.BytesIO()
    Image.fromarray(noise).save(big, "PNG")  # 0.39 MB
    monkeypatch.setenv("CLIPSEARCH_ADDRESS_CACHE_MIB", "1")
    with RawServer(lambda _: answer(big.getvalue())) as server:
        names = [f"{server.url}/{number}.png" for number in range(4)]
        for number, name in enumerate(names[:2]):
            os.utime(fetched(name, HERE).with_suffix(".version"), (number, number))
        fetched(names[0], HERE)  # used once more: the other goes first
        time.sleep(0.02)
        fetched(names[2], HERE)
        assert set(files_in(cache)) == {cached_file(names[0]), cached_file(names[2])}
        book = AddressBook(HERE)
        book.fetch(names)
        assert set(files_in(cache)) == {*map(cached_file, names)}, "all of these are in use"


def test_addresses_beside_paired_vectors_are_not_asked_for(tmp_path: Path) -> None:
    with RawServer(lambda _: answer(png())) as server:
        (tmp_path / "m.csv").write_text(
            f"image,caption\n{server.url}/a.png,a\n{server.url}/\u00e9.png,b\n"
        )
        np.save(tmp_path / "m.npy", np.eye(2, 4, dtype=np.float32))
        with Manifest.open(tmp_path / "m.csv", addresses=HERE) as manifest:
            assert [record.image for record in manifest.records()] == [None, None]
            assert manifest.problems.notes == {"no image file": 2}
        assert server.requests == []


def test_redirects_are_followed_and_counted() -> None:
    def reply(request: bytes) -> bytes:
        left = int(request.split(b" ")[1].rpartition(b"/")[2])
        return to(f"/{left - 1}") if left else answer(png())

    with RawServer(reply) as server:
        assert fetched(f"{server.url}/3", HERE).is_file()
        with pytest.raises(ImageError, match="redirects more than 3 times"):
            fetched(f"{server.url}/4", HERE)


Reply = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda _: answer(b"", status=404), "the server answers 404"),
        (lambda _: answer(b"<html>no</html>"), "is no image that can be read"),
        (lambda _: answer(png()[:40]), "is no image that can be read"),
        (lambda _: answer(b"x" * (1 << 21)), "has more than 1 MiB"),
        (lambda _: answer(png(), "Content-Encoding: gzip"), "comes compressed"),
        (lambda _: answer(png())[:-5], "cannot be read"),
        (lambda _: to("file:///etc/passwd"), "cannot be reached"),
        (lambda _: to("ftp://127.0.0.1/a.png"), "cannot be reached"),
        (lambda _: b"nonsense\r\n\r\n", "cannot be reached"),
    ],
)
def test_what_gives_no_image_is_refused_in_one_sentence(
    cache: Path, reply: Reply, said: str
) -> None:
    with RawServer(reply) as server, pytest.raises(ImageError) as error:
        fetched(f"{server.url}/a.png", HERE)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).count(server.url) == 1
    assert not files_in(cache)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 X\r\n", answer(png())[:60]])
def test_a_server_that_drips_is_given_up(head: bytes) -> None:
    def script() -> Iterator[Step]:
        yield head
        yield from for_ever(b"X", 0.1)

    limits = FetchLimits(private=True, seconds=0.6)
    with RawServer(script=script) as server, pytest.raises(ImageError, match=r"more than 0\.6 s"):
        fetched(f"{server.url}/a.png", limits)


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1", "http://a:b@example.org/x.png", "http://x:99999/a.png"]
)
def test_what_is_no_address(address: str) -> None:
    assert is_address(address)
    with pytest.raises(ImageError):
        fetched(address, HERE)


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "::1",
     "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "224.0.0.1", "ff02::1", "100.64.0.1", "255.255.255.255", "::"],
)  # fmt: skip
def test_private_addresses(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize(
    "ip", ["8.8.8.8", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(ip: str) -> None:
    assert is_public(ip)


def test_this_machine_is_asked_only_where_that_is_allowed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(lambda _: answer(png())) as server:
        for host in ("127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(ImageError):
                fetched(f"http://{host}:{server.port}/a.png")
        with pytest.raises(ImageError, match=r"no public address.*--allow-private-addresses"):
            fetched(f"{server.url}/a.png")
        assert not server.requests and not files_in(cache)
        monkeypatch.setenv("CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES", "1")
        assert fetched(f"{server.url}/a.png").is_file()


def _resolving(answers: list[str]) -> Callable[..., list[object]]:
    """A resolver that says another address each time."""

    def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
        ip = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    return resolve


def test_a_name_that_is_bound_anew_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []

    class Watched(socket.socket):
        def connect(self, place: object) -> None:
            connected.append(place)
            raise OSError("not here")

    monkeypatch.setattr(
        address_connection.socket, "getaddrinfo", _resolving(["8.8.8.8", "127.0.0.1"])
    )
    monkeypatch.setattr(address_connection.socket, "socket", Watched)
    with pytest.raises(ImageError):
        fetched("http://rebound.example/a.png")
    assert connected == [("8.8.8.8", 80)]


def test_a_redirect_to_a_private_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host counts as public here; where it redirects to does not."""
    with RawServer(lambda _: answer(png())) as inside, RawServer() as outside:
        outside.answer = lambda _: to(f"http://inside.example:{inside.port}/secret.png")
        places = {"outside.example": "127.0.0.1", "inside.example": "127.0.0.2"}

        def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (places[host], port))]

        monkeypatch.setattr(address_connection.socket, "getaddrinfo", resolve)
        monkeypatch.setattr(address_connection, "is_public", lambda ip: ip == "127.0.0.1")
        with pytest.raises(ImageError, match=r"inside\.example has no public address"):
            fetched(f"http://outside.example:{outside.port}/a.png")
        assert outside.requests and not inside.requests


def test_addresses_in_a_manifest(tmp_path: Path) -> None:
    def reply(request: bytes) -> bytes:
        name = request.split(b" ")[1].decode()
        return answer(b"", status=404) if "missing" in name else answer(png())

    with RawServer(reply) as server:
        table = tmp_path / "m.csv"
        names = [f"{server.url}/{number}.png" for number in range(20)]
        rows = [f"{name},picture" for name in (*names, f"{server.url}/missing.png")]
        table.write_text("\n".join(["image,caption", *rows, f"{names[0]},again", "a.png,local"]))
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        with Manifest.open(table, addresses=HERE, added=AddedColumns(exif=True)) as manifest:
            records = {record.id: record for record in manifest.records()}
            problems = [(each.kind, each.reason) for each in manifest.problems.examples]
        assert list(records) == [*names, "a.png"]
        first = records[names[0]]
        assert first.path == names[0] and first.captions == ("picture", "again")
        assert first.image is not None and first.image.read() == png()
        assert [kind for kind, _ in problems] == ["missing file"]
        assert "missing.png: the server answers 404" in problems[0][1]
        assert len(server.requests) == 21
    with Manifest.open(table) as manifest:  # from the cache; what is not there cannot be had
        assert len(manifest) == 21
    alone = tmp_path / "alone.csv"
    alone.write_text(f"image,caption\n{server.url}/other.png,x\n")
    with pytest.raises(ManifestError, match="no public address"):
        Manifest.open(alone)
