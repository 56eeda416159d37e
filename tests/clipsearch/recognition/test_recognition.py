"""`classify`, `describe` and `evaluate --predictions`: the real commands, against transformers."""

import csv
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from local_collection import feed
from PIL import Image
from transformers import CLIPModel
from vespa_stub import StubVespa

from clipsearch import cli
from clipsearch.encoder.encoder import Encoder
from clipsearch.encoder.logit_scale import read_logit_scale
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.operations import Upsert
from clipsearch.recognition.describe import describe
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.errors import EncoderError, UsageError
from finetune.evaluation.zero_shot import class_probabilities

Run = Callable[..., tuple[int, str, str]]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
PLACES = ("beach", "house", "river", "tree", "boat", "car")
PROMPT = "a {category} square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """Six pictures of three colours, the encoder, and an index of them."""
    root = tmp_path_factory.mktemp("recognized")
    rows = ["image,caption,colour,number,split"]
    for number, (name, colour) in enumerate([*COLOURS.items()] * 2):
        image = Image.new("RGB", (40, 40), (240, 240, 240))
        image.paste(colour, (5, 5, 20 + 2 * number, 20 + number))
        image.save(root / f"{number}.png")
        own = "" if number == 5 else name
        rows.append(f"{number}.png,a {name} square,{own},{number},test")
        rows.append(f"{number}.png,two dogs on a {PLACES[number]},{own},{number},test")
    (root / "photos.csv").write_text("\n".join(rows))
    (root / "labels.txt").write_text("red\n\ngreen\nblue\n")
    shutil.copytree(encoder_folder, root / "encoder")
    before = Path.cwd()
    os.chdir(root)
    try:
        arguments = ["feed", "photos.csv", "--encoder", "encoder", "--index", "photos.index"]
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


def by_transformers(folder: Path, image: str, labels: list[str]) -> np.ndarray:
    """Probabilities as the model of the checkpoint itself gives them."""
    encoder = Encoder.load(folder / "encoder", device="torch-cpu")
    model = CLIPModel.from_pretrained(folder / "encoder").eval()
    tokens = [list(key) for key in encoder._tokens([f"a {label} square" for label in labels])]
    assert len({len(each) for each in tokens}) == 1
    pixels = encoder._pixels(Path(image))[np.newaxis].astype(np.float32) / 255
    pixels = (pixels - encoder.preprocessing.mean) / encoder.preprocessing.std
    with torch.inference_mode():
        found = model(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.ones((len(labels), len(tokens[0])), dtype=torch.long),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
        )
        return found.logits_per_image.softmax(dim=1)[0].numpy()


def test_probabilities_are_those_of_transformers(run: Run, folder: Path) -> None:
    code, out, err = run(
        "classify", "0.png", "1.png", "--labels", "labels.txt", "--template", PROMPT,
        "--encoder", "encoder", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["templates"], answer["notes"]) == ([PROMPT], [])
    for found in answer["images"]:
        labels = [each["label"] for each in found["labels"]]
        shown = [each["probability"] for each in found["labels"]]
        assert sorted(labels) == ["blue", "green", "red"]
        assert shown == sorted(shown, reverse=True)
        assert sum(shown) == pytest.approx(1)
        assert shown == pytest.approx(by_transformers(folder, found["image"], labels), abs=1e-4)


def test_a_column_and_ids_say_the_same_as_a_file_and_files(run: Run, folder: Path) -> None:
    asked = ("--template", PROMPT, "--json")
    by_file = json.loads(run("classify", "0.png", "--labels", "labels.txt", "--index",
                             "photos.index", *asked)[1])  # fmt: skip
    (folder / "0.png").rename(folder / "away.png")
    try:
        code, out, err = run("classify", "0.png", "--labels", "colour", "--index", "photos.index",
                             *asked)  # fmt: skip
    finally:
        (folder / "away.png").rename(folder / "0.png")
    assert (code, err) == (0, "")
    (one,), (other,) = by_file["images"], json.loads(out)["images"]
    assert [each["label"] for each in one["labels"]] == [each["label"] for each in other["labels"]]
    assert [each["probability"] for each in one["labels"]] == pytest.approx(
        [each["probability"] for each in other["labels"]], abs=1e-4
    )


def test_the_values_of_a_vespas_column_are_labels_too(run: Run, folder: Path) -> None:
    engine = LocalEngine.open(folder / "photos.index")
    documents = list(engine.visit(embeddings=True))
    with StubVespa(dimension=32) as stub:
        write_info(connect(stub.url), engine.info)
        vespa = VespaEngine.open(stub.url)
        feed(vespa, [Upsert(document) for document in documents])
        vespa.close()
        both = [
            run("classify", "4.png", "--labels", "colour", "--index", target, "--json")
            for target in (stub.url, "photos.index")
        ]
        near = [
            run("describe", "4.png", "--index", target, "--json")
            for target in (stub.url, "photos.index")
        ]
    engine.close()
    assert both[0] == both[1]
    assert both[0][0] == 0
    ours, theirs = ([each["caption"] for each in json.loads(out)["captions"]] for _, out, _ in near)
    assert ours == theirs


def test_for_people_and_as_a_table(run: Run, folder: Path) -> None:
    arguments = ("classify", "0.png", "1.png", "--labels", "rsicd-classes.txt", "--encoder",
                 "encoder", "-k", "2", "--csv", "out.csv")  # fmt: skip
    code, out, err = run(*arguments)
    assert (code, err) == (0, "Wrote out.csv\n")
    lines = out.splitlines()
    assert [lines[0], lines[3]] == ["0.png", "1.png"] and len(lines) == 6
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["0.png", "1.png"]
    for row, shown in zip(rows, (lines[1], lines[4]), strict=True):
        assert shown == f"  {float(row['probability']):.4f}  {row['predicted']}"
        values = [float(value) for name, value in list(row.items())[3:]]
        assert len(values) == 30 and sum(values) == pytest.approx(1, abs=1e-4)
        assert max(values) == float(row["probability"]) == float(row[row["predicted"]])
    assert run(*arguments)[0] == 0, "an older table is replaced"
    (folder / "out.csv").unlink()


def test_predictions_of_a_split_are_what_classify_says(run: Run, folder: Path) -> None:
    asked = ("evaluate", "encoder", "photos.csv", "--zero-shot", "colour", "--template", PROMPT)
    code, _, err = run(*asked, "--predictions", "split.csv", "--resamples", "100")
    assert (code, err.splitlines()[-1]) == (0, "Wrote split.csv")
    with (folder / "split.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == [
        "image", "class", "predicted", "probability", "blue", "green", "red",
    ]  # fmt: skip
    assert [rows[f"{n}.png"]["class"] for n in range(6)] == [
        "red", "green", "blue", "red", "green", "",
    ]  # fmt: skip
    (found,) = json.loads(
        run("classify", "2.png", "--labels", "labels.txt", "--template", PROMPT, "--encoder",
            "encoder", "--json")[1]
    )["images"]  # fmt: skip
    for each in found["labels"]:
        assert float(rows["2.png"][each["label"]]) == pytest.approx(each["probability"], abs=1e-5)
    (folder / "split.csv").unlink()


def test_the_captions_nearest_to_an_image(run: Run, folder: Path) -> None:
    """All captions are compared, and those of the image itself are not its description."""
    code, out, err = run("describe", "1.png", "--index", "photos.index", "--json", "-k", "4")
    assert (code, err) == (0, "")
    found = json.loads(out)["captions"]
    with Search.open(folder / "photos.index") as search:
        documents = list(search.engine.visit())
        captions = sorted({caption for document in documents for caption in document.captions})
        image = search.encoder.encode_images([folder / "1.png"])[0]
        cosines = search.encoder.encode_texts(captions) @ image
        order = np.argsort(-cosines)[:4]
        assert [each["caption"] for each in found] == [captions[row] for row in order]
        assert [each["cosine"] for each in found] == pytest.approx(cosines[order], abs=1e-5)
        shared = next(each for each in found if len(each["ids"]) == 2)
        own = {d.id for d in documents if shared["caption"] in d.captions}
        assert set(shared["ids"]) == own
        others = describe(search, Part("id", "1.png"), k=50)
        assert "two dogs on a house" not in [each.caption for each in others]
        assert len(others) == len(captions) - 1
        (nearest,) = describe(search, Part("id", "1.png"), candidates=1, k=1)
        assert nearest.ids == (search.similar("1.png", k=1).hits[0].document.id,)
        with pytest.raises(UsageError, match="k is 0"):
            describe(search, Part("id", "1.png"), k=0)
    out = run("describe", "1.png", "--index", "photos.index", "-k", "1")[1]
    assert out.startswith(f"{found[0]['cosine']:.4f}  {found[0]['caption']}  (")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_scale_is_the_checkpoints(
    tmp_path: Path, encoder_folder: Path, dtype: torch.dtype
) -> None:
    model = CLIPModel.from_pretrained(encoder_folder).to(dtype)
    model.save_pretrained(tmp_path)
    assert read_logit_scale(tmp_path) == pytest.approx(model.logit_scale.exp().item(), rel=0.01)
    assert read_logit_scale(tmp_path / "onnx-alone") is None
    assert Encoder.load(encoder_folder).logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_scale_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    header = b'{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'
    for content, said in (
        (b"x", "cannot be read"),
        (struct.pack("<Q", 1 << 60), "cannot be read"),
        (struct.pack("<Q", len(header)) + header + struct.pack("<f", float("nan")), "makes no"),
    ):
        file.write_bytes(content)
        with pytest.raises(EncoderError, match=said):
            read_logit_scale(tmp_path)


def test_large_scales_overflow_nothing() -> None:
    image, labels = np.eye(1, 4, dtype=np.float32), np.eye(3, 4, dtype=np.float32)
    assert class_probabilities(image, labels, 1e6).tolist() == [[1, 0, 0]]


REFUSED: list[tuple[list[str], int, str]] = [
    (["0.png", "--labels", "labels.txt"], 2, "nothing says which encoder looks"),
    (["none.png", "--labels", "labels.txt", "--encoder", "encoder"], 1, "no such picture file"),
    (["none.png", "--labels", "labels.txt", "--index", "photos.index"], 1, "no document has the"),
    (["0.png", "--labels", "x", "--encoder", "encoder"], 2, "--labels x: no such file"),
    (["0.png", "--labels", "x", "--index", "photos.index"], 2, "neither a tag column of photos"),
    (["0.png", "--labels", "number", "--index", "photos.index"], 2, "keeps it as a number"),
    (["0.png", "--labels", "split", "--index", "photos.index"], 2, "give at least two"),
    (["0.png", "--labels", "twice.txt", "--encoder", "encoder"], 1, "has the class 'red' twice"),
    (["0.png", "--labels", "same.txt", "--encoder", "encoder"], 1, "'T_V' and 't v'; leave one"),
    (["0.png", "--labels", "labels.txt", "--encoder", "encoder", "--template", "a"], 2, "has no {"),
    (["photos.csv", "--labels", "labels.txt", "--encoder", "encoder"], 1, "photos.csv: "),
    (
        ["0.png", "--labels", "labels.txt", "--encoder", "encoder", "--csv", "labels.txt"],
        2,
        "which is read here",
    ),
    (
        ["0.png", "--labels", "labels.txt", "--encoder", "encoder", "--csv", "photos.csv"],
        2,
        "did not write",
    ),
    (["0.png", "--labels", "labels.txt", "--encoder", "encoder", "--csv", "a/b"], 2, "no folder a"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_what_cannot_be_classified_is_one_sentence(
    run: Run, folder: Path, arguments: list[str], code: int, sentence: str
) -> None:
    (folder / "twice.txt").write_text("red\nblue\nred\n")
    (folder / "same.txt").write_text("T_V\nradio\nt v\n")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    found, out, err = run("classify", *arguments)
    assert (found, out) == (code, "")
    assert sentence in err and len(err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_list_with_a_class_twice_measures_nothing(run: Run, folder: Path) -> None:
    (folder / "twice.txt").write_text("red\nblue\nred\n")
    code, out, err = run("evaluate", "encoder", "photos.csv", "--zero-shot", "twice.txt")
    assert (code, out) == (1, "")
    assert "twice.txt: has the class 'red' twice; leave one of them out" in err
    code, _, err = run("evaluate", "encoder", "photos.csv", "--predictions", "p.csv")
    assert code == 2 and "name them with --zero-shot" in err
