"""Trackers of a run: TensorBoard, Weights & Biases, MLflow, codecarbon.

None is imported unless it is asked for. One that is asked for and not installed is an error before
anything else happens; one that fails later, or whose network is slow, never holds up or stops
training: it is given up with one warning. How that is done is in `finetune.trackers.background`.

>>> with start_trackers(["wandb", "carbon"], folder=folder, config=config, warn=print) as trackers:
...     trackers.log(10, {"loss": 2.31})
...     carbon = trackers.finish({"t2i_mrr@10": 0.88})
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finetune.errors import ClipsearchError, UsageError
from finetune.several import check_several
from finetune.trackers.background import FINISH_SECONDS, START_SECONDS, Trackers, start_background
from finetune.trackers.run import RunState, TrackedRun

# By name: the packages that it needs, as they are imported and as pip knows them. Each has a
# module here with the function `start`.
REQUIREMENTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tensorboard": {"tensorboard": "tensorboard"},
        "wandb": {"wandb": "wandb"},
        # mlflow-skinny is enough, but keeps runs of its own only with the other two.
        "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
        "carbon": {"codecarbon": "codecarbon"},
    }
)
TRACKERS = tuple(REQUIREMENTS)


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError for an unknown name, ClipsearchError for one that is not installed.

    Imports none of them.
    """
    check_several(names, "trackers")
    for name in names:
        if name not in REQUIREMENTS:
            raise UsageError(f"--trackers must be among {', '.join(TRACKERS)}, not {name}")
        missing = [pip for module, pip in REQUIREMENTS[name].items() if find_spec(module) is None]
        if missing:
            raise ClipsearchError(
                f"--trackers {name} needs {_and(missing)}: pip install {' '.join(missing)}"
            )


def start_trackers(
    names: Sequence[str],
    *,
    folder: Path,
    config: Mapping[str, Any],
    project: str | None = None,
    run_name: str | None = None,
    resumed_from_step: int = 0,
    warn: Callable[[str], None],
    start_seconds: float = START_SECONDS,
    finish_seconds: float = FINISH_SECONDS,
) -> Trackers:
    """Start the trackers of a run, or go on with those of an interrupted one.

    Args:
        names: Of TRACKERS; one that is named twice is started once.
        folder: Where they write, and where their ids are kept for a resumed run; it is made, and
            must outlive the run. Untouched where there are no names.
        config: The run's settings, for those that show them.
        project: Of Weights & Biases, experiment of MLflow; None takes their environment
            variables, or "clipsearch".
        run_name: None is the time of the start.
        resumed_from_step: Steps done; above 0 the same runs go on.
        warn: Called with one sentence for each tracker that fails, always from the thread that
            calls this function or a method of what it returns.
        start_seconds: How long the start may hold up training; a tracker that takes longer goes
            on starting beside it.
        finish_seconds: How long all together may take to finish.

    Raises UsageError for an unknown name, ClipsearchError where one is not installed or `folder`
    cannot be written.
    """
    check_trackers(names)
    names = tuple(dict.fromkeys(names))
    if not names:
        return Trackers((), warn, finish_seconds)
    starts = {name: _module(name).start for name in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = RunState.open(folder, run_name, resumed=resumed_from_step > 0, warn=warn)
    except OSError as error:
        raise ClipsearchError(
            f"{folder}: cannot be written ({error.strerror or error}); the trackers need it"
        ) from error
    run = TrackedRun(
        folder=folder.absolute(),
        name=state.name,
        project=project,
        config=config,
        resumed_from_step=resumed_from_step,
        state=state,
    )
    background = start_background(
        {name: partial(start, run) for name, start in starts.items()}, start_seconds
    )
    return Trackers(background, warn, finish_seconds)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"finetune.trackers.{name}")
    except Exception as error:  # a broken installation may raise anything
        packages = " ".join(REQUIREMENTS[name].values())
        raise ClipsearchError(
            f"--trackers {name}: its package cannot be imported ({error});"
            f" pip install --upgrade {packages}"
        ) from error


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
