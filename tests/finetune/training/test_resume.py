"""A run that was stopped, killed or refused by the disk goes on to the same numbers."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from squares import write_squares
from steps_alone import leave_out_what_follows

import finetune.training.loop
from finetune.config.settings import TrainConfig
from finetune.errors import TrainingError, UsageError
from finetune.training.train import train

STEPS = 12


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=60, val=12)


@pytest.fixture
def config(manifest: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path / "out", batch_size=20, epochs=4,
        eval_every=5, patience=0, checkpoint_minutes=0.0, keep_checkpoints=True,
    )  # fmt: skip


class Crash(Exception):  # noqa: N818  # no error, a kill
    """Stands for a kill between two steps."""


@contextmanager
def crash_before(step: int, error: Callable[[], BaseException] = Crash) -> Iterator[None]:
    """Make the training step of this number (from 0, in the run to come) fail."""
    real, done = finetune.training.loop.training_step, 0

    def failing(*values, **named):
        nonlocal done
        if done == step:
            raise error()
        done += 1
        return real(*values, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.training.loop.training_step", failing)
        yield


def outcome(config: TrainConfig) -> tuple[dict[str, torch.Tensor], dict, str]:
    """Weights (last and best), the optimizer's state and the history of a finished run."""
    state = torch.load(config.work_folder / "checkpoint.pt", weights_only=True)
    best_step = next(iter(state["kept"]))
    best = torch.load(config.work_folder / f"best-{best_step}.pt", weights_only=True)
    tensors = state["model"] | {f"best {name}": tensor for name, tensor in best.items()}
    for number, values in state["optimizer"]["state"].items():
        tensors |= {f"{number} {name}": tensor for name, tensor in values.items()}
    history = (config.work_folder / "history.csv").read_text()
    return tensors, state["stopping"] | {"metrics": state["metrics"]}, history


def assert_equal(one: TrainConfig, other: TrainConfig) -> None:
    (ours, our_state, our_history), (theirs, their_state, their_history) = (
        outcome(one),
        outcome(other),
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert our_state == their_state
    assert our_history == their_history


@pytest.fixture(scope="module")
def uninterrupted(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path_factory.mktemp("whole") / "out",
        batch_size=20, epochs=4, eval_every=5, patience=0, checkpoint_minutes=60.0,
        keep_checkpoints=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        leave_out_what_follows(patch)
        train(config, quiet=True)
    return config


@pytest.mark.parametrize("crashes", [(1,), (3, 0, 1, 4), (11,)])
def test_crashes_leave_no_trace(config, uninterrupted, no_export, crashes) -> None:
    for steps in crashes:
        with crash_before(steps), pytest.raises(Crash):
            train(config, quiet=True)
        # Other parts of a program draw random numbers too.
        random.random()
        torch.rand(3)
    assert train(config, quiet=True).steps == STEPS
    assert_equal(config, uninterrupted)


def test_a_crash_long_after_the_checkpoint_repeats_the_steps(
    config, uninterrupted, no_export
) -> None:
    with crash_before(4), pytest.raises(Crash):
        train(config, quiet=True)
    with crash_before(5), pytest.raises(Crash):
        train(replace(config, checkpoint_minutes=60.0), quiet=True)
    train(config, quiet=True)
    assert_equal(config, uninterrupted)


def test_patience_survives_a_crash(config, no_export) -> None:
    # Nothing is learned, so that each evaluation counts against patience.
    idle = replace(config, learning_rate=1e-12, eval_every=2, patience=3)
    with crash_before(5), pytest.raises(Crash):
        train(idle, quiet=True)
    result = train(idle, quiet=True)
    assert (result.steps, result.stopped_early, result.best_step) == (6, True, 0)


def test_a_failed_export_needs_no_more_training(
    config, uninterrupted, no_plots, monkeypatch
) -> None:
    def full(*values, **named) -> None:
        raise TrainingError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("finetune.training.finish.export_encoder", full)
        with pytest.raises(TrainingError, match="no space"):
            train(config, quiet=True)
    with crash_before(0):
        train(config, quiet=True)
    assert (Path(config.out) / "encoder.json").exists()
    assert_equal(config, uninterrupted)


def test_other_options_are_refused_by_name(config, no_export) -> None:
    with crash_before(3), pytest.raises(Crash):
        train(config, quiet=True)
    changed = replace(config, epochs=5, learning_rate=1e-4, workers=0, checkpoint_minutes=1.0)
    with pytest.raises(UsageError) as caught:
        train(changed, quiet=True)
    message = str(caught.value)
    assert "--epochs 5 (was 4), --learning-rate 0.0001 (was None)" in message
    assert "--restart" in message
    assert "workers" not in message
    assert train(replace(changed, restart=True), quiet=True).steps == 15


def test_other_captions_are_refused(config, no_export, tmp_path) -> None:
    manifest = write_squares(tmp_path / "own", train=60, val=12)
    config = replace(config, manifest=manifest)
    with crash_before(3), pytest.raises(Crash):
        train(config, quiet=True)
    manifest.write_text(manifest.read_text().replace("a red square", "a crimson square"))
    with pytest.raises(UsageError, match="its images or captions are not those"):
        train(config, quiet=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(config, uninterrupted, no_export) -> None:
    with crash_before(4), pytest.raises(Crash):
        train(config, quiet=True)
    checkpoint = config.work_folder / "checkpoint.pt"
    before = checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*is kept"):
            train(config, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read_bytes() == before
    assert not list(config.work_folder.glob("*.partial"))
    train(config, quiet=True)
    assert_equal(config, uninterrupted)


def test_a_disk_that_stays_full_harms_no_resume(config, uninterrupted, no_export) -> None:
    """Hardly a byte can be written when the command is given again: nothing is lost by that."""
    with crash_before(8), pytest.raises(Crash):
        train(config, quiet=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(TrainingError, match="cannot be written"):
            train(config, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    train(config, quiet=True)
    assert_equal(config, uninterrupted)


def test_a_damaged_checkpoint_is_named(config, no_export) -> None:
    with crash_before(3), pytest.raises(Crash):
        train(config, quiet=True)
    checkpoint = config.work_folder / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: is damaged.*--restart"):
        train(config, quiet=True)
    train(replace(config, restart=True), quiet=True)


def test_two_runs_do_not_share_a_folder(config, no_export) -> None:
    def second() -> BaseException:
        with pytest.raises(UsageError, match="another process is training"):
            train(config, quiet=True)
        return Crash()

    with crash_before(1, second), pytest.raises(Crash):
        train(config, quiet=True)


def test_a_folder_of_other_files_is_not_touched(config, no_export) -> None:
    config.work_folder.mkdir()
    (config.work_folder / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        train(config, quiet=True)
    assert [path.name for path in config.work_folder.iterdir()] == ["thesis.txt"]


def start(config: TrainConfig) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "clipsearch", "finetune", str(config.manifest), "--model", "tiny",
        "--out", str(config.out), "--batch-size", str(config.batch_size),
        "--epochs", str(config.epochs), "--eval-every", str(config.eval_every),
        "--checkpoint-minutes", "0", "--keep-checkpoints", "--patience", str(config.patience),
    ]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_steps(config: TrainConfig, steps: int, process: subprocess.Popen[str]) -> None:
    history = config.work_folder / "history.csv"
    while process.poll() is None:
        rows = history.read_text().splitlines() if history.exists() else []
        if any(row.startswith(f"{steps},") for row in rows):
            return
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_and_ctrl_c_leave_no_trace(config, no_export, tmp_path) -> None:
    config = replace(config, epochs=20)
    whole = replace(config, out=tmp_path / "whole", checkpoint_minutes=60.0)
    train(whole, quiet=True)

    killed = start(config)
    wait_for_steps(config, random.randint(3, 15), killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    stopped = start(config)
    wait_for_steps(config, random.randint(22, 40), stopped)
    stopped.send_signal(signal.SIGINT)
    _, words = stopped.communicate()
    assert stopped.returncode == 130, words
    assert "run the same command again to continue" in words
    assert words.count("Stopped") == 1

    finished = start(config)
    _, words = finished.communicate()
    assert finished.returncode == 0, words
    assert "Continuing after step" in words
    assert_equal(config, whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_twenty_random_moments(config, no_export, tmp_path) -> None:
    config = replace(config, epochs=300, eval_every=50)
    whole = replace(config, out=tmp_path / "whole", checkpoint_minutes=60.0)
    train(whole, quiet=True)
    history = config.work_folder / "history.csv"
    for number in range(20):
        process = start(config)
        if number % 4 == 0:
            # Somewhere in start-up, or soon after.
            time.sleep(random.uniform(0, 8))
        else:
            rows = _size(history)
            while process.poll() is None and _size(history) in (0, rows):
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.7))
        assert process.poll() is None, "the run was over before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(config)
    _, words = process.communicate()
    assert process.returncode == 0, words
    assert_equal(config, whole)


def _size(path: Path) -> int:
    """0 while a killed run's file is being replaced."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_goes_on_with_an_equal_data_frame_alone(config, manifest, no_export, monkeypatch) -> None:
    monkeypatch.chdir(manifest.parent)
    frame = pd.read_csv(manifest)
    with crash_before(7), pytest.raises(Crash):
        train(replace(config, manifest=frame), quiet=True)
    with pytest.raises(UsageError, match="the manifest DataFrame-"):
        train(replace(config, manifest=frame.iloc[::-1]), quiet=True)
    result = train(replace(config, manifest=pd.read_csv(manifest)), quiet=True)
    assert result.steps == STEPS
    assert len({row["step"] for row in result.history if "loss" in row}) == STEPS
