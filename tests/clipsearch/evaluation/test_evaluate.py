"""`clipsearch evaluate` through the real command, against figures written out by hand."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
from clipsearch_command import CLIPSEARCH
from naive_figures import naive
from PIL import Image

from clipsearch import cli
from clipsearch.demo.shapes import draw, scenes
from clipsearch.encoder.encoder import Encoder
from clipsearch.evaluation.measures import Batches, Retrieval, measure_retrieval
from clipsearch.evaluation.plots import recall_curve
from clipsearch.evaluation.sheet import write_comparison
from finetune.data.captioned_images import captioned_images
from finetune.evaluation.intervals import Sampling
from finetune.evaluation.plots import rank_bins
from finetune.evaluation.pool import pool_of
from finetune.figures import CUTOFFS, retrieval_figures
from finetune.images.source import ImageSource

HEAVY = {"torch", "transformers", "lancedb", "matplotlib"}
SHARED_CAPTION = "a green square"


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights and another dimension."""
    folder = tmp_path_factory.mktemp("other") / "encoder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_encoder, "DIMENSION", 24)
        tiny_encoder.build_encoder(folder, seed=1, name="other")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 test pictures with two captions each, one of them shared; 2 to train with; 1 for val."""
    root = tmp_path_factory.mktemp("photos")
    drawn = [each for each in scenes() if each.number == 0][::7][:43]
    rows = []
    for number, scene in enumerate(drawn):
        name = f"{scene.shape}_{number}.png"
        draw(scene).resize((40, 40)).save(root / name)
        split = "test" if number < 40 else "val" if number == 40 else "train"
        place = ("dog", "cat", "beach", "tree", "house")[number % 5]
        words = f"{scene.colour} {scene.shape} {place}"
        second = SHARED_CAPTION.upper() if number == 3 else SHARED_CAPTION
        captions = [f"{words} {number}", second if number < 6 else f"a {words} on {number}"]
        kind = scene.shape if number != 39 else ""
        rows += [[name, caption, split, kind, number] for caption in captions]
    write_csv(root / "photos.csv", rows)
    return root / "photos.csv"


def write_csv(path: Path, rows: list[list]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption", "split", "kind", "number"], *rows])
    return path


def clipsearch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def written_out(encoder: Encoder, photos: Path) -> dict[str, dict[str, float]]:
    """The figures of both directions, naively."""
    owners: dict[str, set[str]] = {}
    with photos.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                owners.setdefault(row["caption"].lower(), set()).add(row["image"])
    captions, images = sorted(owners), sorted(set().union(*owners.values()))
    texts = encoder.encode_texts(captions).astype(float)
    pictures = encoder.encode_images(photos.parent / image for image in images).astype(float)
    of_text = [{images.index(image) for image in owners[caption]} for caption in captions]
    of_image = [
        {row for row, caption in enumerate(captions) if image in owners[caption]}
        for image in images
    ]
    return {
        "text-to-image": naive(texts, pictures, of_text, CUTOFFS),
        "image-to-text": naive(pictures, texts, of_image, CUTOFFS),
    }


def test_figures_equal_those_written_out(encoder_folder, other_encoder, photos) -> None:
    done = clipsearch(
        "evaluate", encoder_folder, photos, "--against", other_encoder, "--json",
        "--resamples", "300", "--workers", "2", "--batch-size", "7", "--in-batches", "16",
        "--zero-shot", "kind", "--template", "a {category}", "--template", "{category} on a beach",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["images"], answer["captions"], answer["distinct_captions"]) == (40, 80, 75)
    assert (answer["encoder"]["dimension"], answer["against"]["dimension"]) == (32, 24)
    found = {(each["task"], each["scope"]): each for each in answer["measurements"]}
    encoders = Encoder.load(encoder_folder), Encoder.load(other_encoder)
    expected = [written_out(encoder, photos) for encoder in encoders]
    for direction, pool, queries in (("text-to-image", 40, 75), ("image-to-text", 75, 40)):
        measured = found[direction, "global"]
        assert (measured["pool"], measured["queries"]) == (pool, queries)
        figures = measured["figures"]
        assert list(figures) == list(retrieval_figures())
        for name, figure in figures.items():
            assert figure["value"] == pytest.approx(expected[0][direction][name]), name
            assert figure["against"]["value"] == pytest.approx(expected[1][direction][name])
            assert figure["low"] <= figure["value"] <= figure["high"]
            difference = figure["difference"]
            assert difference["value"] == pytest.approx(
                figure["value"] - figure["against"]["value"]
            )
            assert difference["low"] <= difference["value"] <= difference["high"]
            if name != "median_rank":
                assert 0 < difference["p_value"] <= 1
        batches = found[direction, "in batches of 16"]
        assert (batches["pool"], batches["queries"]) == (16, 32)
        assert "mrr@10 in batches of 16" in batches["figures"]
    check_zero_shot(found["zero-shot", "global"], encoders[0], photos)
    assert any("1 images have no class" in note for note in answer["notes"])
    assert any("1 captions belong to several images" in note for note in answer["notes"])


def test_any_cutoff_and_batches_in_file_order(encoder_folder, photos, capsys) -> None:
    arguments = ("--json", "--resamples", "100", "--in-batches", "16", "--in-file-order")
    assert run(encoder_folder, photos, *arguments, "--ks", "3, 20", "--zero-shot", "kind") == 0
    answer = json.loads(capsys.readouterr().out)
    found = {(each["task"], each["scope"]): each for each in answer["measurements"]}
    names = [
        *(f"{name}@{k}" for name in ("mrr", "recall") for k in (1, 3, 5, 10, 20)),
        "ndcg@10", "ndcg@20", "mean_rank", "median_rank",
    ]  # fmt: skip
    assert list(found["text-to-image", "global"]["figures"]) == names
    batches = found["image-to-text", "in batches of 16 in file order"]
    assert batches["queries"] == 40, "the last one, of 8 pairs, counts"
    assert [name.split(" in ")[0] for name in batches["figures"]] == names
    hits = [name for name in found["zero-shot", "global"]["figures"] if "hits" in name]
    assert hits == [f"hits@{k}" for k in (1, 3, 5, 10, 20)]
    # the vector of ranks is long enough for nDCG at the largest cutoff
    encoder = Encoder.load(encoder_folder)
    expected = written_out(encoder, photos)["image-to-text"]["ndcg@10"]
    assert found["image-to-text", "global"]["figures"]["ndcg@10"]["value"] == pytest.approx(
        expected
    )


def check_zero_shot(measured: dict, encoder: Encoder, photos: Path) -> None:
    """Hits@k written out, over the classes of all splits."""
    with photos.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["kind"] for row in rows} - {""})
    kinds = {row["image"]: row["kind"] for row in rows if row["split"] == "test" and row["kind"]}
    assert (measured["pool"], measured["queries"]) == (len(names), 39)
    prompts = [(f"a {name}", f"{name} on a beach") for name in names]
    classes = np.stack([encoder.encode_texts(pair).mean(axis=0) for pair in prompts])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    pictures = encoder.encode_images(photos.parent / image for image in kinds)
    ranks = []
    for picture, kind in zip(pictures, kinds.values(), strict=True):
        values, own = classes @ picture, names.index(kind)
        ranks.append(1 + sum(v >= values[own] - 1e-6 for i, v in enumerate(values) if i != own))
    for k in (1, 3, 5, 10):
        assert measured["figures"][f"hits@{k}"]["value"] == pytest.approx(
            np.mean(np.array(ranks) <= k)
        )


def test_table_plots_and_sheet(encoder_folder, other_encoder, photos, tmp_path) -> None:
    done = clipsearch(
        "evaluate", encoder_folder, photos, "--against", other_encoder, "--resamples", "200",
        "--plots", tmp_path / "new" / "plots", "--sheet", tmp_path / "changes.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "text to image, global: 75 captions, each among 40 images" in done.stdout
    assert "image to text, global: 40 images, each among 75 captions" in done.stdout
    figure = r"-?\+?[\d.]+ \[[-+\d.]+, [-+\d.]+\]"
    for name in ("mrr@10", "recall@1", "mean_rank"):
        assert re.search(rf"^{name} +{figure} +{figure} +{figure} +[\d.]+ *$", done.stdout, re.M)
    assert "…" not in done.stdout
    assert re.search(r"^Text to image: .*mrr@10.*\(p ", done.stdout, re.M)
    assert {path.name for path in (tmp_path / "new" / "plots").iterdir()} == {
        f"{task}-{kind}.png"
        for task in ("text-to-image", "image-to-text")
        for kind in ("ranks", "recall")
    }
    for path in (tmp_path / "new" / "plots").iterdir():
        with Image.open(path) as picture:
            assert picture.width > 500
    html = (tmp_path / "changes.html").read_text(encoding="utf-8")
    cells = html.count("<figure>")
    assert cells and cells % 7 == 0
    assert "grid-template-columns: repeat(7," in html
    assert html.count("before 1") == html.count("after 1") == cells / 7


def test_torch_is_not_imported(encoder_folder, photos) -> None:
    script = (
        "import sys\nfrom clipsearch.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "evaluate", str(encoder_folder), str(photos), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stderr.split())


def run(*arguments: str | Path) -> int:
    return cli._run(["evaluate", *map(str, arguments)], debug=False)


def test_the_same_encoder_twice_is_no_difference(encoder_folder, photos, capsys) -> None:
    assert run(encoder_folder, photos, "--against", encoder_folder, "--resamples", "100") == 0
    shown, notes = capsys.readouterr()
    assert "both folders hold the same encoder" in notes
    assert "no difference in mrr@10" in shown


def test_equal_seeds_give_equal_answers(encoder_folder, photos, capsys) -> None:
    answers = []
    for seed in (3, 3, 4):
        assert run(encoder_folder, photos, "--seed", str(seed), "--json") == 0
        answers.append(json.loads(capsys.readouterr().out)["measurements"])
    assert answers[0] == answers[1] != answers[2]


def test_pictures_that_cannot_be_read_are_left_out_and_told(
    encoder_folder, other_encoder, photos, tmp_path, capsys
) -> None:
    rows = [
        [str(photos.parent / f), f"dog {i}", "test", "", 1] for i, f in enumerate(files(photos))
    ]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    write_csv(tmp_path / "photos.csv", [["broken.jpg", "a broken cat", "test", "", 1], *rows[:5]])
    arguments = (encoder_folder, tmp_path / "photos.csv", "--against", other_encoder)
    assert run(*arguments, "--json", "--resamples", "100") == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["images"], answer["distinct_captions"]) == (5, 5)
    (left_out,) = answer["left_out"]
    assert (left_out["kind"], left_out["where"]) == ("unreadable image", "broken.jpg")
    assert run(*arguments, "--resamples", "100") == 3
    shown, notes = capsys.readouterr()
    assert "Left out: 1 images that cannot be read; the first, broken.jpg:" in shown
    assert "with only 5 images, the intervals are too narrow" in notes


def files(photos: Path) -> list[str]:
    return sorted(path.name for path in photos.parent.glob("*.png"))


def test_classes_alone_need_no_captions(encoder_folder, photos, tmp_path, capsys) -> None:
    rows = [
        [str(photos.parent / name), "", "test", name.split("_")[0], 1] for name in files(photos)
    ]
    write_csv(tmp_path / "photos.csv", rows)
    arguments = (encoder_folder, tmp_path / "photos.csv", "--zero-shot", "kind")
    code = run(*arguments, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert [each["task"] for each in answer["measurements"]] == ["zero-shot"]
    assert answer["measurements"][0]["queries"] == 43
    assert answer["templates"] == ["a photo of a {category}"]
    assert code == (3 if answer["problems"] else 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--split", "val"], 1, "split val, only one has a caption: a pool of one image"),
        (["--zero-shot", "colour"], 2, "colour is neither a column of"),
        (["--zero-shot", "colour"], 2, "its columns are kind, number"),
        (["--zero-shot", "kind", "--template", "a photo"], 2, '"a photo" has no {category}'),
        (["--template", "a {category}"], 2, "--template is for class prompts"),
        (["--sheet", "x.png"], 2, "name the other encoder with --against"),
        (["--in-batches", "1"], 2, "must be a whole number of at least 2, not 1"),
        (["--in-file-order"], 2, "give their size with --in-batches"),
        (["--ks", "1,,3"], 2, "--ks 1,,3: an empty part is no cutoff; write 1,3,20"),
        (["--ks", "0"], 2, "--ks 0: 0 is no cutoff"),
        (["--workers", "-1"], 2, "--workers -1: must be 0 or more"),
        (["--batch-size", "0"], 2, "--batch-size 0: must be at least 1"),
        (["--against", "nowhere"], 1, "nowhere: no such encoder folder"),
    ],
)
def test_what_cannot_be_measured(encoder_folder, photos, capsys, arguments, code, said) -> None:
    assert run(encoder_folder, photos, *arguments) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert "embedding" not in shown.err, "wrong values fail at the start"


def test_splits_without_images_or_captions(encoder_folder, photos, tmp_path, capsys) -> None:
    path = tmp_path / "photos.csv"
    names = [photos.parent / name for name in files(photos)[:4]]
    write_csv(path, [[name, f"a dog {i}", "train", "", 1] for i, name in enumerate(names)])
    assert run(encoder_folder, path) == 1
    assert "no image is in the split test; there are train 4: choose" in capsys.readouterr().err
    assert run(encoder_folder, path, "--split", "all", "--json", "--resamples", "100") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    write_csv(path, [[name, "", "test", "", 1] for name in names])
    assert run(encoder_folder, path) == 1
    assert "in the split test, none has a caption" in capsys.readouterr().err


def synthetic(noises: tuple[float, ...], images: int = 60) -> Retrieval:
    """Encoders whose texts lie near their pictures, less so with more noise."""
    random = np.random.default_rng(0)

    def unit(values: np.ndarray) -> np.ndarray:
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

    pictures = unit(random.normal(size=(images, 16)))
    data = captioned_images(
        (f"{i}.png", ImageSource(Path(f"{i}.png")), (f"caption {i}", f"text {i}"))
        for i in range(images)
    )
    pool = pool_of(data)
    own = pictures[data.image_of_caption[pool.captions]]
    texts = tuple(unit(own + noise * random.normal(size=own.shape)) for noise in noises)
    return Retrieval(data, pool, texts, (pictures,) * len(noises))


def test_a_better_encoder_is_found_to_be_better() -> None:
    measured = measure_retrieval(synthetic((0.3, 0.6)), Batches(32), Sampling(resamples=500))
    assert [(each.task, each.scope, each.pool) for each in measured] == [
        ("text-to-image", "global", 60),
        ("image-to-text", "global", 120),
        ("text-to-image", "in batches of 32", 32),
        ("image-to-text", "in batches of 32", 32),
    ]
    assert measured[0].clusters == 60, "two captions of an image are drawn together"
    for each in measured:
        figure = each.figure("mrr@10")
        assert figure.difference is not None
        assert figure.difference.low > 0
        assert figure.p_value is not None
        assert figure.p_value < 0.05


def test_a_sheet_where_nothing_changed(tmp_path) -> None:
    retrieval = synthetic((0.3,))
    twice = Retrieval(
        retrieval.data, retrieval.pool, retrieval.text_embeds * 2, retrieval.image_embeds * 2
    )
    (measured, _) = measure_retrieval(twice, None, Sampling(resamples=100))
    for name in ("same.html", "same.png"):
        write_comparison(tmp_path / name, twice, measured)
        assert (tmp_path / name).stat().st_size > 0
    assert "0 rank better, 0 worse, 120 the same" in (tmp_path / "same.html").read_text()


@pytest.mark.parametrize("pool", [1, 2, 7, 29, 30, 1000, 123_456])
def test_every_rank_has_a_bin_and_the_curve_ends_at_one(pool: int) -> None:
    edges = rank_bins(pool)
    assert edges[0] < 1
    assert edges[-1] > pool
    assert (np.diff(edges) >= 1).all()
    ranks = np.random.default_rng(0).integers(1, pool + 1, size=50)
    curve = recall_curve(ranks, pool)
    assert len(curve) == pool
    assert curve[-1] == 1
    assert curve[0] == np.mean(ranks == 1)
