"""Back-translations on disk. Imports without torch."""

import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune.databases import foreign_database
from finetune.errors import TrainingError

CACHE_FILE = "back-translations.sqlite"
LOOKED_UP_AT_ONCE = 500


class TranslationCache:
    """Round trips on disk, by models and text; a context manager.

    Several processes may use one file at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._storage_errors():
            if reason := foreign_database(path, ("round_trips",)):
                raise OSError(reason)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute(
                "create table if not exists round_trips"
                " (models text, caption text, translation text, primary key (models, caption))"
                " without rowid"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def get(self, models: str, captions: Sequence[str]) -> dict[str, str]:
        """What came back for those of the captions that are known."""
        known: dict[str, str] = {}
        with self._storage_errors():
            for start in range(0, len(captions), LOOKED_UP_AT_ONCE):
                part = captions[start : start + LOOKED_UP_AT_ONCE]
                marks = ",".join("?" * len(part))
                known.update(
                    self._database.execute(
                        "select caption, translation from round_trips"
                        f" where models = ? and caption in ({marks})",
                        (models, *part),
                    )
                )
        return known

    def put(self, models: str, translations: Mapping[str, str]) -> None:
        """Keep these, for good once this returns."""
        rows = [(models, caption, text) for caption, text in translations.items()]
        with self._storage_errors(), self._database:
            self._database.executemany("insert or replace into round_trips values (?, ?, ?)", rows)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise TrainingError(
                f"{self.path}: the cache of back-translations cannot be read or written"
                f" ({error}); move the file away, or give another with --back-translation-cache"
            ) from error


def default_cache() -> Path:
    """The cache that all runs of this user share."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "clipsearch" / CACHE_FILE
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / caches / "clipsearch" / CACHE_FILE
