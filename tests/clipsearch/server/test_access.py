"""Who may ask, what leaves the disk, and what a browser may do with it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from running_service import RunningService, image_at
from small_pictures import paint

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.operations import Upsert
from clipsearch.server.settings import ServerSettings
from finetune.errors import UsageError

TOKEN = "read-read-read-read"
READ = ("/v1/index", "/v1/search?text=a", image_at("star.png"), image_at("star.png", "file"))
READ += (image_at("star.png", "thumbnail"), "/v1/similar/star.png", "/v1/embed?text=a")
READ += ("/metrics", "/")
BROWSER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def guarded(local_index: str, cache: Path):
    settings = ServerSettings(
        local_index,
        cache,
        token=TOKEN,
        cors=("https://photos.example",),
    )
    with RunningService(settings) as running:
        yield running


@pytest.mark.parametrize("address", READ)
def test_reading_asks_for_the_token_where_one_is_set(guarded: RunningService, address: str) -> None:
    for wrong in (None, "Bearer ", "Bearer read", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"):
        headers = {} if wrong is None else {"Authorization": wrong.encode()}
        refused = guarded.get(address, headers=headers)
        assert refused.status_code == 401, wrong
        assert refused.headers["WWW-Authenticate"].startswith("Basic")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert TOKEN not in refused.text
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.get(address, headers=headers).status_code == 200
    # A browser asks its user, and sends the password with images too.
    assert guarded.get(address, auth=("anybody", TOKEN)).status_code == 200


def test_the_state_is_told_to_all(guarded: RunningService) -> None:
    assert guarded.get("/healthz").json() == {"status": "alive"}
    assert guarded.get("/readyz").status_code in (200, 503)


def test_other_origins_read_nothing_unless_asked(
    served: RunningService, guarded: RunningService
) -> None:
    ours = {"Origin": "https://photos.example"}
    other = {"Origin": "https://evil.example"}
    name = "Access-Control-Allow-Origin"
    assert name not in served.get("/v1/index", headers=ours).headers
    assert name not in guarded.get("/healthz", headers=other).headers
    assert guarded.get("/healthz", headers=ours).headers[name] == ours["Origin"]
    asked = {**ours, "Access-Control-Request-Method": "POST"}
    assert guarded.ask("OPTIONS", image_at("a"), headers=asked).status_code == 200
    asked = {**other, "Access-Control-Request-Method": "POST"}
    assert guarded.ask("OPTIONS", image_at("a"), headers=asked).status_code == 400


def test_browsers_are_told_what_they_may_do(served: RunningService) -> None:
    for address in ("/", "/docs", "/v1/index", "/nothing", "/v1/search?k=0", "/static/docs.js"):
        headers = served.get(address).headers
        assert headers["Content-Security-Policy"] == BROWSER_POLICY, address
        assert headers["X-Content-Type-Options"] == "nosniff"
    for page in ("/", "/docs"):
        text = served.get(page).text
        assert "<script>" not in text and "style=" not in text and "onclick" not in text
        assert "//" not in text.replace("<!doctype html>", "").replace("http://www.w3.org", "")
    assert "sandbox" in served.get(image_at("star.png", "file")).headers["Content-Security-Policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert served.get(f"/docs/assets/{asset}").status_code == 200


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """An index whose documents say that they lie everywhere."""
    root, other = tmp_path / "photos", tmp_path / "private"
    for folder in (root, other):
        paint(folder / "a.png", 1)
    (root / "link.png").symlink_to(other / "a.png")
    (root / "notes.txt").write_text("no image")
    (root / "page.html.png").write_text("<script>alert(1)</script>")
    paths = {
        "inside": "a.png",
        "absolute inside": str(root / "a.png"),
        "absolute outside": str(other / "a.png"),
        "up": "../private/a.png",
        "link": "link.png",
        "system": "/etc/passwd",
        "here": "pyproject.toml",
        "text": "notes.txt",
        "page": "page.html.png",
        "missing": "nothing.png",
        "none": "",
        "folder": ".",
        "device": "/dev/zero",
        "../private/a.png": "nothing.png",
        "nul": "a\x7f.png",
    }
    index = tmp_path / "photos.index"
    engine = create_engine(str(index), IndexInfo(2, images_root=str(root)))
    vector = [1.0, 0.0]
    documents = [Document(id, ("a",), path, embedding=_unit(vector)) for id, path in paths.items()]
    assert all(outcome.error is None for outcome in engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    engine.close()
    return index


def _unit(values: list[float]):
    import numpy as np

    return np.array(values, np.float32)


def test_files_come_from_known_folders_alone(outside: Path, tmp_path: Path) -> None:
    given = {"inside", "absolute inside", "text", "page"}
    with RunningService(ServerSettings(str(outside), tmp_path / "cache")) as running:
        hits = running.get("/v1/search?text=a&mode=bm25&k=50").json()["hits"]
        assert len(hits) == 15
        for hit in hits:
            found = running.get(image_at(hit["id"], "file"))
            assert (found.status_code == 200) == (hit["id"] in given), hit["id"]
            assert (hit["image"] is not None) == (hit["id"] in given), hit["id"]
            if hit["id"] not in given:
                assert found.status_code == 404
                assert "root:" not in found.text and found.json()["title"] == "Not Found"
        # What is no image is given to be saved, and never shown as a page.
        for id in ("text", "page"):
            found = running.get(image_at(id, "file"))
            assert found.headers["Content-Type"] == "application/octet-stream"
            assert running.get(image_at(id, "thumbnail")).status_code == 422
    settings = ServerSettings(str(outside), tmp_path / "cache", images=(tmp_path / "private",))
    with RunningService(settings) as running:
        more = {"absolute outside", "up", "link"}
        for id in more:
            assert running.get(image_at(id, "file")).status_code == 200, id
        assert running.get(image_at("system", "file")).status_code == 404


def test_no_address_reaches_the_disk(served: RunningService) -> None:
    up = "..%2f..%2f..%2f..%2fetc%2fpasswd"
    for address in (
        f"/static/{up}", "/static/..%5c..%5capp.py", f"/docs/assets/{up}",
        f"/v1/images/{up}/file", "/v1/images/%2Fetc%2Fpasswd/file", f"/v1/images/{up}",
        "/v1/images/file:%2F%2F%2Fetc%2Fpasswd/thumbnail", "/static/%00",
    ):  # fmt: skip
        found = served.get(address)
        assert found.status_code == 404, address
        assert "root:" not in found.text


def test_an_id_may_end_like_an_address(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", 1)
    index = tmp_path / "photos.index"
    engine = create_engine(str(index), IndexInfo(2, images_root=str(tmp_path / "photos")))
    ids = ["a/file", "a", "a/thumbnail", "100%", "é/ü ?&#", "../x", "a//b"]
    documents = [Document(id, (id,), "a.png", embedding=_unit([1, 0])) for id in ids]
    assert all(outcome.error is None for outcome in engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    engine.close()
    with RunningService(ServerSettings(str(index), tmp_path / "cache")) as running:
        for id in ids:
            assert running.get(image_at(id)).json()["captions"] == [id]
            assert running.get(image_at(id, "file")).headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"token": "short"}, "has 5 characters, and can be guessed"),
        ({"token": "with a line end here\n"}, "a character that no header can"),
        ({"token": "é" * 20}, "a character that no header can"),
        ({"cors": ("photos.example",)}, "is no origin"),
        ({"cors": ("https://photos.example/app",)}, "is more than an origin"),
        *(({"root_path": path}, "is no path") for path in ("images", "/", "/v1", "/a/", "/a b")),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, sentence: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(ServerSettings("photos.index", cache), **change).check()


def test_thumbnails_are_bounded_and_made_anew(outside: Path, tmp_path: Path) -> None:
    from clipsearch.server.image_files import ImageFiles
    from clipsearch.server.metrics import Metrics
    from clipsearch.server.thumbnails import WIDTHS, Thumbnails

    root = tmp_path / "photos"
    files = ImageFiles(lambda: IndexInfo(2, images_root=str(root)), ())
    most = 6000
    kept = Thumbnails(tmp_path / "thumbnails", most, Metrics())
    for seed in range(12):
        paint(root / "many.png", seed, (400, 300))
        file = files.find(Document("many", path="many.png"))
        assert file is not None
        for width in WIDTHS[:2]:
            made = kept.get(file, width)
            assert kept.get(file, width) == made
        held = list((tmp_path / "thumbnails").glob("*/*"))
        assert sum(path.stat().st_size for path in held) <= most
    held[0].write_bytes(b"")
    shutil.rmtree(tmp_path / "thumbnails")
    assert kept.get(file, 96), "a cache that is gone is made again"
