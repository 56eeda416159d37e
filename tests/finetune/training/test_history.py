import resource
from pathlib import Path

import pandas as pd
import pytest

from finetune.evaluation.plots import plot_history, smoothed
from finetune.figures import METRICS, is_evaluation
from finetune.training.history import STEP_COLUMNS, History, read_history


def step_row(step: int) -> dict[str, float]:
    return {
        "step": step, "epoch": 1, "loss": 1 / step, "learning_rate": 1e-5, "logit_scale": 2.65,
        "grad_norm": 0.1,
    }  # fmt: skip


def evaluation_row(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 1} | dict.fromkeys(METRICS, 0.5)


def write(path: Path, steps: int) -> History:
    history = History(path)
    history.append(evaluation_row(0))
    for step in range(1, steps + 1):
        history.append(step_row(step))
        if step % 3 == 0:
            history.append(evaluation_row(step))
    history.flush(sync=True)
    return history


def test_is_a_plain_table(tmp_path: Path) -> None:
    write(tmp_path / "history.csv", 6)
    table = pd.read_csv(tmp_path / "history.csv")
    assert tuple(table.columns) == (*STEP_COLUMNS, *METRICS)
    assert table["step"].tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert table["t2i_mrr@10"].notna().sum() == 3


def test_resuming_at_any_step_gives_the_same_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.csv", 9)
    expected = whole.path.read_bytes()
    for step in range(10):
        for is_evaluated in (True, False):
            path = tmp_path / "history.csv"
            # What a crash leaves: rows after the checkpoint, and half a row.
            path.write_bytes(expected + b"10,1,0.12")
            evaluated = step if is_evaluated else step - 1
            history = History.resume(path, step, evaluated)
            for row in whole.rows:
                is_known = row["step"] <= (evaluated if is_evaluation(row) else step)
                if not is_known:
                    history.append(row)
            history.flush()
            assert path.read_bytes() == expected
            assert read_history(path) == history.rows


def test_plots_are_drawn_from_the_rows(tmp_path: Path) -> None:
    history = write(tmp_path / "history.csv", 12)
    names = [path.name for path in plot_history(history.rows, tmp_path, pool=40)]
    assert names == ["loss.png", "learning-rate.png", "retrieval.png"]
    assert all((tmp_path / name).stat().st_size > 5_000 for name in names)
    only_steps = [row for row in history.rows if not is_evaluation(row)]
    assert len(plot_history(only_steps, tmp_path, pool=None)) == 2


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_a_full_disk_loses_no_row_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    write(path, 20)
    before = path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            History.resume(path, 20, -1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
