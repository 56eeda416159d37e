"""Several manifests in one index: none replaces or removes what another brought."""

import csv
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image
from small_pictures import Manifest, counts, documents, paint
from vespa_stub import StubVespa

from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines import open_engine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.data_sets import HELD_KIND, ManifestPlace
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.search.images import ImageFolders
from clipsearch.search.search import Search
from finetune.errors import UsageError

NAMES = [f"images/{number}.png" for number in range(5)]


@pytest.fixture
def a(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "A", {name: number for number, name in enumerate(NAMES)})


@pytest.fixture
def b(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "B", {name: 100 + number for number, name in enumerate(NAMES)})


@pytest.fixture
def index(a: Manifest, encoder_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos.index"
    assert counts(a.feed(folder, encoder_folder)) == (5, 0, 0, 0, 0)
    return folder


def clipsearch(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd
    )


def captions(index: Path | str) -> dict[str, str]:
    return {name: document.captions[0] for name, document in documents(index).items()}


def data_sets(index: Path) -> dict[str, str]:
    engine = open_engine(str(index))
    try:
        return {each.name: each.manifest for each in engine.info.data_sets}
    finally:
        engine.close()


def test_an_id_that_another_data_set_holds_is_rejected_with_the_mend(
    a: Manifest, b: Manifest, index: Path
) -> None:
    done = clipsearch("feed", b.path, "--index", index, "--workers", "0")
    assert done.returncode == 3, done.stderr
    assert "fed 0, updated 0, unchanged 0, removed 0, rejected 5" in done.stdout
    assert captions(index) == a.captions
    with (index / "feed-report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == NAMES
    assert {row["kind"] for row in rows} == {HELD_KIND}
    reason = rows[0]["reason"]
    assert f"the data set m ({a.path})" in reason
    found = re.search(r"--id-prefix (\S+)", reason)
    assert found is not None and found[1] == "B-m/"

    # The mend that is named, as it is named.
    done = clipsearch("feed", b.path, "--index", index, "--workers", "0", "--id-prefix", found[1])
    assert done.returncode == 0, done.stderr
    assert "fed 5," in done.stdout
    prefixed = {"B-m/" + name: caption for name, caption in b.captions.items()}
    assert captions(index) == a.captions | prefixed
    # It is remembered.
    assert counts(b.feed(index)) == (0, 0, 5, 0, 0)
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)


def test_prefixed_documents_are_found_and_shown(a: Manifest, b: Manifest, index: Path) -> None:
    b.feed(index, id_prefix="B/")
    identity = f"B/{NAMES[3]}"
    with Search.open(index) as search:
        (document,) = search.get([identity])
        assert document is not None
        found = ImageFolders(search.info).find(document.path)
        assert found == (b.folder / NAMES[3]).resolve()
        assert ImageFolders(search.info).find(NAMES[3]) == (a.folder / NAMES[3]).resolve()
        page = search.similar(identity, k=9)
        assert identity not in [hit.document.id for hit in page.hits]
        assert page.hits[0].cosine is not None and len(page.hits) == 9
    done = clipsearch("get", identity, "--index", index, "--json")
    (shown,) = json.loads(done.stdout)
    assert (shown["id"], shown["data_set"], shown["captions"]) == (
        identity,
        "B-m",
        [f"B {NAMES[3]}"],
    )
    done = clipsearch("similar", identity, "--index", index, "-k", "1")
    assert done.returncode == 0, done.stderr


def test_prune_removes_of_its_own_data_set_alone(a: Manifest, b: Manifest, index: Path) -> None:
    b.feed(index, id_prefix="B/")
    del b.captions[NAMES[0]]
    b.write()
    done = clipsearch("feed", b.path, "--index", index, "--prune")
    assert done.returncode == 2 and "add --yes to prune" in done.stderr
    assert len(documents(index)) == 10
    done = clipsearch("feed", b.path, "--index", index, "--prune", "--yes")
    assert done.returncode == 0, done.stderr
    assert "unchanged 4, removed 1, rejected 0" in done.stdout
    assert set(documents(index)) == {*NAMES, *(f"B/{name}" for name in NAMES[1:])}
    asked: list[tuple[int, str]] = []

    def no(count: int, data_set: str) -> bool:
        asked.append((count, data_set))
        return False

    del a.captions[NAMES[1]]
    a.write()
    options = FeedOptions(manifest=a.path, index=str(index), prune=True)
    report = feed(options, consent=no)
    assert (asked, report.removed) == ([(1, "m")], 0)
    assert any("stay" in note for note in report.notes)
    assert len(documents(index)) == 9
    assert feed(options).removed == 1


def test_status_shows_the_data_sets(a: Manifest, b: Manifest, index: Path) -> None:
    b.feed(index, id_prefix="B/")
    done = clipsearch("status", "--index", index)
    assert f"m 5 ({a.path}), B-m 5 ({b.path}), ids B/…" in done.stdout
    done = clipsearch("status", "--index", index, "--json")
    listed = json.loads(done.stdout)["data_sets"]
    assert [(each["name"], each["documents"], each["id_prefix"]) for each in listed] == [
        ("m", 5, ""),
        ("B-m", 5, "B/"),
    ]


@pytest.mark.parametrize("way", ["relative", "dots", "link to the file", "link to the folder"])
def test_a_manifest_is_one_data_set_however_it_is_named(
    a: Manifest, index: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    match way:
        case "relative":
            a.path = Path("A") / "m.csv"
        case "dots":
            a.path = tmp_path / "A" / ".." / "A" / "." / "m.csv"
        case "link to the file":
            (a.folder / "current.csv").symlink_to("m.csv")
            a.path = a.folder / "current.csv"
        case "link to the folder":
            (tmp_path / "link").symlink_to("A")
            a.path = tmp_path / "link" / "m.csv"
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)
    assert list(data_sets(index)) == ["m"]


def test_a_link_that_leads_elsewhere_next_month_stays_one_data_set(
    encoder_folder: Path, tmp_path: Path
) -> None:
    photos = Manifest(tmp_path / "photos", {"0.png": 0, "1.png": 1}, "october.csv")
    link = photos.folder / "current.csv"
    link.symlink_to("october.csv")
    october, photos.path = photos.path, link
    index = tmp_path / "photos.index"
    photos.feed(index, encoder_folder)
    link.unlink()
    photos.captions = {"2.png": "two", "1.png": "one"}
    paint(photos.folder / "2.png", 2)
    photos.path = photos.folder / "november.csv"
    photos.write()
    link.symlink_to("november.csv")
    photos.path = link
    assert counts(photos.feed(index, prune=True)) == (1, 1, 0, 1, 0)
    assert october.exists() and list(data_sets(index)) == ["current"]


def test_moved_together_with_its_index(a: Manifest, b: Manifest, index: Path) -> None:
    both = index.parent / "archive"
    both.mkdir()
    a.folder = a.folder.rename(both / "A")
    a.path = a.folder / "m.csv"
    index = index.rename(both / "photos.index")
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)
    assert data_sets(index) == {"m": str(a.path)}


def test_copied_together_with_its_index(a: Manifest, index: Path, tmp_path: Path) -> None:
    """The copy is that index's own data set, though the original is still there."""
    copy = tmp_path / "copy"
    shutil.copytree(a.folder, copy / "A")
    shutil.copytree(index, copy / "photos.index")
    a.folder, a.path = copy / "A", copy / "A" / "m.csv"
    report = a.feed(copy / "photos.index")
    # Relative paths are still meant from the original's folder, so these become whole ones.
    assert (counts(report), report.images_per_second) == ((0, 5, 0, 0, 0), 0)
    assert counts(a.feed(copy / "photos.index")) == (0, 0, 5, 0, 0)
    assert list(data_sets(copy / "photos.index")) == ["m"]


def test_moved_and_renamed_while_its_index_stays(a: Manifest, index: Path) -> None:
    a.folder = a.folder.rename(a.folder.parent / "elsewhere")
    a.path = (a.folder / "m.csv").rename(a.folder / "pictures.csv")
    report = a.feed(index)
    assert counts(report) == (0, 0, 5, 0, 0)
    assert any("fed from" in note and "before" in note for note in report.notes)
    assert list(data_sets(index)) == ["m"]


def test_a_copy_beside_its_original_is_a_data_set_of_its_own(a: Manifest, index: Path) -> None:
    copy = a.folder / "copy.csv"
    shutil.copy(a.path, copy)
    original, a.path = a.path, copy
    report = a.feed(index, prune=True)
    assert counts(report) == (0, 0, 0, 0, 5)
    assert list(data_sets(index)) == ["m", "copy"]
    # Unless the user says that it takes the other's place.
    assert counts(a.feed(index, data_set="m")) == (0, 0, 5, 0, 0)
    assert data_sets(index)["m"] == str(copy)
    assert original.exists()


def test_a_copy_whose_original_is_gone_after_all_is_that_data_set(a: Manifest, index: Path) -> None:
    """All of the copy was rejected while both were there, so that it left an empty data set."""
    original = a.folder
    a.folder = Path(shutil.copytree(original, original.parent / "copy"))
    a.path = a.folder / "m.csv"
    assert counts(a.feed(index)) == (0, 0, 0, 0, 5)
    shutil.rmtree(original)
    report = a.feed(index)
    assert counts(report) == (0, 0, 5, 0, 0)
    assert any("the data set m, fed from" in note for note in report.notes)
    assert data_sets(index)["m"] == str(a.path)
    assert counts(a.feed(index)) == (0, 0, 5, 0, 0)


def test_another_manifest_where_the_old_one_was_gone_is_not_taken_for_it(
    a: Manifest, b: Manifest, index: Path
) -> None:
    """The same names, in a place of its own, and the first manifest's disk is not mounted."""
    a.folder.rename(a.folder.parent / "unmounted")
    assert counts(b.feed(index, prune=True)) == (0, 0, 0, 0, 5)
    assert captions(index) == a.captions


def test_another_manifest_beside_a_moved_index_is_not_taken_for_it(
    a: Manifest, b: Manifest, index: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    index = index.rename(place / "photos.index")
    b.folder = b.folder.rename(place / "A")
    b.path = b.folder / "m.csv"
    assert counts(b.feed(index)) == (0, 0, 0, 0, 5)
    assert captions(index) == a.captions


def test_a_changed_prefix_leaves_the_earlier_documents_until_prune(
    b: Manifest, a: Manifest, index: Path
) -> None:
    b.captions["own.png"] = "of B alone"
    paint(b.folder / "own.png", 500)
    b.write()
    assert counts(b.feed(index)) == (1, 0, 0, 0, 5)
    report = b.feed(index, id_prefix="B/")
    assert counts(report) == (6, 0, 0, 0, 0)
    assert report.reused == 1
    assert any("began with ''" in note for note in report.notes)
    assert counts(b.feed(index, prune=True)) == (0, 0, 6, 1, 0)
    assert set(documents(index)) == {*NAMES, *(f"B/{name}" for name in b.captions)}


@pytest.mark.parametrize("name", ["", "a b", "x/y", "-"])
def test_a_name_that_cannot_be_is_refused(a: Manifest, index: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--data-set"):
        a.feed(index, data_set=name)


def shard(folder: Path, name: str, members: dict[str, int]) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    with tarfile.open(path, "w") as tar:
        for member, seed in members.items():
            image = folder / "picture.png"
            paint(image, seed)
            text = folder / "text.txt"
            text.write_text(f"{name} {member}")
            tar.add(image, member)
            tar.add(text, member.removesuffix(".png") + ".txt")
            image.unlink()
            text.unlink()
    return path


def test_shards_with_the_same_keys_are_told_apart(encoder_folder: Path, tmp_path: Path) -> None:
    one = shard(tmp_path / "one", "s.tar", {"0.png": 1, "1.png": 2})
    two = shard(tmp_path / "two", "s.tar", {"0.png": 3, "1.png": 4})
    index = tmp_path / "shards.index"

    def options(path: Path, **more: str) -> FeedOptions:
        return FeedOptions(
            manifest=path, index=str(index), encoder=encoder_folder, workers=0, **more
        )

    assert counts(feed(options(one))) == (2, 0, 0, 0, 0)
    assert counts(feed(options(two))) == (0, 0, 0, 0, 2)
    assert counts(feed(options(two, id_prefix="two/"))) == (2, 0, 0, 0, 0)
    encoder = Encoder.load(encoder_folder)
    with Search.open(index) as search:
        images = ImageFolders(search.info)
        for identity, seed in (("s.tar/0.png", 1), ("two/s.tar/0.png", 3)):
            (document,) = search.get([identity], embeddings=True)
            assert document is not None
            source = images.source(document.path)
            assert source is not None
            paint(tmp_path / "expected.png", seed)
            assert source.read() == (tmp_path / "expected.png").read_bytes()
            (expected,) = encoder.encode_images([tmp_path / "expected.png"])
            np.testing.assert_allclose(document.embedding, expected, atol=1e-5)


def test_members_that_point_out_of_their_shards_are_told_apart(
    encoder_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shard(folder, "0.tar", {"../x.png": 1, "./y.png": 2})
    shard(folder, "1.tar", {"../x.png": 3})
    index = tmp_path / "shards.index"
    options = FeedOptions(
        manifest=folder / "{0..1}.tar", index=str(index), encoder=encoder_folder, workers=0
    )
    assert counts(feed(options)) == (3, 0, 0, 0, 0)
    assert captions(index) == {
        "0.tar/../x.png": "0.tar ../x.png",
        "0.tar/y.png": "0.tar ./y.png",
        "1.tar/../x.png": "1.tar ../x.png",
    }
    with Search.open(index) as search:
        for identity, seed in (("0.tar/../x.png", 1), ("1.tar/../x.png", 3), ("0.tar/y.png", 2)):
            (document,) = search.get([identity])
            assert document is not None
            source = ImageFolders(search.info).source(document.path)
            assert source is not None
            paint(tmp_path / "expected.png", seed)
            assert source.read() == (tmp_path / "expected.png").read_bytes()


def test_vectors_of_two_manifests(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    paths = []
    for name in "ab":
        rows = {
            "id": ["same", f"only-{name}"],
            "caption": [f"{name} one", f"{name} two"],
            "embedding": list(chance.normal(size=(2, 4)).astype(np.float32)),
        }
        paths.append(tmp_path / f"{name}.parquet")
        pd.DataFrame(rows).to_parquet(paths[-1])
    index = str(tmp_path / "vectors.index")
    assert counts(feed(FeedOptions(manifest=paths[0], index=index))) == (2, 0, 0, 0, 0)
    report = feed(FeedOptions(manifest=paths[1], index=index, prune=True))
    assert counts(report) == (1, 0, 0, 0, 1)
    assert captions(index) == {"same": "a one", "only-a": "a two", "only-b": "b two"}


def test_on_a_vespa_too(a: Manifest, b: Manifest, encoder_folder: Path, tmp_path: Path) -> None:
    dimension = Encoder.load(encoder_folder).dimension
    options = {"ledger": tmp_path / "ledger.sqlite", "report": tmp_path / "report.csv"}
    with StubVespa(dimension=dimension) as stub:
        client = connect(stub.url)
        write_info(client, IndexInfo(dimension))
        client.close()
        assert counts(a.feed(stub.url, encoder_folder, **options)) == (5, 0, 0, 0, 0)
        assert counts(b.feed(stub.url, prune=True, **options)) == (0, 0, 0, 0, 5)
        assert counts(b.feed(stub.url, id_prefix="B/", **options)) == (5, 0, 0, 0, 0)
        del b.captions[NAMES[2]]
        b.write()
        assert counts(b.feed(stub.url, prune=True, **options)) == (0, 0, 4, 1, 0)
        done = clipsearch("status", "--index", stub.url, "--json")
        listed = json.loads(done.stdout)["data_sets"]
        assert [(each["name"], each["documents"]) for each in listed] == [("m", 5), ("B-m", 4)]


def test_places(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.csv").write_text("")
    (tmp_path / "link").symlink_to("real")
    place = ManifestPlace.of(tmp_path / "link" / "m.csv", str(tmp_path / "x.index"))
    assert place.manifest == f"{tmp_path}/link/m.csv"
    assert place.resolved == f"{os.path.realpath(tmp_path)}/real/m.csv"
    assert place.beside == "../real/m.csv"
    assert ManifestPlace.of(tmp_path / "real" / "m.csv", "http://localhost:8080").beside is None


def test_a_picture_of_each_set_is_what_it_should_be(
    a: Manifest, b: Manifest, index: Path, encoder_folder: Path
) -> None:
    b.feed(index, id_prefix="B/")
    found = documents(index)
    encoder = Encoder.load(encoder_folder)
    for manifest, prefix in ((a, ""), (b, "B/")):
        for name in NAMES:
            with Image.open(manifest.folder / name) as image:
                (expected,) = encoder.encode_images([image])
            np.testing.assert_allclose(found[prefix + name].embedding, expected, atol=1e-5)
