"""The README's commands, run as they are written.

A fenced block under `<!-- runs -->` is run by bash in a folder with a manifest `photos.csv` and
its pictures; a folder `openai/clip-vit-base-patch32` there holds a tiny checkpoint of the same
class, since the real one cannot be fetched in a test.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipsearch.demo.shapes import draw, scenes
from finetune.models.tiny import tiny_clip

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- runs -->\n```(?:sh|bash)\n(.*?)```", re.DOTALL)
PYTHON_BLOCK = re.compile(r"<!-- runs -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: photos.csv, its pictures, and a checkpoint where the README names one."""
    root = tmp_path_factory.mktemp("my photos")
    (root / "images").mkdir()
    drawn = [each for each in scenes() if each.number == 0][::3]
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


def environment() -> dict[str, str]:
    """The commands of this very installation first on the path; one thread for each.

    Of a model this small, threads that wait for each other take several times as long.
    """
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run_in_their_order(folder: Path) -> None:
    blocks = BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert blocks, "the README has no block marked with <!-- runs -->"
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    for block in PYTHON_BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8")):
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_every_command_of_the_readme_exists() -> None:
    from clipsearch.cli import COMMANDS

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^clipsearch ([a-z]+)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    assert set(COMMANDS) <= set(re.findall(r"clipsearch ([a-z]+)", text)), "not in the README"
