"""Every recipe from end to end at toy size: tiny models of the recipe's classes, as on the hub.

Only what size, the missing GPU and the missing network demand is overridden; losses are of seed 0
with torch 2.13, and another version may draw other weights.
"""

import json
import math
import random
import subprocess
from pathlib import Path

import pytest
import torch
from clipsearch_command import CLIPSEARCH
from PIL import Image
from safetensors.torch import load_file
from squares import COLOURS, write_squares
from tiny_checkpoints import save_clip, save_roberta
from tiny_marian import save_tiny_marian

from finetune.config.mapping import config_from_mapping
from finetune.config.recipes import load_recipe
from finetune.data.back_translation import Translator
from finetune.encoder_folder import check_fingerprint, read_description
from finetune.export.openclip import export_open_clip
from finetune.models.dual_encoder import load_dual_encoder
from finetune.models.openclip import WEIGHTS_FILE
from finetune.models.tiny import TinySize
from finetune.training.train import Result, train

# As long texts as CLIP's, so that the recipes' --max-tokens hold.
SMALL = TinySize(image_size=32, width=32, mlp_width=64, heads=2, projection=24, max_tokens=77)
OVERRIDABLE = {
    "manifest", "more_manifests", "images", "out", "model", "text_model", "epochs", "batch_size",
    "chunk_size", "samples_per_epoch", "batches_of", "warmup", "precision", "device", "threads",
    "workers", "back_translate", "back_translation_cache", "zero_shot_classes", "max_tokens",
    "augment",
}  # fmt: skip
HERE = {"device": "cpu", "threads": 1, "workers": 0}


def run_recipe(name: str, **overrides: object) -> Result:
    """Train with the recipe's settings but for these."""
    assert overrides.keys() <= OVERRIDABLE
    settings = {**load_recipe(name).settings, "recipe": name, **HERE, **overrides}
    return train(config_from_mapping(settings), quiet=True)


def cosine(share: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * share))


def rates(history: list[dict]) -> list[float]:
    return [row["learning_rate"] for row in history if "loss" in row]


def losses(result: Result) -> list[float]:
    return [row["loss"] for row in result.history if "loss" in row]


def evaluations(result: Result) -> list[dict]:
    return [row for row in result.history if "loss" not in row]


def metrics_of(result: Result) -> dict:
    return json.loads((result.out / "metrics.json").read_text())


def check_encoder(result: Result) -> None:
    check_fingerprint(result.out, read_description(result.out))
    assert (result.out / "README.md").is_file()
    assert not result.out.with_name(result.out.name + ".training").exists()


@pytest.fixture(autouse=True)
def without_plots(no_plots: None) -> None:
    """Figures and encoders are looked at; what is drawn is the same for all recipes."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    save_clip(folder, size=SMALL)
    return folder


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=36, val=12)


def test_imageclef(clip: Path, tmp_path: Path) -> None:
    """By the command of the recipe's first line, on data in ImageCLEF's own layout."""
    write_squares(tmp_path / "images", train=160, val=0)
    rows = (tmp_path / "images" / "squares.csv").read_text().splitlines()[1::2]
    captions = (row.split(",")[:2] for row in rows)
    lines = [f"{image.removesuffix('.png')}\t{text}\n" for image, text in captions]
    (tmp_path / "images" / "squares.csv").unlink()
    (tmp_path / "captions.txt").write_text("".join(lines))
    command = [
        *CLIPSEARCH, "finetune", "captions.txt", "--images", "images",
        "--recipe", "imageclef", "--out", "encoder", "--model", str(clip), "--epochs", "3",
        "--samples-per-epoch", "28", "--batch-size", "8", "--in-batches", "4", "--device", "cpu",
        "--threads", "1", "--workers", "0", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 3 * 4, "three full batches of an epoch's 28 pairs, and one of 4"
    found = [row["loss"] for row in result["history"] if "loss" in row]
    assert found[:4] == pytest.approx(IMAGECLEF_LOSSES, rel=1e-3)
    assert rates(result["history"]) == pytest.approx(
        [5e-5 * (12 - step) / 12 for step in range(12)]
    )
    metrics = json.loads((tmp_path / "encoder" / "metrics.json").read_text())
    after = metrics["after"]
    by_scope = {(each["direction"], each["scope"]): each for each in after}
    pool = by_scope["image-to-text", "global"]["pool"]
    assert 0 <= by_scope["image-to-text", "global"]["mrr@10"] <= 1
    assert pool > 4
    batches = by_scope["image-to-text", "in batches of 4 in file order"]
    assert batches["pool"] == 4
    captions = by_scope["image-to-text", "global"]["queries"]
    assert batches["queries"] == captions, "also those of a last, smaller batch"
    # our figures are in batches of 4 here, so that none stands beside those in batches of 64
    rows = metrics["recipe"]["published"]
    assert [row["published after"] for row in rows] == [0.802, 0.872, 0.877, 0.880, 0.880]
    assert {row["after"] for row in rows} == {None}
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "github.com/elsevierlabs-os/clip-image-search" in card
    assert "mrr@10 in batches of 64 in file order | 0.573 | 0.880 | 64" in card
    # a rank among four is never worse than among all
    assert batches["mrr@20 in batches of 4 in file order"] > 0
    assert (
        batches["mrr@10 in batches of 4 in file order"]
        >= by_scope["image-to-text", "global"]["mrr@10"]
    )


CLASSES = {"airport": "red", "beach": "yellow", "forest": "green", "river": "blue"}


def write_karpathy(folder: Path, classes: list[str], per_class: int, *, named: bool) -> Path:
    """As RSICD's files: pictures of one colour a class; only RSICD's names tell the class."""
    (folder / "images").mkdir(parents=True)
    chance = random.Random(folder.name)
    images = []
    for number in range(len(classes) * per_class):
        name = classes[number % len(classes)]
        image = Image.new("RGB", (32, 32), COLOURS[CLASSES[name]])
        x, y = chance.randrange(24), chance.randrange(24)
        image.paste((chance.randrange(256),) * 3, (x, y, x + 8, y + 8))
        file = f"{name}_{number}.png" if named else f"{number}.png"
        image.save(folder / "images" / file)
        words = [f"a {name} with number {number}", f"many things near the {name} {number}"]
        words.append(words[0])  # as RSICD, which repeats captions where there are fewer than five
        split = "val" if number % 4 == 3 else "train"
        images.append(
            {"filename": file, "split": split, "sentences": [{"raw": text} for text in words]}
        )
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": folder.name}))
    return folder / "dataset.json"


def test_rsicd(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rsicd = write_karpathy(tmp_path / "rsicd", ["airport", "beach", "forest"], 8, named=True)
    others = [
        write_karpathy(tmp_path / "ucm", ["beach", "river"], 4, named=False),
        write_karpathy(tmp_path / "sydney", ["airport", "river"], 4, named=False),
    ]
    sentences = [
        sentence["raw"]
        for path in (rsicd, *others)
        for image in json.loads(path.read_text())["images"]
        for sentence in image["sentences"]
    ]
    languages = ("fr", "es", "it", "pt")
    one = save_tiny_marian(tmp_path / "one", sentences, seed=1, languages=languages)
    two = save_tiny_marian(tmp_path / "two", sentences, seed=2)
    settings: dict[str, object] = {
        "manifest": rsicd, "more_manifests": others, "model": clip, "epochs": 2,
        "batch_size": 16, "chunk_size": 4, "samples_per_epoch": 48, "warmup": 2,
        "back_translate": ",".join(f"{language}={one}:{two}" for language in languages),
        "back_translation_cache": tmp_path / "translations.sqlite",
    }  # fmt: skip
    result = run_recipe("rsicd", **settings, out=tmp_path / "encoder")
    check_encoder(result)
    assert losses(result)[:4] == pytest.approx(RSICD_LOSSES, rel=1e-3)
    assert result.steps == 2 * 48 / 16
    wanted = [5e-6 * factor for factor in (0.5, 1, 1, 0.75, 0.5, 0.25)]
    assert rates(result.history) == pytest.approx(wanted)

    zero_shot = result.metrics["zero-shot"]
    assert (zero_shot["pool"], zero_shot["queries"]) == (30, 6)
    hits = [zero_shot[f"hits@{k}"] for k in (1, 3, 5, 10)]
    assert 0 <= hits[0] <= hits[1] <= hits[2] <= hits[3] <= 1
    best = max(evaluations(result), key=lambda row: row["hits@1"])
    assert best["hits@1"] == pytest.approx(zero_shot["hits@1"])

    published = metrics_of(result)["recipe"]["published"]
    rows = {row["figure"]: row for row in published if not row["run"]}
    assert {row["after"] for row in published if row["run"]} == {None}, "other runs are not ours"
    assert (rows["hits@3"]["published before"], rows["hits@3"]["published after"]) == (0.745, 0.968)
    assert (rows["hits@3"]["after"], rows["hits@3"]["pool"]) == (zero_shot["hits@3"], 30)
    assert rows["hits@3"]["before"] == result.baseline["zero-shot"]["hits@3"]

    # 18 + 6 + 6 training images have two captions each, one of them twice: that is replaced
    data = metrics_of(result)["data"]["train"]
    assert data["images"] == 30
    assert 60 < data["captions"] <= 90

    # all that is needed is in the cache now: no model is loaded again
    def offline(*name: object, **settings: object) -> Translator:
        raise AssertionError("the second run must not load a translation model")

    monkeypatch.setattr(Translator, "load", offline)
    again = run_recipe("rsicd", **settings, out=tmp_path / "again")
    assert losses(again) == losses(result)


def test_icons(clip: Path, squares: Path, tmp_path: Path) -> None:
    """From an OpenCLIP checkpoint to one."""
    base = load_dual_encoder(clip)
    export_open_clip(base, tmp_path / "open-clip")
    result = run_recipe(
        "icons", manifest=squares, model=tmp_path / "open-clip", out=tmp_path / "encoder",
        epochs=3, batch_size=10, chunk_size=4,
    )  # fmt: skip
    check_encoder(result)
    assert result.steps == 3 * 3, "the six images of a last batch are left out"
    # bf16 has three digits, and processors differ in how they round
    assert losses(result)[:4] == pytest.approx(ICONS_LOSSES, rel=5e-3)
    wanted = [5e-6 * factor for factor in (1, *(cosine(step / 8) for step in range(8)))]
    assert rates(result.history) == pytest.approx(wanted)
    for direction in ("text-to-image", "image-to-text"):
        figures = result.metrics[direction]
        assert figures["recall@1"] <= figures["recall@5"] <= figures["recall@10"]
        assert figures["median_rank"] >= 1
        assert 1 <= figures["mean_rank"] <= figures["pool"]

    trained = load_dual_encoder(result.out)
    export_open_clip(
        trained, tmp_path / "exported", metrics=metrics_of(result), recipe={"epochs": 3}
    )
    card = (tmp_path / "exported" / "README.md").read_text()
    assert f"| recall@1 | {result.baseline['text-to-image']['recall@1']:.3f} |" in card
    assert "text-to-image recall@1 | – | 0.703 |" in card
    assert "huggingface.co/JianLiao/CLIP-ViT-L-14-spectrum-icons-20k" in card
    (counts,) = metrics_of(result)["manifests"]
    assert f"| squares.csv | {counts['images']} | {counts['captions']} |" in card
    assert "@misc{spectrum-icons-clip" in card
    assert "@software{ilharco_gabriel_2021_5143773" in card
    assert "| license of the weights | not given |" in card
    again = load_dual_encoder(tmp_path / "exported").model.state_dict()
    before = base.model.state_dict()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(again[name], value), name
    assert not torch.equal(again["logit_scale"], before["logit_scale"])
    # the same names and shapes as the checkpoint that training started from
    shapes = [
        {name: value.shape for name, value in load_file(folder / WEIGHTS_FILE).items()}
        for folder in (tmp_path / "open-clip", tmp_path / "exported")
    ]
    assert shapes[0] == shapes[1]


def test_dermatology(
    clip: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    save_roberta(tmp_path / "roberta")
    manifest = tmp_path / "squares.csv"
    first, *rows = squares.read_text().splitlines()
    # the colour of the square is what is to be told
    colours = [next(word for word in row.split() if word in COLOURS) for row in rows]
    lines = [f"{row},{colour}" for row, colour in zip(rows, colours, strict=True)]
    manifest.write_text("\n".join([f"{first},condition", *lines]))
    result = run_recipe(
        "dermatology", manifest=manifest, images=squares.parent, model=clip,
        text_model=tmp_path / "roberta", out=tmp_path / "encoder", epochs=5, batch_size=6,
        warmup=4, batches_of=6, precision="fp32", zero_shot_classes="condition", max_tokens=16,
    )  # fmt: skip
    check_encoder(result)
    # four batches of six a step, 36 pictures an epoch
    assert result.steps == 5 * 2
    assert losses(result)[:4] == pytest.approx(DERMATOLOGY_LOSSES, rel=1e-3)
    after_warmup = [cosine(step / 6) for step in range(6)]
    wanted = [3e-5 * factor for factor in (0.25, 0.5, 0.75, 1, *after_warmup)]
    assert rates(result.history) == pytest.approx(wanted)

    description = read_description(result.out)
    assert description.family == "vision-text-dual-encoder"
    best = sorted(evaluations(result), key=lambda row: row["val_loss"])
    assert result.best_step == best[0]["step"]
    kept = sorted(tmp_path.glob("encoder.step-*"))
    assert {path.name for path in kept} == {f"encoder.step-{row['step']}" for row in best[1:3]}
    for folder, row in zip(kept, sorted(best[1:3], key=lambda row: f"{row['step']}"), strict=True):
        check_fingerprint(folder, read_description(folder))
        own = json.loads((folder / "metrics.json").read_text())
        figures = {each["direction"]: each for each in own["after"] if each["scope"] == "global"}
        assert figures["text-to-image"]["mean_rank"] == pytest.approx(row["t2i_mean_rank"])
        assert own["training"]["step of these weights"] == row["step"]
        assert "Published figures: none" in (folder / "README.md").read_text()

    after = {(each["direction"], each["scope"]): each for each in metrics_of(result)["after"]}
    assert 0 <= after["zero-shot", "global"]["hits@1"] <= 1
    assert "recall@1 in batches of 6" in after["image-to-text", "in batches of 6"]
    impact = metrics_of(result)["impact"]
    assert impact["kwh"] > 0
    assert impact["kg_co2eq"] > 0


def test_article(clip: Path, squares: Path, tmp_path: Path) -> None:
    settings: dict[str, object] = {"manifest": squares, "model": clip, "batch_size": 12}
    result = run_recipe("article", **settings, out=tmp_path / "encoder")
    check_encoder(result)
    assert losses(result)[:4] == pytest.approx(ARTICLE_LOSSES, rel=1e-3)
    wanted = [1e-5 * factor for factor in (0.5, 1, *(cosine(step / 13) for step in range(4)))]
    assert rates(result.history)[:6] == pytest.approx(wanted)
    # patience may end it before the five epochs are over
    assert 2 * 3 <= result.steps <= 5 * 3
    assert result.metrics["text-to-image"]["scope"] == "global"
    best = max(evaluations(result), key=lambda row: row["t2i_mrr@10"])
    assert result.metrics["text-to-image"]["mrr@10"] == pytest.approx(best["t2i_mrr@10"])


IMAGECLEF_LOSSES = [3.09842, 2.93636, 2.38165, 1.21016]
RSICD_LOSSES = [3.70712, 3.78708, 3.73217, 3.80133]
ICONS_LOSSES = [3.36497, 2.74992, 3.17926, 3.80553]
# The made-up text tower takes 16 tokens, a letter each: several captions are equal behind the cut.
DERMATOLOGY_LOSSES = [1.62388, 1.01475, 1.63832, 1.09289]
ARTICLE_LOSSES = [3.30378, 3.30373, 3.45288, 3.39567]
