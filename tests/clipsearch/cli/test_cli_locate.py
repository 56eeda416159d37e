"""`locate`, and heat maps on the sheets of `query` and `similar`: the real commands."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image

from clipsearch import cli
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.errors import UsageError
from finetune.images.pixel_box import PixelBox

Run = Callable[..., tuple[int, str, str]]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """Three pictures, the encoder and an index of them."""
    root = tmp_path_factory.mktemp("located")
    rows = ["image,caption"]
    for name, colour in COLOURS.items():
        image = Image.new("RGB", (90, 60), (240, 240, 240))
        image.paste(colour, (10, 10, 40, 40))
        image.save(root / f"{name}.png")
        rows.append(f"{name}.png,a {name} square")
    (root / "photos.csv").write_text("\n".join(rows))
    shutil.copytree(encoder_folder, root / "encoder")
    arguments = ["feed", "photos.csv", "--encoder", "encoder", "--index", "photos.index"]
    before = Path.cwd()
    os.chdir(root)
    try:
        assert cli._run(arguments, debug=False) == 0
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CLIPSEARCH_INDEX", raising=False)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = cli._run(list(arguments), debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_command


def test_a_program_draws_a_map_and_answers_in_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    command = [*CLIPSEARCH, "locate", "red.png", "a red square"]
    done = subprocess.run(
        [*command, "--encoder", "encoder", "--out", str(out), "--json"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stderr == f"Wrote {out}\n"
    answer = json.loads(done.stdout)
    assert (answer["image"], answer["text"]) == ("red.png", "a red square")
    assert (answer["width"], answer["height"], answer["method"]) == (90, 60, "windows")
    assert (len(answer["grid"]), len(answer["grid"][0])) == (12, 18)
    assert answer["notes"] == ["encoder has no onnx/patches.onnx: located by windows"]
    assert answer["peak"]["cosine"] == max(max(row) for row in answer["grid"])
    for box in answer["boxes"]:
        assert 0 <= box["x"] < box["x"] + box["width"] <= 90
        assert 0 <= box["y"] < box["y"] + box["height"] <= 60
    with Image.open(out) as drawn:
        assert (drawn.size, drawn.mode) == ((90, 60), "RGB")


def test_a_file_an_id_and_python_say_the_same(run: Run, folder: Path) -> None:
    asked = ("locate", "red.png", "a red square", "--json")
    (folder / "moved").mkdir()
    by_file = json.loads(run(*asked, "--encoder", str(folder / "encoder"))[1])
    both = json.loads(run(*asked, "--index", "photos.index")[1])
    (folder / "red.png").rename(folder / "moved" / "red.png")
    try:
        code, _, err = run(*asked, "--index", "photos.index")
        assert (code, "red.png: not found; say where with --images FOLDER" in err) == (1, True)
        by_id = json.loads(run(*asked, "--index", "photos.index", "--images", "moved")[1])
        with Search.open("photos.index") as search:
            found = search.locate("a red square", id="red.png", images=Path("moved"))
            text = search.encoder.encode_texts(["a red square"])[0]
            cosine, *others = (
                float(document.embedding @ text)
                for document in search.get(["red.png", "green.png", "blue.png"], embeddings=True)
                if document is not None and document.embedding is not None
            )
            with pytest.raises(UsageError, match="either an image or an id"):
                search.locate("a red square")
    finally:
        (folder / "moved" / "red.png").rename(folder / "red.png")
        (folder / "moved").rmdir()
    whole = {"cosine": pytest.approx(cosine, abs=1e-5), "standing": None}
    expected = {"image": "red.png", "text": "a red square", "whole": whole, **found.to_json()}
    assert by_file == expected
    whole["standing"] = {"nearer": sum(each > cosine for each in others), "images": 3}
    assert both == by_id == expected


def test_for_people_it_names_the_strongest_point_and_boxes(run: Run) -> None:
    code, out, err = run("locate", "blue.png", "a blue square", "--encoder", "encoder")
    assert (code, err) == (0, "Note: encoder has no onnx/patches.onnx: located by windows\n")
    assert out.startswith("a blue square in blue.png (90 x 60 pixels): parts of three sizes, each")
    assert re.search(r"^as a whole: cosine -?\d\.\d{4}$", out, re.MULTILINE)
    number = r"cosine -?\d\.\d{4}; weakest: -?\d\.\d{4}"
    assert re.search(rf"^strongest at \d+,\d+: {number}$", out, re.MULTILINE)
    assert re.search(r"^box \d+,\d+,\d+,\d+: cosine up to -?\d\.\d{4}$", out, re.MULTILINE)


def test_how_good_a_cosine_is_the_images_of_the_index_tell(run: Run) -> None:
    asked = ("a blue square", "--index", "photos.index")
    told = [run("locate", f"{name}.png", *asked)[1] for name in COLOURS]
    counts = [re.search(r"\((no|1|2) .* the index (?:is|are) nearer", each) for each in told]
    assert {found and found[1] for found in counts} == {"no", "1", "2"}


def test_a_box_around_nearly_all_is_said_to_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    told = "No part stands out: "
    asked = ("locate", "blue.png", "a blue square", "--encoder", "encoder")
    assert told not in run(*asked)[1]
    monkeypatch.setattr("clipsearch.localization.heat_map.BOX_LEVEL", 0.0)
    assert told in run(*asked)[1]


REFUSED: list[tuple[list[str], int, str]] = [
    (["none.png", "x", "--encoder", "encoder"], 1, "none.png: no such picture file"),
    (["none.png", "x", "--index", "photos.index"], 1, "no document has the id 'none.png'"),
    (["red.png", "x"], 2, "nothing says which encoder looks: give --encoder FOLDER or --index"),
    (["red.png", " ", "--encoder", "encoder"], 2, "TEXT is empty"),
    (["red.png", "x", "--encoder", "none"], 1, "none: no such encoder folder"),
    (["photos.csv", "x", "--encoder", "encoder"], 1, "photos.csv: "),
    (["red.png", "x", "--encoder", "encoder", "--out", "map.jpg"], 2, "a heat map is a .png"),
    (["red.png", "x", "--encoder", "encoder", "--out", "red.png"], 2, "which is read here"),
    (["red.png", "x", "--encoder", "encoder", "--out", "blue.png"], 2, "did not write"),
    (
        ["red.png", "x", "--encoder", "encoder", "--method", "dense", "--out", "map.png"],
        1,
        "encoder: has no onnx/patches.onnx",
    ),
    (["red.png", "x", "--encoder", "encoder", "--method", "edges"], 2, "'edges' is not one of"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_what_cannot_be_located_is_one_sentence(
    run: Run, folder: Path, arguments: list[str], code: int, sentence: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    found, out, err = run("locate", *arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def images_of(sheet: Path) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', sheet.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in found]


@pytest.mark.parametrize(
    "asked",
    [
        ["query", "a red square"],
        ["query", "red", "--mode", "bm25"],
        ["query", "--image", "blue.png"],
        ["similar", "red.png"],
    ],
)
def test_sheets_show_where_each_hit_answers(
    run: Run, folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    plain, located = tmp_path / "plain.html", tmp_path / "located.html"
    assert run(*asked, "--index", "photos.index", "--sheet", str(plain))[0] == 0
    arguments = [*asked, "--index", "photos.index", "--sheet", str(located), "--locate"]
    code, _, err = run(*arguments)
    note = f"Note: {folder / 'encoder'} has no onnx/patches.onnx: located by windows\n"
    assert (code, err.partition("\n")[2]) == (0, f"{note}Wrote {located}\n")
    before, after = images_of(plain), images_of(located)
    assert len(before) == len(after) >= 1
    for one, other in zip(before, after, strict=True):
        assert one.size == other.size
        assert one.tobytes() != other.tobytes()


def test_a_hit_that_cannot_be_looked_into_is_shown_and_named(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    whole = (folder / "green.png").read_bytes()
    Image.new("RGB", (900, 9), (0, 200, 0)).save(folder / "green.png")
    try:
        sheet = tmp_path / "sheet.html"
        asked = ["query", "a square", "--index", "photos.index", "--sheet", str(sheet), "--locate"]
        code, _, err = run(*asked)
    finally:
        (folder / "green.png").write_bytes(whole)
    assert code == 0
    assert "Note: green.png is shown without a heat map: " in err
    assert "has 900 x 9 pixels, more than 20 times as long" in err
    assert len(images_of(sheet)) == 3


def test_heat_maps_need_a_sheet_and_an_encoder(run: Run, folder: Path, tmp_path: Path) -> None:
    code, _, err = run("query", "red", "--index", "photos.index", "--locate")
    assert (code, err) == (
        2,
        "Error: --locate draws heat maps on the sheet; name one with --sheet FILE\n",
    )
    sheet = tmp_path / "sheet.png"
    asked = ["similar", "red.png", "--index", "photos.index", "--sheet", str(sheet), "--locate"]
    (folder / "encoder").rename(folder / "elsewhere")
    try:
        code, out, err = run(*asked)
        assert (code, out) == (1, "")
        assert "say where it is with --encoder FOLDER" in err and not sheet.exists()
        assert run(*asked, "--encoder", "elsewhere")[0] == 0
    finally:
        (folder / "elsewhere").rename(folder / "encoder")


def cosines(run: Run, *arguments: str) -> dict[str, float]:
    code, out, err = run("query", *arguments, "--index", "photos.index", "--json")
    assert (code, err) == (0, "")
    return {hit["id"]: hit["cosine"] for hit in json.loads(out)["hits"]}


def test_a_crop_is_searched_like_a_file_of_its_own(run: Run, folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "red.png") as image:
        image.crop((10, 10, 40, 35)).save(tmp_path / "part.png")
    part = cosines(run, "--image", str(tmp_path / "part.png"))
    crop = cosines(run, "--image", "red.png", "--crop", "10,10,30,25")
    assert crop == pytest.approx(part, abs=1e-6)
    assert crop != pytest.approx(cosines(run, "--image", "red.png"), abs=1e-3)
    weighted = cosines(run, "--image", "red.png:2", "--crop", " 10, 10,30,25")
    assert weighted == pytest.approx(part, abs=1e-6)
    asked = ("query", "--image", "red.png", "--crop", "10,10,30,25", "--index", "photos.index")
    question: dict[str, Any] = json.loads(run(*asked, "--json")[1])["query"]
    assert question["parts"][0]["crop"] == {"x": 10, "y": 10, "width": 30, "height": 25}
    with Search.open(folder / "photos.index") as search:
        page = search.query(image=folder / "red.png", crop=PixelBox(10, 10, 30, 25))
        assert {hit.document.id: hit.cosine for hit in page.hits} == pytest.approx(part, abs=1e-6)
        with pytest.raises(UsageError, match="a crop is a part of an image, and there is none"):
            search.query("red", crop=PixelBox(0, 0, 1, 1))
        with pytest.raises(UsageError, match="a crop is of an image, not of a part that is a text"):
            search.query(parts=[Part("text", "red", crop=PixelBox(0, 0, 1, 1))])


@pytest.mark.parametrize(
    ("crop", "sentence"),
    [
        ("10,10,90,20", "the box 10,10,90,20 reaches outside of red.png, which has 90 x 60 pixels"),
        ("0,0,0,5", "the box 0,0,0,5 is empty"),
        ("-1,0,5,5", "'-1,0,5,5' is no box; give x,y,width,height in pixels"),
        ("1,2,3", "'1,2,3' is no box"),
        ("nan,0,5,5", "'nan,0,5,5' is no box"),
        ("1.5,0,5,5", "'1.5,0,5,5' is no box"),
    ],
)
def test_a_box_outside_or_of_no_numbers_is_wrong_usage(run: Run, crop: str, sentence: str) -> None:
    code, out, err = run("query", "--image", "red.png", "--crop", crop, "--index", "photos.index")
    assert (code, out) == (2, "")
    assert sentence in err


def test_a_crop_needs_one_image(run: Run) -> None:
    code, _, err = run("query", "red", "--crop", "0,0,5,5", "--index", "photos.index")
    assert (code, "--crop is a part of one --image, but none is given" in err) == (2, True)
    two = ["--image", "red.png", "--image", "blue.png"]
    code, _, err = run("query", *two, "--crop", "0,0,5,5", "--index", "photos.index")
    assert (code, "--crop is a part of one --image, but 2 are given" in err) == (2, True)
