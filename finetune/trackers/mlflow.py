"""MLflow: the server of MLFLOW_TRACKING_URI, else a database in the trackers' folder.

To look at the latter: `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`.
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from finetune.trackers.run import DEFAULT_PROJECT, TrackedRow, TrackedRun

# Of one request, by the server's rules.
MOST_METRICS, MOST_PARAMS, MOST_CHARACTERS = 1000, 100, 6000
DATABASE = "mlflow.db"


class MlflowTracker:
    """One run, through the client alone: mlflow's active run is the process's, not ours."""

    def __init__(self, run: TrackedRun) -> None:
        # It tells of every table that it makes.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        known = run.state.get("mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder / DATABASE}"
        self._client = MlflowClient(tracking_uri=uri)
        # The last step of each metric that an interrupted run wrote; None for a new run.
        self._written: dict[str, int] | None = {} if known else None
        if known:
            self._id = str(known)
            self._client.update_run(self._id, status="RUNNING")
        else:
            made = self._client.create_run(self._experiment(run), run_name=run.name)
            self._id = made.info.run_id
            run.state.put("mlflow", self._id)
            self._log_settings(run)

    def log(self, rows: Sequence[TrackedRow]) -> None:
        """Write, in requests of a thousand values, what the interrupted run has not."""
        now = time.time_ns() // 1_000_000
        metrics = [
            Metric(metric_name(name), float(value), now, step)
            for step, values in rows
            for name, value in values.items()
            if step > self._last_step(metric_name(name))
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST_METRICS])

    def finish(self, summary: Mapping[str, float], *, completed: bool) -> dict[str, Any]:
        """Write final figures, named "final …" so that they stand beside the curves of the same
        name.
        """
        for name, value in summary.items():
            self._client.log_metric(self._id, metric_name(f"final {name}"), float(value))
        self._client.set_terminated(self._id, status="FINISHED" if completed else "KILLED")
        return {}

    def _experiment(self, run: TrackedRun) -> str:
        name = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            artifacts = (run.folder / "mlflow-artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _log_settings(self, run: TrackedRun) -> None:
        params = [
            Param(metric_name(name), str(value)[:MOST_CHARACTERS])
            for name, value in run.plain_config().items()
        ]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def _last_step(self, metric: str) -> int:
        if self._written is None:
            return -1
        if metric not in self._written:
            history = self._client.get_metric_history(self._id, metric)
            self._written[metric] = max((each.step for each in history), default=-1)
        return self._written[metric]


start = MlflowTracker


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: "mrr@10" is "mrr_at_10"."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
