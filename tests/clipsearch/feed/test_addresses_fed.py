"""Images named by address: from the manifest into an index, and as questions."""

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from raw_server import RawServer

from clipsearch.cli import cli
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.search.search import Search
from finetune.errors import ImageError
from finetune.images.address_cache import cached_file
from finetune.images.addresses import FetchLimits

COLORS = ("red", "green", "blue")


def reply(request: bytes) -> bytes:
    name = request.split(b" ")[1].decode().rpartition("/")[2].partition(".")[0]
    if name not in COLORS:
        return b"HTTP/1.1 404 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), name).save(buffer, "PNG")
    data = buffer.getvalue()
    head = f"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def test_from_an_address_to_an_answer(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES", raising=False)
    manifest, index = tmp_path / "m.csv", str(tmp_path / "photos.index")
    with RawServer(reply) as server:
        names = [f"{server.url}/x//{color}.png" for color in COLORS]
        rows = [f"{name},a {color}" for name, color in zip(names, COLORS, strict=True)]
        manifest.write_text("\n".join(["image,caption", *rows, f"{server.url}/none.png,gone"]))
        options = FeedOptions(
            manifest=manifest,
            index=index,
            encoder=encoder_folder,
            workers=0,
            addresses=FetchLimits(private=True),
        )
        report = feed(options)
        assert (report.fed, report.problems) == (3, {"missing file": 1})
        assert report.report_path is not None
        assert "the server answers 404" in report.report_path.read_text()
        assert feed(options).unchanged == 3
        asked = len(server.requests)
        with Search.open(index) as search:
            page = search.query(image=names[1], k=3)
            hit = page.hits[0]
            assert (hit.document.id, hit.document.path) == (names[1], names[1])
            assert hit.image == cached_file(names[1]) and hit.cosine == pytest.approx(1, abs=1e-3)
            with pytest.raises(ImageError, match="no public address"):
                search.query(image=f"{server.url}/y/red.png")
        assert len(server.requests) == asked
        query = [
            "query",
            "--image",
            f"{server.url}/y/blue.png",
            "--index",
            index,
            "--ids",
            "-k",
            "1",
        ]
        refused = CliRunner().invoke(cli, query, standalone_mode=False)
        assert isinstance(refused.exception, ImageError)
        found = CliRunner().invoke(cli, [*query, "--allow-private-addresses"])
        assert found.output.splitlines()[0] == names[2]
        described = ["describe", f"{server.url}/z/red.png", "--index", index, "-k", "1"]
        said = CliRunner().invoke(cli, described, env={"CLIPSEARCH_ALLOW_PRIVATE_ADDRESSES": "1"})
        assert said.exit_code == 0 and "a " in said.output
