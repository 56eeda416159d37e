"""`clipsearch evaluate --index` through the real command, of both engines."""

import csv
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from local_collection import feed, make_document
from memory_engine import MemoryEngine
from PIL import Image
from vespa_stub import StubVespa

from clipsearch.cli import cli
from clipsearch.demo.shapes import draw, scenes
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.modes import MODES
from clipsearch.operations import Upsert
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.runs import ask_index
from clipsearch.search.search import Search
from finetune.errors import ClipsearchError, EngineError

SECOND = ("{colour} {shape} seen near a river", "picture of a {shape}, painted {colour}")
NASTY = "<img src=x onerror=alert(1)> & 'green' \x1b[31m square"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images: 24 of the split test with two captions, others with one; one caption is nasty."""
    root = tmp_path_factory.mktemp("photos")
    drawn = [each for each in scenes() if each.number == 0][::9][:30]
    with (root / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for number, scene in enumerate(drawn):
            name = f"{number:02}.png"
            draw(scene).resize((40, 40)).save(root / name)
            split = "test" if number < 24 else "train"
            second = SECOND[number % 2].format(colour=scene.colour, shape=scene.shape)
            writer.writerow([name, NASTY if number == 7 else scene.caption, split])
            if number != 29:
                writer.writerow([name, second, split])
    return root / "photos.csv"


@pytest.fixture(scope="module")
def index(photos: Path, encoder_folder: Path) -> Path:
    folder = photos.parent / "photos.index"
    done = clipsearch("feed", photos, "--encoder", encoder_folder, "--index", folder)
    assert done.returncode == 0, done.stderr
    return folder


def clipsearch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def evaluate(index: Path | str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return clipsearch("evaluate", "--index", index, "--resamples", "100", *arguments)


def values(answer: dict) -> dict[tuple[str, str], float]:
    return {
        (mode["mode"], name): figure["value"]
        for mode in answer["modes"]
        for name, figure in mode["figures"].items()
    }


def judged(photos: Path, path: Path) -> dict[str, str]:
    """A CSV of judgments: for each colour and shape, one image that shows it."""
    wanted = {}
    with photos.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = re.match(r"(\w+) (\w+) seen near", row["caption"])
            if found:
                wanted[f"a {found[1]} {found[2]}"] = row["image"]
    lines = [f"{text},{image},1" for text, image in wanted.items()]
    path.write_text("query,id,grade\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return wanted


def test_captions_are_asked_of_both_engines_alike(
    photos: Path, index: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    table, page, plots = tmp_path / "queries.csv", tmp_path / "report.html", tmp_path / "plots"
    done = evaluate(index, "--json", "--csv", table, "--html", page, "--plots", plots)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["pool"] == 30
    assert [mode["mode"] for mode in answer["modes"]] == list(MODES)
    check_table(table, answer)
    check_page(page)
    for plot in ("modes-recall.png", "modes-mrr.png"):
        with Image.open(plots / plot) as image:
            assert image.width > 300
    with StubVespa(dimension=32) as stub:
        copy_index(index, stub)
        other = evaluate(stub.url, "--json")
        assert other.returncode == 0, other.stderr
        assert values(json.loads(other.stdout)) == pytest.approx(values(answer), abs=1e-4)
        visits = [each for each in stub.requests if each.query.get("wantedDocumentCount")]
        documents = len(visits) * 7
        assert documents < 2 * 30 + 7, "the documents are visited once"


def check_table(path: Path, answer: dict) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == answer["queries"]
    assert {row["other_captions"] for row in rows} == {"yes"}
    for mode in answer["modes"]:
        name, figures = mode["mode"], mode["figures"]
        ranks = [int(row[f"{name} rank"] or 0) for row in rows]
        mrr = np.mean([1 / rank if 0 < rank <= 10 else 0 for rank in ranks])
        assert mrr == pytest.approx(figures["mrr@10"]["value"])
        assert np.mean([0 < rank <= 1 for rank in ranks]) == figures["recall@1"]["value"]
        assert np.mean([float(row[f"{name} ndcg@10"]) for row in rows]) == pytest.approx(
            figures["ndcg@10"]["value"], abs=1e-5
        )
    by = {}
    for group in answer["groups"]:
        by.setdefault(group["by"], []).append(group["queries"])
    assert {sum(counts) for counts in by.values()} == {answer["queries"]}


class Page(HTMLParser):
    """The elements of a page, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(path: Path) -> None:
    """All images inside, each once, nothing fetched, and what comes from data escaped."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.tags & {"img", "script", "link", "iframe", "a", "object"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "onerror", "style"}
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        page.attributes
    )
    assert not re.findall(r"url\((?!data:)|@import|https?://", source)
    assert any(NASTY.partition("\x1b")[0] in (value or "") for _, value in page.attributes)
    assert "\x1b" not in source
    assert "hybrid against" in page.text and "bm25 " in page.text and "cosine " in page.text
    images = re.findall(r"\.(i\d+) \{ background-image", source)
    assert len(images) == len(set(images)) > 5
    shown = {value.split()[1] for name, value in page.attributes
             if name == "class" and value and value.startswith("image i")}  # fmt: skip
    assert shown == set(images)


def copy_index(index: Path, stub: StubVespa) -> None:
    engine = LocalEngine.open(index)
    documents = list(engine.visit(embeddings=True))
    write_info(connect(stub.url), engine.info)
    remote = VespaEngine.open(stub.url)
    outcomes = list(remote.feed(Upsert(document) for document in documents))
    assert all(outcome.error is None for outcome in outcomes)
    remote.close()
    engine.close()


def test_judgments_are_asked_of_the_index_itself(photos: Path, index: Path, tmp_path: Path) -> None:
    wanted = judged(photos, tmp_path / "judged.csv")
    done = evaluate(index, "--queries", tmp_path / "judged.csv", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["queries"] == len(wanted)
    with Search.open(index) as search:
        for mode in MODES:
            ranks = []
            for text, image in wanted.items():
                hits = [hit.document.id for hit in search.query(text, mode=mode, k=10).hits]
                ranks.append(1 / (hits.index(image) + 1) if image in hits else 0)
            assert values(answer)[mode, "mrr@10"] == pytest.approx(np.mean(ranks)), mode
    assert {group["by"] for group in answer["groups"]} == {"words", "all words known"}


def test_a_manifest_asks_in_its_own_words(photos: Path, index: Path, tmp_path: Path) -> None:
    """Captions that the index does not hold; those of the index stay where they are."""
    told = tmp_path / "told.csv"
    rows = [f"{number:02}.png,something told of number {number},test" for number in range(24)]
    told.write_text("image,caption,split\n" + "\n".join([*rows, "99.png,x,test"]) + "\n")
    done = evaluate(index, "--manifest", told, "--images", photos.parent)
    assert done.returncode == 0, done.stderr
    assert "24 queries from" in done.stdout
    assert "hybrid-normalized" in done.stdout


def test_the_table_is_for_people(index: Path) -> None:
    done = evaluate(index)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("48 queries from") and "pool of 30 images" in lines[0]
    row = next(line for line in lines if line.startswith("hybrid "))
    assert re.search(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", row) and "…" not in done.stdout
    assert "sign-flip test of mrr@10 against" in done.stdout.lower()
    assert "in a pool of 30 images" in lines[-1]
    assert "mrr@10 by other captions" not in done.stdout, (
        "all have one: there is nothing to compare"
    )


def test_an_index_without_encoder_is_measured_by_words(tmp_path: Path) -> None:
    engine = LocalEngine.create(tmp_path / "bare.index", IndexInfo(16))
    feed(engine, [Upsert(make_document(number)) for number in range(50)])
    engine.close()
    done = evaluate(tmp_path / "bare.index", "--split", "train", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [mode["mode"] for mode in answer["modes"]] == ["bm25"]
    assert any("names no encoder" in note for note in answer["notes"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--queries", "unknown.csv"],
            "unknown.csv, line 2: judges 'nowhere.png', which the index",
        ),
        (["--queries", "one.csv"], "one.csv: only one query, of which no interval can be drawn"),
        (["--split", "val"], "no image of the split val has a caption to ask with; choose another"),
        (["--qrels", "one.csv"], "name the topics with --queries FILE"),
        (["--queries", "one.csv", "--manifest", "m.csv"], "two sources of queries"),
        (["--against", "encoder"], "--against measures an encoder: leave it out"),
        (["--zero-shot", "kind"], "--zero-shot measures an encoder"),
        (
            ["--csv", "photos.csv"],
            "--csv photos.csv: there is a file that clipsearch did not",
        ),
        (["--html", "report.png"], "--html report.png: the report is a page; name it .html"),
        (["--html", "none/report.html"], "there is no folder none; make it first"),
        (["--encoder", "elsewhere"], "elsewhere"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: list[str],
    sentence: str,
    photos: Path,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = photos.parent
    monkeypatch.chdir(folder)
    Path("unknown.csv").write_text("query,id\na dog,nowhere.png\na cat,01.png\n")
    Path("one.csv").write_text("query,id\na dog,01.png\n")
    before = sorted(folder.rglob("*"))
    written = [] if "--html" in arguments else ["--html", "made.html"]
    written += [] if "--csv" in arguments else ["--csv", "made.csv"]
    command = ["evaluate", "--index", str(index), *arguments, *written]
    with pytest.raises(ClipsearchError) as refused:
        cli.main(command, standalone_mode=False)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""
    assert sorted(folder.rglob("*")) == before, "nothing half-written"


def test_an_answer_that_is_not_whole_is_no_figure() -> None:
    engine = MemoryEngine(IndexInfo(16), [make_document(number) for number in range(9)])
    engine.partial = "a node is down"
    queries = [JudgedQuery("red dog", "red dog", {"photos/0001.jpg": 1}, cluster=0)]
    with pytest.raises(EngineError, match="is not whole"):
        ask_index(Search(engine), queries, ("bm25",), lambda _: None)


def test_encoder_or_index(photos: Path, index: Path, encoder_folder: Path) -> None:
    both = evaluate(index, encoder_folder, photos)
    assert both.returncode == 2 and "give one of them" in both.stderr
    neither = clipsearch("evaluate")
    assert neither.returncode == 2 and "--index TARGET" in neither.stderr
    wrong = clipsearch("evaluate", encoder_folder, photos, "--csv", "made.csv")
    assert wrong.returncode == 2 and "--csv measures an index" in wrong.stderr
