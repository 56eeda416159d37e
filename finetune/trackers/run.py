"""What a tracker is told about the run, what it must do, and what outlives a kill."""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

from finetune.errors import UsageError
from finetune.files.atomic import replace_file
from finetune.text.strict_json import dumps

STATE_FILE = "trackers.json"
DEFAULT_PROJECT = "clipsearch"

# A step and what was measured at it.
TrackedRow = tuple[int, Mapping[str, float]]


class Tracker(Protocol):
    """Somewhere to follow a run. All methods are called from one thread and may raise anything."""

    def log(self, rows: Sequence[TrackedRow]) -> None:
        """Record what was measured; steps do not fall within a process, but a resumed run may
        bring some again that were recorded before the kill.
        """
        ...

    def finish(self, summary: Mapping[str, float], *, completed: bool) -> dict[str, Any]:
        """Record the run's final figures and write everything out.

        Args:
            summary: By name.
            completed: False where the run was interrupted or failed; it may be resumed.

        Returns what the tracker measured itself, empty for most.
        """
        ...


class RunState:
    """What a resumed run must know: its name, and by tracker an id or a sum. Thread-safe.

    Attributes:
        name: Of the run.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.name: str = values["name"]
        self._path = path
        self._values = dict(values)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, folder: Path, run_name: str | None, *, resumed: bool, warn: Callable[[str], None]
    ) -> Self:
        """Open the notes of the interrupted run in `folder` if `resumed`, else of a new one.

        Raises OSError, and UsageError where another file has its place.
        """
        path = folder / STATE_FILE
        if resumed:
            try:
                return cls(path, json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                pass  # trackers were not asked for before
            except (ValueError, KeyError, TypeError) as error:
                warn(f"{path}: cannot be read ({error}); the trackers start a new run")
        elif path.exists() and not _is_state(path):
            raise UsageError(
                f"{path}: is where the trackers' ids go, but it is another file; move it away"
            )
        state = cls(path, {"name": run_name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")})
        state._write()
        return state

    def get(self, tracker: str) -> Any:
        """Return what the tracker put last, None where it put nothing."""
        with self._lock:
            return self._values.get(tracker)

    def put(self, tracker: str, value: Any) -> None:
        """Keep a JSON value. Raises OSError."""
        with self._lock:
            self._values[tracker] = value
            self._write()

    def _write(self) -> None:
        replace_file(self._path, [dumps(self._values, indent=1, ensure_ascii=True).encode()])


def _is_state(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8"))["name"], str)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told at its start.

    Attributes:
        folder: Where it may write; absolute.
        name: Of the run.
        project: As the user gave it, or None.
        config: The run's settings.
        resumed_from_step: Steps done before, 0 for a new run.
        state: What the tracker put there before the run was interrupted.
    """

    folder: Path
    name: str
    project: str | None
    config: Mapping[str, Any]
    resumed_from_step: int
    state: RunState

    @property
    def file_name(self) -> str:
        """The name as a file may be called."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip(".-") or "run"

    def plain_config(self) -> dict[str, Any]:
        """Return the settings as JSON holds them; paths and the like become strings."""
        plain: dict[str, Any] = json.loads(dumps(dict(self.config), default=str))
        return plain
