"""Trackers: none is imported unasked, and none that fails or hangs holds up training."""

import json
import os
import pty
import random
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from squares import write_squares

from finetune.errors import ClipsearchError, UsageError
from finetune.text.masking import TRACKER_SECRETS
from finetune.trackers import REQUIREMENTS, TRACKERS, check_trackers, start_trackers
from finetune.trackers.background import BackgroundTracker, Trackers
from finetune.trackers.run import STATE_FILE

PACKAGES = (*(each for needed in REQUIREMENTS.values() for each in needed), "torch")


class Warnings(list):
    def __call__(self, text: str) -> None:
        self.append(text)


class Recorder:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, fail_at: str = "") -> None:
        self.rows, self.summary, self.completed = [], None, None
        self.fail_at = fail_at
        self._fail("start")

    def _fail(self, when: str) -> None:
        if self.fail_at == when:
            raise ConnectionError(f"no route to host\nat {when}")

    def log(self, rows) -> None:
        self._fail("log")
        self.rows += rows

    def finish(self, summary, *, completed) -> dict[str, float]:
        self._fail("finish")
        self.summary, self.completed = summary, completed
        return {"measured": 1.0}


def trackers_of(warn, *recorders, finish_seconds=10.0):
    return Trackers(
        [BackgroundTracker(f"number{i}", make) for i, make in enumerate(recorders)],
        warn,
        finish_seconds,
    )


def test_every_row_arrives_in_order_and_the_summary_last() -> None:
    warn, recorder = Warnings(), Recorder()
    with trackers_of(warn, lambda: recorder) as trackers:
        for step in range(2000):
            trackers.log(step, {"loss": step / 2})
        assert trackers.finish({"mrr": 0.5}) == {"measured": 1.0}
    assert recorder.rows == [(step, {"loss": step / 2}) for step in range(2000)]
    assert (recorder.summary, recorder.completed, warn) == ({"mrr": 0.5}, True, [])


@pytest.mark.parametrize("fail_at", ["start", "log", "finish"])
def test_a_failure_is_one_warning_and_the_others_go_on(fail_at) -> None:
    warn, good = Warnings(), Recorder()
    trackers = trackers_of(warn, lambda: Recorder(fail_at), lambda: good)
    for step in range(50):
        trackers.log(step, {"loss": 1.0})
        time.sleep(0.001)
    assert trackers.finish({}) == {"measured": 1.0}
    assert warn == [f"number0: no route to host at {fail_at}; training goes on without it"]
    assert len(good.rows) == 50


def test_a_library_that_exits_does_not_end_the_process() -> None:
    warn = Warnings()
    trackers = trackers_of(warn, lambda: sys.exit(3))
    trackers.finish({})
    assert warn == ["number0: 3; training goes on without it"]


@pytest.mark.parametrize("hangs_at", ["start", "log", "finish"])
def test_one_that_hangs_holds_up_nothing_but_the_end_and_that_not_for_long(hangs_at) -> None:
    warn, freed = Warnings(), threading.Event()

    class Hanging(Recorder):
        def _fail(self, when: str) -> None:
            if when == hangs_at:
                freed.wait(30)

    trackers = trackers_of(warn, Hanging, finish_seconds=0.3)
    started = time.monotonic()
    for step in range(1000):
        trackers.log(step, {"loss": 1.0})
    assert time.monotonic() - started < 20
    finishing = time.monotonic()
    assert trackers.finish({}) == {}
    assert 0.25 < time.monotonic() - finishing < 20
    freed.set()
    assert len(warn) == 1 and "did not finish in time" in warn[0]


def test_one_that_cannot_keep_up_is_given_up_before_memory_runs_out() -> None:
    warn, freed = Warnings(), threading.Event()

    class Hanging(Recorder):
        def log(self, rows) -> None:
            freed.wait(30)

    trackers = Trackers([BackgroundTracker("slow", Hanging, queued_rows=10)], warn, 0.2)
    for step in range(100):
        trackers.log(step, {"loss": 1.0})
    freed.set()
    trackers.finish({})
    assert warn == ["slow: it did not take 10 rows in time; training goes on without it"]


def test_an_interrupted_run_is_finished_as_such() -> None:
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), trackers_of(print, lambda: recorder) as trackers:
        trackers.log(1, {"loss": 1.0})
        raise KeyboardInterrupt
    assert recorder.rows == [(1, {"loss": 1.0})]
    assert recorder.completed is False


def test_warnings_come_from_the_thread_that_trains() -> None:
    threads = []
    trackers = trackers_of(
        lambda _: threads.append(threading.current_thread()), lambda: Recorder("log")
    )
    trackers.log(1, {})
    trackers.finish({})
    assert threads == [threading.current_thread()]


def test_none_is_imported_unless_asked_for(tmp_path) -> None:
    code = f"""
        import pathlib, sys
        import finetune.trackers as trackers
        trackers.check_trackers(trackers.TRACKERS)
        with trackers.start_trackers(
            (), folder=pathlib.Path({str(tmp_path / "runs")!r}), config={{}}, warn=print
        ) as run:
            run.log(1, {{"loss": 1.0}})
        print(sorted(set({PACKAGES!r}) & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "runs").exists()


def test_every_tracker_says_which_variables_hold_its_secrets() -> None:
    assert set(TRACKER_SECRETS) == set(TRACKERS)


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"--trackers must be among tensorboard, wandb, .*not wnb"):
        check_trackers(["wnb"])


@pytest.mark.parametrize("name", TRACKERS)
def test_asked_for_and_not_installed(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("finetune.trackers.find_spec", lambda module: None)
    with pytest.raises(ClipsearchError, match=f"--trackers {name} needs .*: pip install "):
        start_trackers([name], folder=tmp_path / "runs", config={}, warn=print)
    assert not (tmp_path / "runs").exists()


STUBS = {
    "wandb": """
        class Settings:
            def __init__(self, **values): pass
        def setup(settings): pass
        def init(**values):
            {start}
            return Run()
        class Run:
            summary = {{}}
            def log(self, values, step):
                {log}
            def finish(self, exit_code):
                {finish}
    """,
    "codecarbon": """
        class EmissionsTracker:
            def __init__(self, output_handlers, **values):
                self.handler = output_handlers[0]
            def start(self):
                {start}
            def flush(self):
                {log}
            def stop(self):
                {finish}
        OfflineEmissionsTracker = EmissionsTracker
    """,
    "codecarbon.output": "class BaseOutput: pass",
    "mlflow": "",
    "mlflow.entities": """
        class Metric:
            def __init__(self, *values): pass
        Param = Metric
    """,
    "mlflow.tracking": """
        class Found:
            experiment_id = run_id = "1"
            info = property(lambda self: self)
        class MlflowClient:
            def __init__(self, tracking_uri):
                {start}
            def get_experiment_by_name(self, name): return Found()
            def create_run(self, experiment, run_name): return Found()
            def log_batch(self, run, metrics=(), params=()):
                if metrics:
                    {log}
            def log_metric(self, *values): pass
            def set_terminated(self, run, status):
                {finish}
    """,
}


@pytest.mark.parametrize("fail_at", ["import", "start", "log", "finish"])
@pytest.mark.parametrize("name", ["wandb", "mlflow", "carbon"])
def test_an_outage_of_a_package(name, fail_at, tmp_path) -> None:
    """Stubs of the packages, which raise at one place, stand before the real ones on the path."""
    stubs = tmp_path / "stubs"
    for module, text in STUBS.items():
        place = stubs / module.replace(".", "/") / "__init__.py"
        place.parent.mkdir(parents=True)
        steps = {
            when: "raise OSError('no network')" if when == fail_at else "pass"
            for when in ("start", "log", "finish")
        }
        broken = "raise ImportError('libfoo.so is missing')\n" if fail_at == "import" else ""
        place.write_text(broken + textwrap.dedent(text.format(**steps)))
    code = f"""
        import importlib, sys, pathlib
        sys.path.insert(0, {str(stubs)!r})
        import finetune.trackers
        finetune.trackers.find_spec = lambda module: True
        if {(name, fail_at)!r} == ("carbon", "log"):
            importlib.import_module("finetune.trackers.carbon").NOTED_EVERY_SECONDS = 0
        with finetune.trackers.start_trackers(
            [{name!r}], folder=pathlib.Path({str(tmp_path / "runs")!r}), config={{"lr": 1}},
            warn=lambda text: print("warning:", text),
        ) as trackers:
            for step in range(20):
                trackers.log(step, {{"loss": 1.0}})
            trackers.finish({{"mrr@10": 1.0}})
        print("trained")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    if fail_at == "import":
        assert "trained" not in done.stdout
        assert "ClipsearchError: --trackers" in done.stderr
        assert "(libfoo.so is missing); pip install --upgrade" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    warning = f"warning: {name}: no network; training goes on without it"
    assert done.stdout.splitlines() == [warning, "trained"]


def test_before_a_checkpoint_one_that_hangs_is_waited_for_once() -> None:
    freed = threading.Event()

    class Hanging(Recorder):
        def log(self, rows) -> None:
            freed.wait(30)

    trackers = trackers_of(print, Hanging, finish_seconds=0.0)
    trackers.log(1, {})
    started = time.monotonic()
    for _ in range(5):
        trackers.flush(0.2)
    assert 0.2 <= time.monotonic() - started < 0.9, "five times would be a second"
    freed.set()
    trackers.finish({})


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipsearchError, match="cannot be written"):
        start_trackers(["tensorboard"], folder=tmp_path / "file" / "runs", config={}, warn=print)


def test_a_run_from_the_command_line(tmp_path) -> None:
    manifest = write_squares(tmp_path / "data", train=24, val=8)
    command = [*CLIPSEARCH, "finetune", str(manifest), "--model", "tiny"]
    command += ["--out", str(tmp_path / "encoder"), "--epochs", "1", "--batch-size", "12"]
    wrong = subprocess.run(
        [*command, "--trackers", "tensorboard,wnb"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "--trackers must be among tensorboard, wandb, mlflow, carbon, not wnb" in wrong.stderr
    assert not (tmp_path / "encoder.training").exists()
    pytest.importorskip("tensorboard")
    subprocess.run([*command, "--trackers", "tensorboard"], capture_output=True, check=True)
    events = list((tmp_path / "encoder.runs" / "tensorboard").glob("*/events.*"))
    assert len(events) == 1 and events[0].stat().st_size > 500
    drawn = {path.name for path in (tmp_path / "encoder").iterdir()}
    assert {"ranks.png", "similarity.png", "learning-rate.png"} <= drawn
    assert not any(name.startswith("changes") for name in drawn)
    assert {"encoder.changes.html", "encoder.changes.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


# -- the real packages, offline ------------------------------------------------------------------


def run_twice(name: str, folder, warn) -> tuple[dict, dict]:
    """Six steps, a kill (nothing is finished), then from the checkpoint after step 4 to step 8."""
    pytest.importorskip({"carbon": "codecarbon"}.get(name, name))
    values = {"loss": 0.5, "t2i_mrr@10": 0.25}
    killed = Warnings()
    first = start_trackers(
        [name], folder=folder, config={"out": folder, "lr": 1e-5}, run_name="my run", warn=killed
    )
    for step in range(1, 7):
        first.log(step, values)
    first.flush(30)
    assert killed == []
    state_before = json.loads((folder / STATE_FILE).read_text())
    with start_trackers(
        [name], folder=folder, config={"lr": 2}, resumed_from_step=4, warn=warn
    ) as second:
        for step in range(5, 9):
            second.log(step, values)
        measured = second.finish({"t2i_mrr@10": 0.75})
    first.finish({})  # its threads
    return state_before, measured


def test_tensorboard_goes_on_in_the_same_folder(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    warn = Warnings()
    run_twice("tensorboard", tmp_path, warn)
    assert warn == []
    assert [each.name for each in (tmp_path / "tensorboard").iterdir()] == ["my-run"]
    read = EventAccumulator(str(tmp_path / "tensorboard" / "my-run")).Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "t2i_mrr@10"}
    assert [each.step for each in read.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    text = read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| lr | 1e-05 |" in text


def test_a_new_run_of_the_same_name_has_a_folder_of_its_own(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    for _ in range(2):
        with start_trackers(
            ["tensorboard"], folder=tmp_path, config={}, run_name="../a", warn=pytest.fail
        ) as trackers:
            trackers.finish({})
    assert {each.name for each in (tmp_path / "tensorboard").iterdir()} == {"a", "a-2"}
    assert set(tmp_path.iterdir()) == {tmp_path / "tensorboard", tmp_path / STATE_FILE}


def test_a_damaged_state_file_starts_a_new_run(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / STATE_FILE).write_text("{")
    warn = Warnings()
    with start_trackers(
        ["tensorboard"], folder=tmp_path, config={}, resumed_from_step=5, warn=warn
    ):
        pass
    assert len(warn) == 1 and "start a new run" in warn[0]


def test_wandb_offline(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    warn = Warnings()
    state, _ = run_twice("wandb", tmp_path, warn)
    assert warn == []
    runs = sorted(each.name for each in (tmp_path / "wandb").glob("offline-run-*"))
    assert runs and all(state["wandb"] in name for name in runs)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["no key", "nobody answers"])
def test_wandb_without_a_server(setting, tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    if setting == "nobody answers":
        environment["WANDB_API_KEY"] = "0" * 40
    code = f"""
        import os, pathlib, time
        os.environ.update({environment!r})
        import finetune.trackers, finetune.trackers.wandb
        finetune.trackers.wandb.INIT_SECONDS = 2
        with finetune.trackers.start_trackers(
            ["wandb"], folder=pathlib.Path({str(tmp_path / "runs")!r}), config={{}},
            warn=lambda text: print("warning:", text), start_seconds=0.1, finish_seconds=20,
        ) as trackers:
            started = time.monotonic()
            for step in range(1000):
                trackers.log(step, {{"loss": 1.0}})
            assert time.monotonic() - started < 1
            trackers.finish({{}})
        print("trained")
    """
    # A terminal, since there wandb would ask for a key.
    main, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(terminal)
    os.close(main)
    *warnings, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "trained")
    assert len(warnings) == 1 and warnings[0].startswith("warning: wandb: ")


@pytest.mark.slow
def test_mlflow_in_a_database_of_its_own(tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    warn = Warnings()
    state, _ = run_twice("mlflow", tmp_path, warn)
    assert warn == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("clipsearch")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == state["mlflow"]
    assert run.info.run_name == "my run"
    assert run.data.params == {"out": str(tmp_path), "lr": "1e-05"}
    steps = [each.step for each in client.get_metric_history(run.info.run_id, "t2i_mrr_at_10")]
    assert sorted(steps) == [1, 2, 3, 4, 5, 6, 7, 8]  # 5 and 6 were there already
    assert run.data.metrics["final t2i_mrr_at_10"] == 0.75


def test_carbon_of_both_parts_of_a_run(tmp_path, monkeypatch, capfd) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    monkeypatch.setattr("finetune.trackers.carbon.NOTED_EVERY_SECONDS", 0.0)
    warn = Warnings()
    state, measured = run_twice("carbon", tmp_path, warn)
    assert warn == []
    assert measured.pop("region") == "France"
    assert set(measured) == {"kg_co2eq", "kwh", "seconds"}
    assert "".join(capfd.readouterr()) == ""  # the progress bar is there
    # What the killed part had noted counts too.
    for name, value in measured.items():
        assert value > state["carbon"][name] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_the_weights_do_not_depend_on_a_tracker(name, tmp_path, monkeypatch) -> None:
    """Shared random generators are left alone, or a resumed run would go another way."""
    import torch

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run_twice(name, tmp_path, Warnings())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before
