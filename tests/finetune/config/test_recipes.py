"""Recipe files: what they hold, what is refused, and what the command line makes of them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from clipsearch_command import CLIPSEARCH

from clipsearch.cli.finetune import finetune
from finetune import figures
from finetune.config.mapping import config_from_mapping
from finetune.config.recipes import (
    FOLDER,
    PublishedFigure,
    Recipe,
    load_recipe,
    packaged_recipe,
    published_beside,
    recipe_names,
)
from finetune.data.back_translation import parse_routes
from finetune.errors import UsageError
from finetune.evaluation import metrics
from finetune.manifest.class_labels import class_file

NAMES = ["article", "dermatology", "icons", "imageclef", "rsicd"]


def first_line(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]


def parsed(arguments: list[str]) -> dict:
    """What click makes of a command line, with the defaults of what is not given."""
    return finetune.make_context("finetune", arguments).params


def test_the_packaged_recipes() -> None:
    assert recipe_names() == NAMES
    assert packaged_recipe("rsicd") == load_recipe("rsicd")
    assert packaged_recipe("mine") is None
    assert packaged_recipe(None) is None


@pytest.mark.parametrize("name", NAMES)
def test_each_is_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert all(address.startswith("https://") for address in recipe.source)
    assert recipe.source
    config = config_from_mapping({"manifest": "photos.csv", **recipe.settings})
    # 5e-6 is a text in YAML 1.1
    assert isinstance(config.learning_rate, float)
    assert isinstance(config.eps, float)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_is_a_command_that_runs_it(name: str) -> None:
    words = shlex.split(first_line(name).removeprefix("# "))
    assert words[:2] == ["clipsearch", "finetune"]
    params = parsed(words[2:])
    assert params["recipe"] == name
    assert params["manifests"]
    assert params["out"] == "encoder"


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_are_ones_that_we_measure(name: str) -> None:
    config = config_from_mapping({"manifest": "m", **load_recipe(name).settings})
    measured = {*figures.retrieval_figures(config.cutoffs), *figures.class_figures_of()}
    scope = metrics.batches_scope(
        config.batches_of or 0, in_file_order=config.batches_in_file_order
    )
    for published in load_recipe(name).published:
        figure, _, batch = published.figure.partition(" in ")
        assert figure in measured
        assert batch in ("", scope.removeprefix("in "))
        assert published.direction in figures.TASKS
        assert published.after is not None
        if figure in figures.RANKS:
            assert published.after >= 1
        else:
            assert 0 < (published.before or 0.1) < published.after < 1


def test_every_known_figure_of_the_publications_is_there() -> None:
    found = {name: load_recipe(name).published for name in NAMES}
    assert {name: len(rows) for name, rows in found.items()} == {
        "article": 0, "dermatology": 0, "icons": 10, "imageclef": 5, "rsicd": 36,
    }  # fmt: skip
    best = {row.figure: row.after for row in found["rsicd"] if not row.run}
    assert best == {"hits@1": 0.883, "hits@3": 0.968, "hits@5": 0.982, "hits@10": 0.998}
    runs = {row.run for row in found["rsicd"]}
    assert len(runs) == 9, "nine rows, and the baseline before each of them"
    assert "bs128x8-lr1e-4-imgaugs-textaugs/ckpt-4" in runs
    assert [row.after for row in found["imageclef"]] == [0.802, 0.872, 0.877, 0.880, 0.880]


def test_every_recipe_says_what_sources_differ_in() -> None:
    """Patience, clipping, clamping, the last batch, crop order and interpolation stand there."""
    for name in NAMES:
        settings = load_recipe(name).settings
        assert {"patience", "max_grad_norm", "max_logit_scale", "last_batch"} <= {*settings}, name
        assert {"crop_before_resizing", "interpolation"} <= {*settings["augment"]}, name


def test_the_settings_that_the_publications_name() -> None:
    """A second copy of the numbers, so that a slip of the pen in a recipe is seen."""
    expected = {
        "imageclef": {
            "model": "openai/clip-vit-base-patch32", "batch_size": 64, "optimizer": "adam",
            "learning_rate": 5e-5, "schedule": "linear", "epochs": 10, "samples_per_epoch": 50_000,
            "batches_of": 64, "warmup": 0, "weight_decay": 0, "max_tokens": 64, "patience": 0,
            "batches_in_file_order": True, "last_batch": "short", "max_logit_scale": 0,
            "max_grad_norm": 0, "ks": (1, 3, 5, 10, 20),
        },
        "rsicd": {
            "batch_size": 1024, "learning_rate": 5e-6, "warmup": 50, "max_tokens": 32,
            "zero_shot_template": ("An aerial photograph of {category}",), "patience": 0,
            "max_grad_norm": 1, "max_logit_scale": 0, "back_translate_duplicates": True,
            "last_batch": "dropped", "zero_shot_classes": "rsicd-classes.txt",
        },
        "icons": {
            "model": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "batch_size": 64 * 6,
            "chunk_size": 64, "learning_rate": 5e-6, "schedule": "cosine", "epochs": 40,
            "precision": "bf16", "gradient_checkpointing": True, "patience": 0,
            "transparency": "white", "max_grad_norm": 0, "max_logit_scale": 100,
        },
        "dermatology": {
            "model": "openai/clip-vit-base-patch32", "text_model": "roberta-base",
            "precision": "fp16", "batch_size": 32, "accumulate_separate_batches": 4,
            "learning_rate": 3e-5, "schedule": "cosine-restarts", "weight_decay": 0.01,
            "warmup": 1000, "eval_every": "epoch", "metric": "val_loss", "keep_best": 3,
            "trackers": ("wandb", "carbon"), "epochs": 1000, "cycles": 1, "max_tokens": 128,
            "patience": 0,
        },
        "article": {
            "model": "openai/clip-vit-base-patch32", "optimizer": "adamw", "beta2": 0.98,
            "eps": 1e-6, "weight_decay": 0.2, "epochs": 5, "freeze": (),
        },
    }  # fmt: skip
    for name, values in expected.items():
        config = config_from_mapping({"manifest": "photos.csv", **load_recipe(name).settings})
        assert {key: getattr(config, key) for key in values} == values, name
    rsicd = config_from_mapping({"manifest": "m", **load_recipe("rsicd").settings})
    crops = rsicd.augment
    assert (crops.random_crop_pixels, crops.resized_crop_scale) == (179, (0.8, 1.0))
    assert (crops.crop_before_resizing, crops.interpolation) == (True, "bicubic")
    assert (crops.horizontal_flip, crops.vertical_flip, crops.jitters) == (0.5, 0.5, False)
    routes = parse_routes(rsicd.back_translate)
    assert [route.language for route in routes] == ["fr", "es", "it", "pt"]
    assert {(route.forward, route.back) for route in routes} == {
        ("Helsinki-NLP/opus-mt-en-ROMANCE", "Helsinki-NLP/opus-mt-ROMANCE-en")
    }
    icons = config_from_mapping({"manifest": "m", **load_recipe("icons").settings}).augment
    assert (icons.color_jitter, icons.color_jitter_p) == ((0.2, 0.2, 0.1, 0.0), 0.7)
    assert (icons.grayscale, icons.crops_originals, icons.interpolation) == (0.2, True, "bicubic")


def test_the_thirty_classes_of_rsicd_ship_and_are_found_by_name() -> None:
    path = class_file(str(load_recipe("rsicd").settings["zero_shot_classes"]))
    assert path is not None
    names = path.read_text().split()
    assert len(names) == len(set(names)) == 30
    for nothing in ("", ".", "..", "rsicd", "../class_lists/rsicd-classes.txt"):
        assert class_file(nothing) in (None, Path(nothing))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, "finetune", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_print_config_shows_the_recipe_and_options_win(tmp_path: Path) -> None:
    done = run(
        "photos.csv", "more.csv", "--recipe", "imageclef", "--epochs", "3", "--learning-rate",
        "1e-6", "--augment", "grayscale=0.5", "--print-config",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["recipe"] == "imageclef"
    assert (shown["manifest"], shown["more_manifests"]) == ("photos.csv", ["more.csv"])
    assert (shown["samples_per_epoch"], shown["schedule"], shown["beta2"]) == (
        50000,
        "linear",
        0.999,
    )
    assert (shown["epochs"], float(shown["learning_rate"])) == (3, 1e-6)
    assert shown["augment"]["grayscale"] == 0.5

    # what was printed is a recipe too, and the same one
    (tmp_path / "run.yaml").write_text(done.stdout)
    again = CliRunner().invoke(finetune, ["--recipe", str(tmp_path / "run.yaml"), "--print-config"])
    assert again.output == done.stdout


@pytest.mark.parametrize(
    ("recipe", "options", "name", "value"),
    [
        ("icons", ["--no-gradient-checkpointing"], "gradient_checkpointing", False),
        ("rsicd", ["--chunk-size", "none", "--accumulate-separate-batches", "8"],
         "chunk_size", None),
        ("imageclef", ["--samples-per-epoch", "none"], "samples_per_epoch", None),
        ("rsicd", ["--back-translate", "none"], "back_translate", None),
        ("dermatology", ["--trackers", "none"], "trackers", []),
        ("dermatology", ["--text-model", "none"], "text_model", None),
    ],
)  # fmt: skip
def test_an_option_takes_a_recipes_value_away(recipe, options, name, value) -> None:
    assert load_recipe(recipe).settings[name]
    done = CliRunner().invoke(
        finetune, ["a.csv", "--recipe", recipe, *options, "--print-config"],
        standalone_mode=False,
    )  # fmt: skip
    assert done.exception is None
    assert yaml.safe_load(done.output)[name] == value


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_of_each_loads_again(name: str, tmp_path: Path) -> None:
    values = {"manifest": "photos.csv", **load_recipe(name).settings, "recipe": name}
    config = config_from_mapping(values)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))
    again = load_recipe(path)
    assert again.name == name
    assert config_from_mapping({**again.settings, "recipe": again.name}) == config


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    (tmp_path / "classes.txt").write_text("beach\nairport\n")
    path.write_text(
        "description: Mine\nsettings: {epochs: 2, zero_shot_classes: classes.txt}\n",
    )
    recipe = load_recipe(path)
    assert recipe == Recipe(
        "mine.yaml", "Mine", (), (),
        {"epochs": 2, "zero_shot_classes": str(tmp_path / "classes.txt")},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {epochs: 2", "mine.yaml, line 1: no recipe in YAML"),
        ("epochs: 2\nmodel: [a\nseed: 1\n", "mine.yaml, line 3: no recipe in YAML"),
        ("epochs: 2\nseed: 1\nepochs: 3\n", "mine.yaml, line 3: .*epochs is there twice"),
        ("- epochs\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("epoch: 2\n", "there is no setting epoch; did you mean epochs?"),
        ("settings: {zzz: 1}\n", "there is no setting zzz; known are manifest, "),
        ("description: x\n", "has no settings"),
        ("settings: {epochs: 2}\nsources: []\n", "no key sources; did you mean source?"),
        ("settings: {epochs: 2}\nsource: https://example.org\n", "source is a list of addresses"),
        ("settings: {}\nexpects: {image: 3}\n", "no expectation image; did you mean images?"),
        ("settings: {}\nexpects: {images: many}\n", "expects holds whole numbers"),
        ("settings: {}\nexpects: {splits: {train: 0.9}}\n", "expects holds whole numbers"),
        ("settings: {}\npublished: [{figure: hits@1}]\n", "at least a figure and a direction"),
        ("settings: {}\npublished: [{figur: hits@1}]\n", "no key figur; did you mean figure?"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean rsicd\? Known are article, dermatology"):
        load_recipe("rscid")
    with pytest.raises(UsageError, match="no such recipe; known are article"):
        load_recipe("xyz")
    with pytest.raises(UsageError, match=r"--recipe mine\.yaml: no such file"):
        load_recipe("mine.yaml")
    done = run("photos.csv", "--recipe", "rscid")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_loading_a_recipe_needs_no_torch() -> None:
    code = "import sys; from finetune.config.recipes import load_recipe; load_recipe('rsicd');"
    code += "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_published_figures_beside_ours() -> None:
    name = "mrr@10 in batches of 64"
    recipe = Recipe(
        "mine", "", (),
        (
            PublishedFigure(figure=name, direction="image-to-text", before=0.5, after=0.8, pool=64),
            PublishedFigure(figure="hits@1", direction="zero-shot", after=0.9, note="of the test"),
        ),
        {},
    )  # fmt: skip
    before = [{"direction": "image-to-text", "pool": 200, "mrr@10": 0.1}]
    after = [
        {"direction": "image-to-text", "pool": 200, "mrr@10": 0.3},
        {"direction": "text-to-image", "pool": 64, name: 0.6},
        {"direction": "image-to-text", "pool": 64, name: 0.7},
    ]
    assert published_beside(recipe, before, after) == [
        {
            "figure": name, "direction": "image-to-text", "published before": 0.5,
            "published after": 0.8, "published pool": 64, "before": None, "after": 0.7, "pool": 64,
            "note": "", "run": "",
        },
        {
            "figure": "hits@1", "direction": "zero-shot", "published before": None,
            "published after": 0.9, "published pool": None, "before": None, "after": None,
            "pool": None, "note": "of the test", "run": "",
        },
    ]  # fmt: skip


def test_print_config_needs_no_manifest_and_is_a_recipe_for_any(tmp_path: Path) -> None:
    printed = CliRunner().invoke(finetune, ["--recipe", "article", "--print-config"]).output
    assert "manifest" not in yaml.safe_load(printed)
    (tmp_path / "mine.yaml").write_text(printed)
    again = ["photos.csv", "--recipe", str(tmp_path / "mine.yaml"), "--print-config"]
    assert yaml.safe_load(CliRunner().invoke(finetune, again).output)["manifest"] == "photos.csv"


def test_earlier_names_of_options_are_taken_with_a_note() -> None:
    arguments = [
        "photos.csv", "--model", "tiny", "--zero-shot-classes", "class", "--zero-shot-template",
        "a {category}", "--print-config",
    ]  # fmt: skip
    done = CliRunner().invoke(finetune, arguments)
    assert yaml.safe_load(done.stdout)["zero_shot_classes"] == "class"
    assert yaml.safe_load(done.stdout)["zero_shot_template"] == ["a {category}"]
    assert done.stderr.splitlines() == [
        "Note: --zero-shot-classes is called --zero-shot now.",
        "Note: --zero-shot-template is called --template now.",
    ]
    assert "--zero-shot-classes" not in CliRunner().invoke(finetune, ["--help"]).output
