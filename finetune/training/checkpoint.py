"""The working folder beside the output: checkpoints that survive kill -9 and a full disk.

A checkpoint is complete or absent: it is written under another name, flushed to the disk and
then renamed. Weights that are kept lie in files of their own, named by their step, which are
written before the checkpoint that refers to them and removed after the one that no longer does.
"""

import contextlib
import errno
import json
import pickle
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch

from finetune.config.resuming import differences
from finetune.encoder_folder import CHANGES_IMAGE, CHANGES_PAGE, HISTORY_FILE
from finetune.errors import TrainingError, UsageError
from finetune.files.atomic import PARTIAL, replacing, write_text_atomically
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.ownership import FolderKind, claim, is_mark, look, read_mark, refusal, remove
from finetune.text.strict_json import dumps

RUN_FILE = "run.json"
CHECKPOINT_FILE = "checkpoint.pt"
REPORT_FILE = "rejected.csv"
PIXELS_FILE = "pixels.uint8"
BASELINE_FILE = "baseline.npz"
LOCK_FILE = "lock"
FORMAT_VERSION = 2
WRITTEN = (
    RUN_FILE, CHECKPOINT_FILE, HISTORY_FILE, REPORT_FILE, PIXELS_FILE, BASELINE_FILE, LOCK_FILE,
    "best-[0-9]*.pt", "loss.png", "learning-rate.png", "retrieval.png", "ranks.png",
    "similarity.png", CHANGES_PAGE, CHANGES_IMAGE,
)  # fmt: skip
TRAINING_FOLDER = FolderKind("training folder", (*WRITTEN, *(name + PARTIAL for name in WRITTEN)))
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

State = dict[str, Any]


class WorkFolder:
    """`<out>.training`, held by one process at a time.

    A context manager: leaving it frees the folder for the next run, and where an error came
    before the first checkpoint, nothing is left of it.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> Self:
        """Make the folder, or take up an interrupted run's.

        Args:
            path: Of the folder.
            settings: Of the run, with absolute paths, as JSON holds them.
            restart: Whether an interrupted run is thrown away.

        Raises UsageError where the folder is not ours, another process trains in it, or the
        interrupted run had other options.
        """
        lock = _held(path)
        folder = cls(path, lock)
        try:
            folder._take_up(settings, restart)
        except OSError as error:
            lock.close()
            if error.errno in NO_ROOM:
                raise _no_room(path, error) from error
            raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
        except BaseException:
            lock.close()
            raise
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.checkpoint.exists():
            self.remove()
        self._lock.close()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise _no_room(self.path, error) from error

    @property
    def checkpoint(self) -> Path:
        """The last good checkpoint, where there is one."""
        return self.path / CHECKPOINT_FILE

    @property
    def history(self) -> Path:
        """history.csv while training goes on."""
        return self.path / HISTORY_FILE

    @property
    def report(self) -> Path:
        """What was left out, and why."""
        return self.path / REPORT_FILE

    @property
    def baseline(self) -> Path:
        """Ranks before training."""
        return self.path / BASELINE_FILE

    @property
    def pixels(self) -> Path:
        """Decoded images that did not fit in memory."""
        return self.path / PIXELS_FILE

    def weights(self, step: int) -> Path:
        """Return the file of the weights that were kept at the step."""
        return self.path / f"best-{step}.pt"

    def save_weights(self, step: int, weights: State) -> None:
        """Write the weights of a step; a later checkpoint says whether they are kept.

        Raises TrainingError where they cannot be written, such as on a full disk.
        """
        try:
            save_atomically(self.weights(step), weights)
        except OSError as error:
            raise self._not_written(f"the weights of step {step:,}", error) from error

    def load_weights(self, step: int) -> State:
        """Return what `save_weights` wrote. Raises TrainingError where it is damaged."""
        return _load(self.weights(step))

    def save(self, state: State, kept: Collection[int]) -> None:
        """Write a checkpoint; the one before stays whole until the new one is.

        Args:
            state: The checkpoint's content.
            kept: Steps whose weights are kept; other weights' files go.

        Raises TrainingError where it cannot be written, such as on a full disk.
        """
        try:
            save_atomically(self.checkpoint, {"format_version": FORMAT_VERSION, **state})
        except OSError as error:
            raise self._not_written(f"the checkpoint of step {state['step']:,}", error) from error
        needed = {self.weights(step) for step in kept}
        for file in self.path.glob("best-*.pt"):
            if file not in needed and file.stem.removeprefix("best-").isdecimal():
                file.unlink()

    def _not_written(self, what: str, error: OSError) -> TrainingError:
        kept = (
            f"the last good checkpoint, {self.checkpoint}, is kept"
            if self.checkpoint.exists()
            else "there is no earlier checkpoint"
        )
        return TrainingError(
            f"{what} cannot be written ({error.strerror or error}); {kept}: make room in"
            f" {self.path.parent} and run the same command again"
        )

    def load(self) -> State | None:
        """Return the last checkpoint; None where the run was killed before the first one.

        Raises TrainingError where it is damaged.
        """
        if not self.checkpoint.exists():
            return None
        state = _load(self.checkpoint)
        if state.get("format_version") != FORMAT_VERSION:
            raise TrainingError(
                f"{self.checkpoint}: was written by another version of clipsearch;"
                f" finish with that one, or start anew with --restart"
            )
        for step in state["kept"]:
            if not self.weights(step).is_file():
                raise _damaged(self.weights(step))
        return state

    def remove(self) -> None:
        """Delete the folder, but for what others put there: all is in the encoder folder."""
        with contextlib.suppress(OSError):
            remove(self.path, look(self.path, TRAINING_FOLDER).ours)

    def _take_up(self, settings: Mapping[str, Any], restart: bool) -> None:
        run = self.path / RUN_FILE
        if self.checkpoint.exists() and not restart:
            try:
                changed = differences(settings, json.loads(run.read_text(encoding="utf-8")))
            except (OSError, ValueError, AttributeError) as error:
                raise TrainingError(
                    f"{run}: cannot be read, so its run cannot be continued;"
                    f" start anew with --restart"
                ) from error
            if changed:
                raise UsageError(
                    f"{self.path} holds an interrupted run with other options:"
                    f" {', '.join(changed)}; give the same ones to continue it,"
                    f" or start anew with --restart"
                )
        else:
            self._clear()
        for partial in self.path.glob("*" + PARTIAL):
            if TRAINING_FOLDER.writes(partial.name):
                partial.unlink()
        write_text_atomically(run, dumps(settings, indent=2, ensure_ascii=True) + "\n")

    def _clear(self) -> None:
        held = look(self.path, TRAINING_FOLDER)
        if held.others:
            raise UsageError(
                f"{self.path} is where checkpoints go, but {refusal(held.others)},"
                f" or give another --out"
            )
        # The checkpoint goes first: what is left without it counts for nothing.
        self.checkpoint.unlink(missing_ok=True)
        for name in held.ours:
            if name != LOCK_FILE:
                (self.path / name).unlink(missing_ok=True)


def _held(path: Path) -> IO[bytes]:
    """Return the lock of the folder, which is made where it is missing."""
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not _is_ours(path):
                raise UsageError(
                    f"{path} is where checkpoints go, but it holds other files; give another --out"
                )
            if read_mark(path) is None:
                claim(path, TRAINING_FOLDER)
            return hold(path / LOCK_FILE, "training")
        except HeldElsewhereError as error:
            raise UsageError(
                f"another process is training in {path}; wait for it, or give another --out"
            ) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.is_dir():
                continue  # the run that held it has just ended, and removed the folder
            raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _is_ours(path: Path) -> bool:
    """Return whether the folder is empty, or one that training made: by its mark, or by run.json.

    A kill before that was written leaves an empty lock.
    """
    mark = read_mark(path)
    if mark is not None:
        return mark.kind == TRAINING_FOLDER.name
    names = {entry.name for entry in path.iterdir() if not is_mark(entry.name)}
    if names <= {LOCK_FILE}:
        return not names or (path / LOCK_FILE).stat().st_size == 0
    try:
        asked = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        return isinstance(asked, dict) and {"manifest", "model", "out", "epochs"} <= asked.keys()
    except (OSError, ValueError):
        return False


def save_atomically(path: Path, content: State) -> None:
    """Save with torch.save such that `path` holds either its old content or the new, whatever
    happens.

    Raises OSError.
    """
    with replacing(path, path.with_name(path.name + PARTIAL)) as file:
        _save(content, file)


def _save(content: State, file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch's writer complains about its own position after the disk refused.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _load(path: Path) -> State:
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingError(
            f"{path}: holds more than a run's state (a program, perhaps), or is damaged, so the run"
            f" cannot be continued; start anew with --restart"
        ) from error
    except Exception as error:  # those of a pickle that is damaged are many
        raise _damaged(path) from error
    return state


def _no_room(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{path}: cannot be written ({error.strerror or error}); make room and run the same"
        f" command again to continue at the last checkpoint"
    )


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        f"{path}: is damaged or missing, so the run cannot be continued; start anew with --restart"
    )


def random_states() -> State:
    """Return the states of all random number generators.

    torch.load reads them without pickle.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: State) -> None:
    """Set all random number generators to what `random_states` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
