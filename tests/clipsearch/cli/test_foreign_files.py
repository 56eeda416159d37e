"""No command removes or replaces what clipsearch did not write: the bytes of all else stay.

Every refusal is followed by a comparison of every file that was there before.
"""

import contextlib
import csv
import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from killing import Killed, killer
from local_collection import DIMENSION, feed, make_document, make_embedding
from PIL import Image

from clipsearch.deployment.package import PackageValues, render, write_folder
from clipsearch.engine import IndexInfo
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.folder import INDEX_FOLDER, is_unfinished
from clipsearch.engines.local.store import Store
from clipsearch.evaluation.plots import check_plots
from clipsearch.operations import Upsert
from finetune.config.settings import TrainConfig
from finetune.errors import UsageError
from finetune.export.encoder import export_encoder
from finetune.files.ownership import MARK_FILE, claim
from finetune.images.contact_sheet import write_sheet
from finetune.images.thumbnails import Cell
from finetune.manifest.inputs import check_sheet
from finetune.models.dual_encoder import load_dual_encoder
from finetune.training.checkpoint import WorkFolder
from finetune.training.checks import check_config


def clipsearch(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a manifest of ready-made vectors."""
    rows = [
        (f"p{n}.jpg", f"dog {n}", json.dumps(make_embedding(np.random.default_rng(n)).tolist()))
        for n in range(3)
    ]
    write_csv(tmp_path / "m.csv", ("image", "caption", "embedding"), rows)
    return tmp_path


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def refused(work: Path, *arguments: object, says: str, code: int = 2) -> None:
    """The command is refused in one sentence, and every byte below `work` is as before."""
    before = content(work)
    done = clipsearch(*arguments, cwd=work)
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.splitlines() if line != "Loading torch …"]
    assert len(said) == 1 and says in said[0], done.stderr
    assert content(work) == before


@pytest.mark.parametrize("name", ["documents.sqlite", "documents.lance/data/a.lance"])
def test_documents_of_others_are_not_taken_for_a_leftover(work: Path, name: str) -> None:
    mine = work / "mine" / name
    mine.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(mine)) as database:
        database.execute("CREATE TABLE documents (name TEXT)")
    assert not is_unfinished(work / "mine")
    refused(work, "feed", "m.csv", "--index", "mine", says="mine: no index there", code=1)


@pytest.mark.parametrize("how", ["plain", "relative", "symlink", "hard link", "case"])
@pytest.mark.parametrize(
    "command", ["feed m.csv --index i --report", "manifest check m.csv --report"]
)
def test_a_report_never_goes_to_the_manifest(work: Path, command: str, how: str) -> None:
    target = {
        "plain": "m.csv", "relative": "below/../m.csv", "symlink": "link.csv",
        "hard link": "hard.csv", "case": "M.CSV",
    }[how]  # fmt: skip
    (work / "below").mkdir()
    (work / "link.csv").symlink_to("m.csv")
    os.link(work / "m.csv", work / "hard.csv")
    refused(work, *command.split(), target, says="m.csv, which is read here")


def test_a_report_replaces_only_a_report(work: Path) -> None:
    (work / "notes.csv").write_text("id,note\na,mine\n")
    for command in (["feed", "m.csv", "--index", "i"], ["manifest", "check", "m.csv"]):
        refused(work, *command, "--report", "notes.csv", says="did not write")
    for _ in range(2):
        done = clipsearch("manifest", "check", "m.csv", "--report", "problems.csv", cwd=work)
        assert done.returncode == 3 or done.returncode == 0, done.stderr
    assert (work / "problems.csv").read_text().startswith("kind,where,reason")
    refused(work, "feed", "m.csv", "--index", "i", "--ledger", "m.csv", says="no database", code=1)


def test_a_sheet_replaces_only_a_sheet_that_nobody_changed(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "page.html").write_text("<p>mine")
    (tmp_path / "link.png").symlink_to("photo.png")
    before = content(tmp_path)
    for name in ("photo.png", "page.html", "link.png"):
        with pytest.raises(UsageError, match="did not write"):
            check_sheet(tmp_path / name)
    assert content(tmp_path) == before
    for name in ("sheet.png", "sheet.html"):
        path = tmp_path / name
        write_sheet(path, [Cell(tmp_path / "photo.png", "one")], "first")
        check_sheet(path)
        write_sheet(path, [Cell(tmp_path / "photo.png", "two")], "second")
        check_sheet(path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(UsageError, match="changed since"):
            check_sheet(path)
    with Image.open(tmp_path / "photo.png") as image:
        image.load()


def test_a_sheet_never_goes_to_a_picture_that_is_asked_by(work: Path) -> None:
    write_sheet(work / "old.png", [Cell(None, "x")], "a sheet of ours, as a picture to ask by")
    (work / "link.png").symlink_to("old.png")
    arguments = ("query", "--image", "old.png:2", "--index", "i", "--sheet", "link.png")
    refused(work, *arguments, says="old.png, which is read here")


def test_a_package_that_was_edited_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    deploy = ("deploy", "--dimension", "8", "--render", "package")
    assert clipsearch(*deploy, cwd=tmp_path).returncode == 0
    assert clipsearch(*deploy, cwd=tmp_path).returncode == 0, "unchanged, so ours"
    (folder / "services.xml").write_text("<services/> with a year of tuning")
    refused(tmp_path, *deploy, "--yes", says="services.xml was changed since")


def test_a_package_of_an_earlier_version_is_replaced_after_yes(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write_folder(render(PackageValues(dimension=8)), folder)
    (folder / MARK_FILE).unlink()
    (folder / "schemas" / "mine.sd").write_text("mine")
    with pytest.raises(UsageError, match="--yes"):
        write_folder(render(PackageValues(dimension=4)), folder)
    write_folder(render(PackageValues(dimension=4)), folder, yes=True)
    assert (folder / "schemas" / "mine.sd").read_text() == "mine"
    assert b"x[4]" in (folder / "schemas" / "image.sd").read_bytes()


def test_files_beside_an_encoder_stay(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, encoder)
    shutil.copytree(encoder_folder, tmp_path / "model")
    (encoder / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to("model")
    export = ("export", "model", "--overwrite", "--out")
    refused(tmp_path, *export, "encoder", "--yes", says="thesis.txt was not written")
    refused(tmp_path, *export, "link", says="model, which is read here")
    (encoder / "thesis.txt").unlink()
    refused(tmp_path, *export, "encoder", says="add --yes")
    dual = load_dual_encoder(tmp_path / "model")
    export_encoder(dual, encoder, name="next", yes=True)
    export_encoder(dual, encoder, name="and next")
    assert json.loads((encoder / "encoder.json").read_text())["name"] == "and next"


def test_a_folder_of_others_at_the_place_of_checkpoints_stays(work: Path) -> None:
    (work / "encoder.training").mkdir()
    for name, text in {"lock": "mine", "run.json": '{"mine": 1}', "best-1.pt": "mine"}.items():
        (work / "encoder.training" / name).write_text(text)
    train = ("finetune", "m.csv", "--model", "tiny", "--out", "encoder", "--restart")
    refused(work, *train, says="holds other files")


def test_files_of_others_among_those_of_an_index_stay(work: Path) -> None:
    command = ("feed", "m.csv", "--index", "i")
    assert clipsearch(*command, cwd=work).returncode in (0, 3)
    others = ("vectors-mine.f32", "segment-000001.seg.bak", "codes-1.bits", "notes.txt")
    for name in others:
        (work / "i" / name).write_text("mine")
    (work / "i" / "segment-999999.seg").mkdir()
    for number in range(9, 12):
        vector = json.dumps(make_embedding(np.random.default_rng(number)).tolist())
        write_csv(work / "m.csv", ("image", "caption", "embedding"), [("p9.jpg", "cat", vector)])
        assert clipsearch(*command, cwd=work).returncode in (0, 3)
    assert all((work / "i" / name).read_text() == "mine" for name in others)
    assert (work / "i" / "segment-999999.seg").is_dir()


@pytest.mark.parametrize("steps", range(5))
def test_an_index_whose_making_was_killed_is_made_by_the_next_feed(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after = killer(steps)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_after(Path.replace))
        patch.setattr(Store, "create", killed_after(Store.create))
        with contextlib.suppress(Killed):
            LocalEngine.create(tmp_path / "i", IndexInfo(DIMENSION)).close()
    if not (tmp_path / "i" / "index.json").exists():
        assert not (tmp_path / "i").exists() or is_unfinished(tmp_path / "i")
        LocalEngine.create(tmp_path / "i", IndexInfo(DIMENSION)).close()
    engine = LocalEngine.open(tmp_path / "i")
    feed(engine, [Upsert(make_document(1))])
    assert engine.count() == 1 and not checksums.verify(tmp_path / "i").broken
    engine.close()


def test_a_file_of_others_with_the_name_of_a_lock_stays(work: Path) -> None:
    (work / "mine.sqlite.lock").write_text("my own notes, with digits 123")
    command = ("feed", "m.csv", "--index", "i", "--ledger", "mine.sqlite")
    done = clipsearch(*command, cwd=work)
    assert done.returncode == 1 and "another file has the name of the lock" in done.stderr
    assert (work / "mine.sqlite.lock").read_text() == "my own notes, with digits 123"


def test_a_database_of_others_is_no_ledger(work: Path) -> None:
    with contextlib.closing(sqlite3.connect(work / "photos.db")) as database:
        database.execute("CREATE TABLE albums (name TEXT)")
    command = ("feed", "m.csv", "--index", "i", "--ledger", "photos.db")
    refused(work, *command, says="has the table albums, which is not ours", code=1)


def test_plots_never_go_over_others_or_into_an_encoder(
    encoder_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "text-to-image-ranks.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"text-to-image-ranks\.png: .*did not write"):
        check_plots(tmp_path / "plots")
    (tmp_path / "link").symlink_to(encoder_folder)
    with pytest.raises(UsageError, match="which is read here"):
        check_plots(tmp_path / "link", [encoder_folder])
    with pytest.raises(UsageError, match="which is read"):
        check_plots(encoder_folder / "onnx", [encoder_folder])
    with pytest.raises(UsageError, match="which is read"):
        check_sheet(encoder_folder / "mine.html", inputs=[encoder_folder])


def test_a_sheet_is_not_put_among_the_pictures_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.jpg")
    with pytest.raises(UsageError, match="would be a part of"):
        check_sheet(tmp_path / "photos" / "sheet.png", inputs=[tmp_path / "photos"])
    check_sheet(tmp_path / "photos" / "sheet.html", inputs=[tmp_path / "photos"])


def test_a_model_is_not_trained_into_itself(tmp_path: Path) -> None:
    for out in ("model", "link", "MODEL", "x/../model"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "x").mkdir(exist_ok=True)
        if not (tmp_path / "link").is_symlink():
            (tmp_path / "link").symlink_to("model")
        config = TrainConfig(
            manifest="m.csv", model=str(tmp_path / "model"), out=tmp_path / out, overwrite=True
        )
        with pytest.raises(UsageError, match="which is read here"):
            check_config(config)


def test_what_is_beside_a_run_stays_when_it_is_thrown_away(tmp_path: Path) -> None:
    config = TrainConfig(manifest="m.csv", model="tiny", out=tmp_path / "encoder")
    with WorkFolder.open(config.work_folder, config.as_dict()) as work:
        folder = work.path
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"diary\.txt was not written by clipsearch"):
        WorkFolder.open(config.work_folder, config.as_dict(), restart=True)
    work.remove()
    assert {path.name for path in folder.iterdir()} == {"diary.txt", MARK_FILE}
    assert (folder / "diary.txt").read_text() == "mine"


def test_what_only_shows_may_name_the_folder_that_it_reads(tmp_path: Path) -> None:
    model = str(tmp_path / "model")
    config = TrainConfig(manifest="m.csv", model=model, out=model)
    check_config(config, writes=False)
    with pytest.raises(UsageError, match="which is read here"):
        check_config(config)


def test_a_store_with_documents_is_never_a_leftover(tmp_path: Path) -> None:
    engine = LocalEngine.create(tmp_path / "i", IndexInfo(DIMENSION))
    feed(engine, [Upsert(make_document(1))])
    engine.close()
    for name in ("index.json", "write.lock"):
        (tmp_path / "i" / name).unlink()
    assert not is_unfinished(tmp_path / "i")
    claim(tmp_path / "i", INDEX_FOLDER)
    assert not is_unfinished(tmp_path / "i")
