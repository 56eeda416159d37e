"""The commands of README.md and docs/, run as they are written.

A fenced block under `<!-- runs -->` is run, by bash or Python, in a folder with a manifest
`photos.csv` and its pictures: first those of the README, then those of the other pages; those of
the page on training, which trains eight times, with `make test-slow`. A folder
`openai/clip-vit-base-patch32` there holds a tiny checkpoint of the same class, since the real one
cannot be fetched in a test.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from clipsearch_command import CODE, write_clipsearch
from other_indexes import clip_retrieval_folder, rclip_database

from clipsearch.cli import COMMANDS, cli
from clipsearch.demo.shapes import draw, scenes
from finetune.models.tiny import tiny_clip

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RUNS = re.compile(r"<!-- runs -->\n```(sh|python)\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
# Pages without commands that are run here; those of the last have a test of their own.
WITHOUT_RUNS = {
    "architecture.md", "reliability.md", "settings.md", "vespa.md", "serving.md",
    "real-text-encoder.md", "index.md", "tutorial.md",
}  # fmt: skip
FOLDERS_WITHOUT_RUNS = {"how-to", "explanation", "reference"}
TRAINING = "finetuning.md"
INTERPRETERS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": CODE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: photos.csv, its pictures, and a checkpoint where the README names one."""
    root = tmp_path_factory.mktemp("my photos")
    (root / "images").mkdir()
    drawn = [each for each in scenes() if each.number == 0][::6]
    classes = ("beach", "airport", "harbour")
    with (root / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "class", "year"])
        for place, scene in enumerate(drawn):
            path = f"images/{place:04}.jpg"
            draw(scene).save(root / path, quality=90)
            place_name = classes[place % 3]
            caption = f"{scene.caption} near two dogs on a {place_name}"
            writer.writerow([path, caption, place_name, 2000 + place % 20])
    draw(drawn[0]).save(root / "picture.jpg")
    draw(drawn[1]).save(root / "a.jpg")
    made = tiny_clip([scene.caption for scene in drawn])
    checkpoint = root / "openai" / "clip-vit-base-patch32"
    save_checkpoint(made, checkpoint)
    # Of an album that is not here: vectors that no image can be compared with.
    files = [Path(f"/gone/Pictures/{number}.jpg") for number in range(3)]
    vectors = np.eye(3, made.model.config.projection_dim, dtype=np.float32)
    rclip_database(root / "db.sqlite3", files, vectors)
    clip_retrieval_folder(root / "embeddings", files, vectors, captions=["two dogs"] * 3)
    return root


def save_checkpoint(made: object, checkpoint: Path) -> None:
    """As a transformers checkpoint, which `--model` takes like an id."""
    from finetune.images.processor_config import preprocessor_config
    from finetune.models.tiny import TinyClip

    assert isinstance(made, TinyClip)
    made.model.save_pretrained(checkpoint)
    made.tokenizer.save_pretrained(checkpoint)
    import json

    config = preprocessor_config(made.preprocessing, "clip")
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(config))


def environment(folder: Path) -> dict[str, str]:
    """The commands of this very installation first on the path; one thread for each.

    Of a model this small, threads that wait for each other take several times as long.
    """
    scripts = str(Path(sys.executable).parent)
    program = write_clipsearch(folder.parent / "program")
    path = os.pathsep.join([str(program), scripts, os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def run_blocks(page: Path, folder: Path) -> None:
    blocks = RUNS.findall(page.read_text(encoding="utf-8"))
    without = page.name in WITHOUT_RUNS or page.parent.name in FOLDERS_WITHOUT_RUNS
    assert blocks or without, page
    for language, block in blocks:
        done = subprocess.run(
            [*INTERPRETERS[language], block],
            cwd=folder, env=environment(folder), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{page.name}: {block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.timeout(900)
def test_the_commands_of_the_pages_run_in_their_order(folder: Path) -> None:
    for page in PAGES:
        if page.name != TRAINING:
            run_blocks(page, folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_page_on_training_run_after_the_readmes(folder: Path) -> None:
    for name in ("README.md", TRAINING):
        run_blocks(next(page for page in PAGES if page.name == name), folder)


def test_every_command_of_the_pages_exists_and_is_in_the_readme() -> None:
    readme, *others = (page.read_text(encoding="utf-8") for page in PAGES)
    for text in (readme, *others):
        assert set(re.findall(r"^clipsearch ([a-z]+)", text, re.MULTILINE)) <= set(COMMANDS)
    assert set(COMMANDS) <= set(re.findall(r"clipsearch ([a-z]+)", readme)), "not in the README"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_the_pages_commands_exists(page: Path) -> None:
    """Also of those that cannot be run here."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            _, *rest = re.split(r"\bclipsearch (?=[a-z])", line.partition("  #")[0])
            for words in (re.sub(r"'[^']*'", "", one).split() for one in rest):
                known = options(words)
                used = {word for word in words if re.match(r"--?[a-z]", word)}
                assert used <= known, f"{page.name}: {line}"


def options(words: list[str]) -> set[str]:
    """Every option that the command named first takes."""
    assert words[0] in COMMANDS
    command = cli.get_command(click.Context(cli), words[0])
    while isinstance(command, click.Group):
        command = command.commands[words[1]]
    told = [option for option in command.params if isinstance(option, click.Option)]
    return {name for option in told for name in (*option.opts, *option.secondary_opts)}
