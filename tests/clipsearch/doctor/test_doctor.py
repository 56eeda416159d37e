"""`clipsearch doctor`: each line, healthy and not."""

import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clipsearch
from clipsearch import cli
from clipsearch.doctor import extras, machine
from clipsearch.doctor.findings import examined
from finetune.errors import EngineError

REPOSITORY = Path(__file__).resolve().parents[3]
Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    def run(*arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
        code = cli._run(["doctor", "--json", *map(str, arguments)], debug=False)
        told = json.loads(capsys.readouterr().out)
        assert told["healthy"] is (code == 0)
        return code, {each["name"]: each for each in told["findings"]}

    return run


def colours(findings: dict[str, dict[str, Any]]) -> set[str]:
    return {each["colour"] for each in findings.values()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("doctor")
    (root / "pictures").mkdir()
    Image.new("RGB", (40, 40), "red").save(root / "pictures" / "a.png")
    shutil.copytree(encoder_folder, root / "encoder")
    clipsearch.feed(root / "pictures", root / "p.index", encoder=root / "encoder", workers=0)
    return root


def test_a_healthy_index_is_green(doctor: Doctor, place: Path) -> None:
    code, found = doctor("--index", place / "p.index")
    assert code == 0 and "red" not in colours(found)
    for name in ("python", "onnx runtime", "self-test", "index", "encoder", "images", "checksums"):
        assert found[name]["colour"] == "green", found[name]
    assert found["hub"]["colour"] == "yellow"  # tests are offline
    assert "fed and found 3 documents" in found["self-test"]["said"]
    assert found["images"]["said"].startswith("1 of 1 looked for are here")


def test_what_is_broken_is_red_and_what_is_away_is_yellow(
    doctor: Doctor, place: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sick"
    shutil.copytree(place, root)
    (root / "pictures" / "a.png").unlink()
    (root / "encoder" / "tokenizer.json").write_text("{}")
    (vectors,) = (root / "p.index").glob("vectors-*.f32")
    vectors.write_bytes(bytes(len(vectors.read_bytes())))
    info = json.loads((root / "p.index" / "index.json").read_text())
    assert info["encoder_path"] == str(place / "encoder")
    code, found = doctor("--index", root / "p.index", "--encoder", root / "encoder")
    assert code == 1
    assert found["checksums"]["colour"] == "red"
    assert found["encoder"]["colour"] == "red" and "a file was changed" in found["encoder"]["said"]
    code, found = doctor("--index", root / "p.index")
    assert found["checksums"]["colour"] == "red" and vectors.name in found["checksums"]["said"]
    code, found = doctor("--index", tmp_path / "none.index")
    assert code == 1 and "no index there" in found["index"]["said"]


def test_an_examination_that_fails_keeps_no_other_from_going(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies() -> Any:
        raise RuntimeError("ONNX is broken")

    monkeypatch.setattr(machine, "onnx_runtime", dies)
    code, found = doctor()
    assert code == 1 and found["onnx runtime"]["colour"] == "red"
    assert "ONNX is broken" in found["onnx runtime"]["said"] and "self-test" in found

    def refuses() -> Any:
        raise EngineError("the index is away; mend it")

    (finding,) = examined("index", refuses)
    assert (finding.colour, finding.said) == ("red", "the index is away; mend it")


def test_docker_that_does_not_answer_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hangs(*arguments: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("docker", 5)

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/docker")
    monkeypatch.setattr(machine.subprocess, "run", hangs)
    (finding,) = machine.docker()
    assert finding.colour == "yellow" and "does not answer in 5 s" in finding.said
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    (finding,) = machine.docker()
    assert "nothing else needs it" in finding.said


def test_a_full_disk_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert {each.colour for each in machine.disk()} == {"red"}


def test_extras_that_are_missing_are_notes_with_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = extras.packages_of_extras()
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    stated = pyproject["project"]["optional-dependencies"]
    development = {"finetune", "all", "dev", "docs"}
    assert set(known) == set(extras.NEEDED_FOR) == set(stated) - development
    away = {"watchfiles", "uvicorn"}
    monkeypatch.setattr(extras, "is_installed", lambda name: name not in away)
    *missing, rest = extras.extras()
    assert {each.name for each in missing} == {"extra serve", "extra watch"}
    assert all(each.colour == "yellow" and "pip install" in each.mend for each in missing)
    assert [each.said for each in missing] == [
        "without uvicorn: no clipsearch serve, and no demo --serve",
        "not installed: no feed --watch",
    ]
    assert rest.colour == "green" and "heic" in rest.said
