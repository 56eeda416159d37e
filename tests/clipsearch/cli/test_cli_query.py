"""`query` and `similar`: most in process against a plain engine, the road itself in processes."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from memory_engine import MemoryEngine
from PIL import Image

from clipsearch import cli
from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import create_engine
from clipsearch.modes import MODES, RANKINGS, Mode
from clipsearch.operations import Upsert

DIMENSION = 4


def unit(*values: float) -> np.ndarray:
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


def document(id: str, captions: list[str], kind: str, year: float, *vector: float) -> Document:
    return Document(id, tuple(captions), id, {"class": kind}, {"year": year}, unit(*vector))


DOCUMENTS = [
    document("a.png", ["sand", "two dogs on a beach with a dog"], "beach", 2010, 1, 0, 0, 0),
    document("b.png", ["a dog at home"], "home", 2012, 1, 1, 0, 0),
    document("c.png", ["a [red]cat[/red] \x1b[2J\x9b31m\u202e <b>"], "home", 2014, 0, 1, 0, 0),
    document("sub/d.png", ["日本語 beach"], "Beach", 2016, 0, 0, 1, 0),
]
INFO = IndexInfo(DIMENSION, tag_columns=("class",), number_columns=("year",))

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine(INFO, DOCUMENTS)


@pytest.fixture
def run(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line in this process: exit code, standard output, standard error."""
    monkeypatch.setattr("clipsearch.search.search.open_engine", lambda target: engine)
    monkeypatch.setenv("CLIPSEARCH_INDEX", "memory")
    monkeypatch.setenv("COLUMNS", "100")

    def run_command(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli._run(list(arguments), debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_command


def answer(run: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    return result


def found(page: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in page["hits"]]


def test_a_pipe_gets_a_line_of_tabs_for_each_hit_and_nothing_else(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = ["query", "dogs beach", "--mode", "bm25", "--images", str(tmp_path)]
    code, out, err = run(*asked, "--facet", "class")
    assert code == 0
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert lines[0][2:] == [
        "a.png", str((tmp_path / "a.png").resolve()), "two dogs on a beach with a dog",
    ]  # fmt: skip
    assert re.fullmatch(r"\d\.\d{4}", lines[0][1])
    assert lines[1][2:4] in (["b.png", "b.png"], ["sub/d.png", "sub/d.png"])
    assert "1-3 of 3, page 1 of 1" in err and "class: Beach 2, home 1" in err
    assert run(*asked, "-k", "1", "--paths")[1] == f"{(tmp_path / 'a.png').resolve()}\n"
    assert run(*asked, "-k", "1", "--ids")[1] == "a.png\n"
    assert run(*asked, "-k", "1", "--ids", "-0")[1] == "a.png\0"
    assert run(*asked, "-0")[0] == 2
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv")[1])))
    assert [row["id"] for row in rows] == [line[2] for line in lines]
    assert float(rows[0]["score"]) == float(rows[0]["bm25"]) and rows[0]["cosine"] == ""


def test_people_get_blocks_with_marks_links_and_two_lines_of_caption(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: MemoryEngine
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    monkeypatch.setattr("clipsearch.cli.answers.is_for_people", lambda: True)
    monkeypatch.setenv("COLUMNS", "38")
    asked = ["query", "dogs beach", "--mode", "bm25", "--images", str(tmp_path), "-k", "1"]
    _, out, err = run(*asked, "--facet", "class")
    lines = out.splitlines()
    assert re.fullmatch(r"  1 a\.png  (\d\.\d{4})  bm25 \1", lines[0])
    assert lines[1:3] == [f"    {(tmp_path / 'a.png').resolve()}",
                          "    two *dogs* on a *beach* with a"]  # fmt: skip
    assert lines[3] == "    *dog*" and lines[4].startswith("1-1 of 3") and err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out, _ = run(*asked)
    assert "\x1b]8;id=" in out and (tmp_path / "a.png").resolve().as_uri() in out
    for values, start in (
        ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100,r=8,m="),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=size="),
        ({"TERM": "xterm", "TERM_PROGRAM": ""}, "\x1b[38;2;25"),
    ):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("KITTY_WINDOW_ID", raising=False)
        assert run(*asked, "--preview")[1].startswith(start), values
        monkeypatch.setenv("TERM", "xterm")


def test_the_best_picture_is_opened(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr("clipsearch.cli.listing.launch", opened.append)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    run("query", "dogs beach", "--images", str(tmp_path), "--open")
    assert opened == [(tmp_path / "a.png").resolve()]
    assert "is not here" in run("query", "dogs beach", "--open")[2]


@pytest.mark.parametrize("k", ["1", "2", "50"])
def test_the_total_of_vector_does_not_depend_on_k(run: Run, tmp_path: Path, k: str) -> None:
    np.save(tmp_path / "v.npy", unit(1, 0, 0, 0))
    asked = ["query", "--vector", str(tmp_path / "v.npy"), "--mode", "vector", "-k", k]
    asked += ["--candidates", "2", "--filter", "class!=home", "--facet", "class"]
    page = answer(run, *asked)
    passing = [one for one in DOCUMENTS if one.tags.get("class") != "home"]
    ranked = min(max(2, int(k)), len(passing))
    assert (page["total"], page["candidates"]) == (len(passing), ranked)
    assert sum(one["count"] for one in page["facets"]["class"]) == sum(
        "class" in one.tags for one in passing
    )
    _, _, err = run(*asked)
    assert f" of {len(passing)}, page 1 of " in err and f"the nearest {ranked} ranked" in err


def test_captions_cannot_steer_the_terminal(run: Run) -> None:
    for arguments in (["query", "cat"], ["query", "cat", "--json"]):
        _, out, _ = run(*arguments)
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "\u202e" not in out
        assert "[red]" in out
    assert json.loads(out)["hits"][0]["captions"] == list(DOCUMENTS[2].captions)


def test_json_has_everything(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    page = answer(run, "query", "home dogs", "-k", "1", "--page", "2", "--facet", "class",
                  "--images", str(tmp_path))  # fmt: skip
    keys = "query total at_least candidates corrections offset k seconds hits facets notes partial"
    assert set(page) == set(keys.split())
    assert page["query"] == {"text": "home dogs", "parts": [], "mode": "bm25"}
    assert (page["total"], page["offset"], page["k"], page["partial"]) == (2, 1, 1, None)
    assert page["facets"] == {
        "class": [{"value": "beach", "count": 1}, {"value": "home", "count": 1}]
    }
    assert "no encoder" in page["notes"][0]
    (hit,) = page["hits"]
    assert hit.pop("score") == hit.pop("bm25") > 0
    assert hit == {
        "rank": 2,
        "id": "a.png",
        "cosine": None,
        "captions": ["sand", "two dogs on a beach with a dog"],
        "highlights": [[], [[4, 8], [27, 30]]],
        "path": "a.png",
        "image": str((tmp_path / "a.png").resolve()),
        "tags": {"class": "beach"},
        "numbers": {"year": 2010.0},
    }
    assert answer(run, "query", "日本語")["hits"][0]["image"] is None


def test_other_scripts_stay_readable(run: Run) -> None:
    assert "日本語" in run("query", "beach", "--json")[1]
    assert "日本語" in run("query", "beach")[1]


def test_filters_pages_and_empty_answers(run: Run) -> None:
    assert found(answer(run, "query", "dog beach", "--filter", "class=BEACH")) == [
        "a.png",
        "sub/d.png",
    ]
    assert found(answer(run, "query", "dog", "--filter", "year>=2011")) == ["b.png"]
    code, out, err = run("query", "zebra")
    assert (code, out) == (0, "") and err.startswith("No picture found.")
    code, out, err = run("query", "dog", "--page", "9")
    assert (code, out) == (0, "")
    assert err.startswith("No more pictures: 2 in all, the last page is 1.")
    code, out, err = run("query", "!!!")
    assert code == 0
    assert "has no word" in err


def test_why_nothing_was_found_is_said_where_it_can_be_told(run: Run, engine: MemoryEngine) -> None:
    def said(*arguments: str) -> str:
        code, out, err = run("query", *arguments)
        assert (code, out) == (0, "") and "No picture found." in err
        return err

    assert "no document has class=beech; there are Beach (2), home (2)" in said(
        "dog", "--filter", "class=beech"
    )
    assert "no document has a year of 1900..1950" in said("dog", "--filter", "year=1900..1950")
    code, out, err = run("list", "--filter", "class=beech")
    assert (code, out) == (0, "") and "there are Beach (2), home (2)" in err
    both = said("dog", "--filter", "class=home", "--filter", "year=2010")
    assert "each of these filters has documents, but none passes them all" in both
    assert "Note" not in said("zebra", "--mode", "bm25").replace("no encoder", "")
    engine.documents = {id: replace(each, captions=()) for id, each in engine.documents.items()}
    assert "have no captions" in said("dog", "--mode", "bm25")


def test_parts_with_weights(run: Run, engine: MemoryEngine, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit(0, 0, 0, 1))
    page = answer(
        run, "query", "--id", "a.png:2", "--id", "c.png:-1", "--vector", str(tmp_path / "v.npy")
    )
    np.testing.assert_allclose(engine.queries[0].vector, unit(2, -1, 0, 1), atol=1e-6)
    assert page["query"]["mode"] == "vector"
    assert page["query"]["parts"][1] == {"kind": "id", "value": "c.png", "weight": -1.0}
    assert found(page) == ["b.png", "sub/d.png"]


def test_similar(run: Run) -> None:
    page = answer(run, "similar", "a.png", "-k", "2")
    assert found(page) == ["b.png", "c.png"]
    assert page["hits"][0]["cosine"] == pytest.approx(0.5**0.5)
    assert found(answer(run, "similar", "a.png", "--filter", "class!=home")) == ["sub/d.png"]


def test_queries_from_a_pipe(run: Run) -> None:
    code, out, err = run("query", "-", stdin="dog\n\ncat\n日本語\n".encode() + b"\xff\xfe\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["query"]["text"] for line in lines] == ["dog", "", "cat", "日本語", "��"]
    assert [len(line.get("hits", [])) for line in lines] == [2, 0, 1, 1, 0]
    errors = {line["error"] for line in lines if "error" in line}
    assert errors == {"line 2 is empty", "line 5 is not UTF-8"}
    assert (code, err) == (3, "")
    code, out, _ = run("query", "-", stdin=b"dog")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert run("query", "-", stdin=b"") == (0, "", "")


def test_a_partial_answer_is_said(run: Run, engine: MemoryEngine) -> None:
    engine.partial = "one of three nodes is down"
    code, out, err = run("query", "dog")
    assert code == 3
    assert "a.png" in out
    assert "one of three nodes is down" in err
    code, out, _ = run("query", "dog", "--json")
    assert (code, json.loads(out)["partial"]) == (3, engine.partial)
    assert run("query", "-", stdin=b"dog\n")[0] == 3


@pytest.mark.parametrize("name", ["out.html", "out.png"])
def test_sheets(run: Run, tmp_path: Path, name: str) -> None:
    Image.new("RGB", (90, 60), "red").save(tmp_path / "a.png")
    code, out, err = run("query", "dog", "--images", str(tmp_path), "--sheet", str(tmp_path / name))
    assert (code, "a.png" in out) == (0, True)
    assert f"Wrote {tmp_path / name}" in err
    if name.endswith("html"):
        html = (tmp_path / name).read_text("utf-8")
        assert html.count("<figure>") == 2
        assert html.count("data:image/jpeg") == 1
        assert "b.png not found; say where with --images FOLDER" in html
        assert "<mark>dogs</mark>" in html
    else:
        assert Image.open(tmp_path / name).size[0] > 400


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["query"], 2, "nothing to search for"),
        (["query", ""], 2, "empty text"),
        (["query", "x", "--mode", "fuzzy"], 2, "'fuzzy' is not one of"),
        (["query", "x", "-k", "0"], 2, "must be a whole number from 1 to 10,000, not 0"),
        (["query", "x", "-k", "ten"], 2, "must be a whole number from 1 to 10,000, not ten"),
        (["query", "x", "--page", "0"], 2, "--page must be a whole number of at least 1, not 0"),
        (["query", "x", "--filter", "colour=red"], 2, "the index has class, year"),
        (["query", "x", "--facet", "year"], 2, "kept as a number"),
        (["query", "--id", "zzz.png"], 1, "no document has the id 'zzz.png'"),
        (["query", "--id", ":2"], 2, "no id before its weight"),
        (["query", "--image", "missing.png"], 1, "missing.png: no such picture file"),
        (["query", "--image", "missing.png", "--mode", "bm25"], 2, "--mode vector"),
        (["query", "x", "--mode", "vector"], 1, "--encoder FOLDER"),
        (["query", "x", "--encoder", "/nowhere"], 1, "/nowhere: no such encoder folder"),
        (["query", "x", "--mode", "bm25", "--bm25-weight", "1"], 2, "takes no weights"),
        (["query", "x", "--sheet", "out.pdf"], 2, ".html or .png"),
        (["query", "x", "--sheet", "/nowhere/out.png"], 2, "no folder /nowhere"),
        (["query", "x", "--sheet", "out.png", "-k", "5000"], 2, "at most 400"),
        (["query", "-", "--sheet", "out.png"], 2, "leave it out"),
        (["query", "x", "--images", "/nowhere"], 2, "does not exist"),
        (["query", "x", "y"], 2, "unexpected extra argument"),
        (["similar", "zzz.png"], 1, "no document has the id"),
        (["similar"], 2, "Missing argument"),
    ],
)  # fmt: skip
def test_one_clear_sentence(run: Run, arguments: list[str], code: int, said: str) -> None:
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    error = err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert said in error
    assert "Traceback" not in err


def test_without_an_index(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPSEARCH_INDEX")
    code, _, err = run("query", "dog")
    assert code == 2
    assert "--index" in err


# From here on, the real command over a real index.


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """A small index of pictures, filled by the tiny encoder."""
    from clipsearch.encoder.encoder import Encoder

    folder = tmp_path_factory.mktemp("pictures")
    colors = ("red", "green", "blue", "white", "black")
    for color in colors:
        Image.new("RGB", (40, 30), color).save(folder / f"{color}.png")
    encoder = Encoder.load(encoder_folder)
    vectors = encoder.encode_images([folder / f"{color}.png" for color in colors])
    info = IndexInfo(
        encoder.dimension,
        encoder_fingerprint=encoder.fingerprint,
        encoder_name=encoder.name,
        encoder_path=str(encoder_folder),
        tag_columns=("color",),
        images_root=str(folder),
    )
    engine = create_engine(str(folder / "photos.index"), info)
    operations = [
        Upsert(Document(f"{color}.png", (f"a {color} square",), f"{color}.png", {"color": color},
                        {}, vector))
        for color, vector in zip(colors, vectors, strict=True)
    ]  # fmt: skip
    assert all(outcome.error is None for outcome in engine.feed(operations))
    engine.finish_feed()
    engine.close()
    return folder / "photos.index"


def clipsearch(
    *arguments: str | Path, prelude: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = CLIPSEARCH
    if prelude:
        command = [sys.executable, "-c", prelude]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", timeout=120,
        env={**os.environ, "COLUMNS": "100", **environment},
    )  # fmt: skip


# Runs the command line, then names what it has imported.
IMPORTED = """
import sys
from clipsearch.cli import main
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_over_a_real_index(index: Path, mode: Mode) -> None:
    done = clipsearch("query", "red squares", "--mode", mode, "--index", index, "--json",
                      prelude=IMPORTED)  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = json.loads(done.stdout)
    assert (found(page)[0] == "red.png") or not RANKINGS[mode].uses_words
    assert page["hits"][0]["image"] == str(index.parent / f"{page['hits'][0]['id']}")
    imported = set(done.stderr.split())
    assert not imported & {"torch", "transformers", "pandas"}
    assert ("onnxruntime" in imported) == RANKINGS[mode].needs_vector


def test_the_road_by_picture_and_by_id(index: Path, tmp_path: Path) -> None:
    image = index.parent / "blue.png"
    done = clipsearch("query", "--image", image, "--sheet", tmp_path / "out.html",
                      CLIPSEARCH_INDEX=str(index))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1\t1.0000\tblue.png\t")
    assert (tmp_path / "out.html").read_text("utf-8").count("data:image/jpeg") == 5
    done = clipsearch("similar", "blue.png", "--index", index, "--json")
    assert set(found(json.loads(done.stdout))) == {"red.png", "green.png", "white.png", "black.png"}


def test_what_goes_wrong_over_a_real_index(index: Path, tmp_path: Path) -> None:
    done = clipsearch("query", "!!!", "--index", index, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["notes"]) == 1
    (tmp_path / "text.jpg").write_text("no picture")
    done = clipsearch("query", "--image", tmp_path / "text.jpg", "--index", index)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: {tmp_path / 'text.jpg'}: " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_road_from_a_pipe_that_closes(index: Path) -> None:
    query = f"{sys.executable} -m clipsearch query - --mode bm25 --index {index}"
    command = f"yes red | head -n 300 | {query} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["hits"][0]["id"] == "red.png"
    assert "Traceback" not in done.stderr


def test_no_index_there(tmp_path: Path) -> None:
    done = clipsearch("query", "red", "--index", tmp_path / "none.index")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.index" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
