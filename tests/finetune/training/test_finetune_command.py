"""`clipsearch finetune` through the real entry point: what it does besides training."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from clipsearch_command import CLIPSEARCH
from PIL import Image
from squares import write_squares

from clipsearch import cli
from clipsearch.cli.finetune import finetune as command
from finetune.config.settings import TrainConfig
from finetune.training.batch_size import report_largest_batch
from finetune.training.interruption import ToldInterrupt
from finetune.training.train import Result


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=24, val=6)


def finetune(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, "finetune", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_largest_batch_is_found_without_training(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    # the default --batch-size is more than there are images, which is why one asks
    done = finetune(manifest, "--model", "tiny", "--out", out, "--find-batch-size")
    assert done.stdout == "--batch-size 24 on cpu (all images)\n"
    assert list(tmp_path.iterdir()) == []


def test_the_largest_of_separate_batches_is_a_part_of_a_step(manifest: Path) -> None:
    config = TrainConfig(manifest=manifest, model="tiny", accumulate_separate_batches=3)
    assert report_largest_batch(config) == "--batch-size 8 on cpu (all images)"


def test_augmented_pictures_are_shown_without_training(manifest: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "augmented.png"
    done = finetune(
        manifest, "--model", "tiny", "--batch-size", "8", "--show-augmentation", sheet,
        "--augment", "horizontal_flip=1", "--augment", "grayscale=0.5", "--word-drop", "0.3",
    )  # fmt: skip
    assert str(sheet) in done.stdout
    with Image.open(sheet) as image:
        assert min(image.size) > 100


def test_without_a_manifest_made_up_pictures_are_shown(tmp_path: Path) -> None:
    done = finetune("--model", "tiny", "--show-augmentation", tmp_path / "sheet.png")
    assert "made up; name a MANIFEST" in done.stdout
    with Image.open(tmp_path / "sheet.png") as image:
        assert min(image.size) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photoss.csv", "--model", "tiny"], "photoss.csv: there is no such file or folder"),
        (["photos.csv", "--model", "./models/clip"], "--model ./models/clip: no such folder"),
    ],
)
def test_a_mistyped_path_is_said_before_torch_is_imported(arguments, message, tmp_path) -> None:
    (tmp_path / "photos.csv").touch()
    program = (
        "import sys\nfrom clipsearch.cli import main\n"
        f"try: main(['finetune', *{arguments}])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert message in done.stderr
    assert done.stdout == "False\n"


def test_what_is_printed_runs_again_and_options_win(manifest: Path, tmp_path: Path) -> None:
    printed = finetune(
        manifest, "--recipe", "article", "--model", "tiny", "--epochs", "1", "--batch-size", "8",
        "--augment", "vertical_flip=0.25", "--caption-case", "0.5", "--print-config",
    ).stdout  # fmt: skip
    values = yaml.safe_load(printed)
    assert (values["epochs"], values["beta2"], values["weight_decay"]) == (1, 0.98, 0.2)
    assert values["augment"]["vertical_flip"] == 0.25
    assert values["caption_augment"]["case"] == 0.5
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(printed)
    again = yaml.safe_load(finetune("--recipe", recipe, "--print-config").stdout)
    assert again == values
    out = tmp_path / "encoder"
    finetune("--recipe", recipe, "--out", out, "--augment", "vertical_flip=0", "--threads", "1")
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert written["augment"]["vertical_flip"] == 0
    assert written["batch_size"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a MANIFEST"),
        (["photos.csv"], "give --model"),
        (["photos.csv", "--model", "tiny", "--metric", "bleu"], "--metric bleu is not measured"),
        (["photos.csv", "--model", "tiny", "--recipe", "articel"], "article"),
        (["photos.csv", "--model", "tiny", "--trackers", "aim"], "--trackers"),
        (["photos.csv", "--model", "tiny", "--lora", "0"], "--lora must be at least 1"),
        (["photos.csv", "--model", "tiny", "--cycles", "3"], "--cycles 3 is for"),
        (
            ["photos.csv", "--model", "tiny", "--chunk-size", "8",
             "--accumulate-separate-batches", "2"],
            "give one of them",
        ),
        (["photos.csv", "--model", "tiny", "--freeze", "image,text"], "nothing to train"),
        (["photos.csv", "--model", "tiny", "--wise-ft", "0.5"], "no base model"),
        (["photos.csv", "--model", "tiny", "--augment", "flip=1"], "there is no setting flip"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_sentence_before_anything_is_read(arguments, message) -> None:
    done = finetune(*arguments, code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_recipe_for_a_gpu_is_shown_on_a_machine_without() -> None:
    printed = finetune("photos.csv", "--recipe", "dermatology", "--print-config").stdout
    assert yaml.safe_load(printed)["precision"] == "fp16"


@pytest.mark.slow
def test_tensorboard_follows_a_run(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "encoder"
    done = finetune(
        manifest, "--model", "tiny", "--out", out, "--epochs", "1", "--batch-size", "8",
        "--trackers", "tensorboard", "--threads", "1",
    )  # fmt: skip
    assert re.search(r"text-to-image +mrr@10 0\.\d+", done.stdout)
    events = list((tmp_path / "encoder.runs").rglob("events.out.tfevents.*"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: set[str] = set()
    for folder in {path.parent for path in events}:
        seen = EventAccumulator(str(folder))
        seen.Reload()
        scalars |= set(seen.Tags()["scalars"])
    assert any(name.endswith("loss") for name in scalars)
    assert any("t2i_mrr@10" in name for name in scalars)


@pytest.mark.parametrize(("rank", "size", "code"), [(0, 1, 3), (0, 2, 0), (1, 2, 0)])
def test_torchrun_does_not_take_rejected_pictures_for_a_crash(
    manifest: Path, monkeypatch, rank, size, code
) -> None:
    done = Result(Path("encoder"), {}, {}, [], 3, 3, False, rejected=2)
    monkeypatch.setattr("finetune.training.train.train", lambda config: done)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))
    found = CliRunner().invoke(command, [str(manifest), "--model", "tiny"], standalone_mode=False)
    assert found.return_value == code
    assert ("2 rows or pictures" in found.output) == (rank == 0)


def test_a_stop_is_told_once(
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = str(tmp_path / "encoder")

    def stopped(told: bool) -> str:
        def train(config: object) -> None:
            raise ToldInterrupt if told else KeyboardInterrupt

        monkeypatch.setattr("finetune.training.train.train", train)
        code = cli._run(["finetune", str(manifest), "--model", "tiny", "--out", out], debug=False)
        assert code == 130
        return capsys.readouterr().err

    assert stopped(told=False).endswith("Stopped.\n")
    assert "Stopped" not in stopped(told=True)
