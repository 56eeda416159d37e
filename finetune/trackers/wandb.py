"""Weights & Biases.

Its environment variables hold: WANDB_MODE=offline writes below the trackers' folder, to be sent
later with `wandb sync`; WANDB_ENTITY, WANDB_BASE_URL and so on as ever. Log in beforehand: nobody
is asked for a key in the middle of a run.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from finetune.trackers.run import DEFAULT_PROJECT, TrackedRow, TrackedRun

# Its own defaults are 90 s and as long as it takes; both also hold up the end of the process.
INIT_SECONDS = 30
FINISH_SECONDS = 60


class WandbTracker:
    """One run, the same id for as long as it is resumed."""

    def __init__(self, run: TrackedRun) -> None:
        # Silent for the whole library, or it would ask for a key on a terminal.
        wandb.setup(wandb.Settings(silent=True))
        known = run.state.get("wandb")
        # An id of ours: its own would be lost where a kill comes between its start and our note.
        run_id = known or secrets.token_hex(4)
        run.state.put("wandb", run_id)
        self._run = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT),
            id=run_id,
            name=run.name,
            dir=str(run.folder),
            config=run.plain_config(),
            resume="allow" if known else None,
            settings=wandb.Settings(
                silent=True,
                console="off",  # it would wrap stderr, where the progress bar is
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )

    def log(self, rows: Sequence[TrackedRow]) -> None:
        """Send figures; steps that the server has already are dropped there."""
        for step, values in rows:
            self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, float], *, completed: bool) -> dict[str, Any]:
        """Wait until all is sent, within limits."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if completed else 1)
        return {}


start = WandbTracker
