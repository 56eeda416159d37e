"""The index that a feed writes to: opened, or made at the first feed, with the right encoder."""

import os
import uuid
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Self

from clipsearch.encoder.encoder import Encoder, encoding_device
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import create_engine, index_exists, is_remote, open_engine
from clipsearch.feed.columns import MetadataColumns
from clipsearch.hub.fetching import default_encoder, encoder_folder
from clipsearch.text import LANGUAGES
from finetune.encoder_folder import EncoderDescription, read_description
from finetune.errors import EncoderError, EncoderMismatchError, EngineError, UsageError
from finetune.towers import FP32

DEFAULT_LANGUAGE = "en"
READY_MADE = "ready-made vectors"


class FeedTarget:
    """An index, open or still to be made, and the encoder whose vectors it takes.

    A context manager. Without an encoder the index takes ready-made vectors.
    """

    def __init__(
        self,
        index: str,
        engine: Engine | None,
        encoder: Path | None,
        description: EncoderDescription | None,
        language: str,
        device: str,
        precision: str,
        takes_vectors: bool = False,
    ) -> None:
        """See `open`, which checks all this."""
        self._index = index
        self._engine = engine
        self._folder = encoder
        self._description = description
        self._language = language
        self._device = device
        self._precision = precision
        self._takes_vectors = takes_vectors or description is None
        self._encoder: Encoder | None = None

    @classmethod
    def open(
        cls,
        index: str,
        encoder: str | Path | None,
        language: str | None = None,
        device: str = "cpu",
        precision: str = FP32,
        *,
        takes_vectors: bool = False,
    ) -> "FeedTarget":
        """Open `index` where there is one; nothing is made yet where there is none.

        With `takes_vectors` the encoder is only named: it has made the manifest's own vectors.

        The caller holds its `feed_lock`, so that it stays as it was found.

        Raises UsageError for a language that is unknown or not the index's, EncoderError for a
        folder that is no encoder, EncoderMismatchError where the index holds other vectors.
        """
        if language is not None and language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise UsageError(f"--language {language}: unknown; there are: {known}")
        engine = open_engine(index) if index_exists(index) else None
        try:
            if engine is not None and language not in (None, engine.info.language):
                raise UsageError(
                    f"--language {language}: {index} cuts words in {engine.info.language!r};"
                    f" another language needs a new index"
                )
            folder = _encoder_of(engine) if encoder is None else encoder_folder(encoder)
            description = None if folder is None else _description(folder, encoder, index)
            if engine is not None:
                _check_same_encoder(engine, description)
        except BaseException:
            if engine is not None:
                engine.close()
            raise
        return cls(
            index, engine, folder, description, language or DEFAULT_LANGUAGE, device, precision,
            takes_vectors,
        )  # fmt: skip

    @property
    def index(self) -> str:
        """The index, as it was named."""
        return self._index

    @property
    def engine(self) -> Engine:
        """The index; there is one after `settle` at the latest."""
        if self._engine is None:
            raise EngineError(f"{self._index}: there is no such index yet")
        return self._engine

    @property
    def device(self) -> str:
        """Where the encoder runs: the device that "auto" means for it."""
        return encoding_device(self._folder, self._device)

    @property
    def is_new(self) -> bool:
        """Whether nothing is there yet: an encoder may still be chosen."""
        return self._engine is None or self._engine.count() == 0

    @property
    def encoder_place(self) -> str:
        """Where the encoder lies, absolute; empty for ready-made vectors."""
        return "" if self._folder is None else os.fspath(self._folder.absolute())

    @property
    def fingerprint(self) -> str:
        """Of the encoder that encodes; empty for ready-made vectors."""
        return "" if self._takes_vectors else self._named_fingerprint

    @property
    def made_by(self) -> str:
        """Fingerprint of the encoder that made the ready-made vectors; empty where none is said."""
        return self._named_fingerprint if self._takes_vectors else ""

    @property
    def _named_fingerprint(self) -> str:
        return "" if self._description is None else self._description.fingerprint

    def take_default_encoder(self) -> None:
        """Take the default encoder for an embedded index that is still to be made without one.

        Raises HubError where it must be fetched first and cannot be.
        """
        if self._engine is None and self._folder is None and not is_remote(self._index):
            self._folder = default_encoder()
            self._description = read_description(self._folder)
            self._takes_vectors = False

    @property
    def columns(self) -> MetadataColumns:
        """What the index remembers; nothing where it is new."""
        if self._engine is None:
            return MetadataColumns(frozenset(), frozenset())
        info = self._engine.info
        return MetadataColumns(
            frozenset(info.number_columns),
            frozenset(info.tag_columns),
            dates=frozenset(info.date_columns),
        )

    def load_encoder(self) -> Encoder:
        """Return the encoder, loaded once and checked against its fingerprint.

        A call of it keeps one core busy: a feed makes as many calls at once as there are cores.
        """
        if self._folder is None:
            raise EncoderError(f"{self._index}: takes ready-made vectors and has no encoder")
        if self._encoder is None:
            self._encoder = Encoder.load(
                self._folder, device=self.device, threads=1, precision=self._precision
            )
        return self._encoder

    def settle(
        self, columns: MetadataColumns, images_root: str | None, vector_size: int | None
    ) -> bool:
        """Write what the index is to know about itself, making it where there is none.

        Args:
            columns: With those of the manifest.
            images_root: Folder from which the manifest's relative paths are meant.
            vector_size: Values in a ready-made vector; None with an encoder.

        Returns whether the index goes on resolving relative paths from another folder, so that
        this manifest's documents need absolute paths.
        """
        if self._engine is None:
            info = IndexInfo(
                dimension=self._dimension(vector_size),
                language=self._language,
                images_root=images_root,
                index_id=uuid.uuid4().hex,
            )
            if self._folder is not None:
                self.load_encoder()  # a broken encoder must not leave an empty index
            self._engine = create_engine(self._index, self._described(info, columns), locked=True)
            return False
        known = self._engine.info
        if self._dimension(vector_size) != known.dimension:
            raise EngineError(
                f"{self._index}: holds vectors of {known.dimension} values, but these have"
                f" {self._dimension(vector_size)}; feed a new index"
            )
        elsewhere = _still_there(known.images_root) and not _same(known.images_root, images_root)

        def settled(now: IndexInfo) -> IndexInfo:
            return replace(
                self._described(now, columns),
                images_root=known.images_root if elsewhere else images_root,
                index_id=now.index_id or uuid.uuid4().hex,
            )

        self._engine.change_info(settled)
        return elsewhere

    def _dimension(self, vector_size: int | None) -> int:
        if self._description is None:
            return vector_size or 0
        dimension = self._description.dimension
        if vector_size not in (None, dimension):
            raise EncoderMismatchError(
                f"--vectors-of {self._folder}: makes vectors of {dimension} values, but the"
                f" manifest's have {vector_size}; name the encoder that made them"
            )
        return dimension

    def _described(self, info: IndexInfo, columns: MetadataColumns) -> IndexInfo:
        # Another feed may have added columns of its own meanwhile.
        kinds = {
            "number": columns.numbers.union(info.number_columns),
            "tag": columns.tags.union(info.tag_columns),
            "date": columns.dates.union(info.date_columns),
        }
        of_index = {"number": info.number_columns, "tag": info.tag_columns}
        for one, other in combinations(kinds, 2):
            for column in sorted(kinds[one] & kinds[other]):
                made = next((kind for kind, known in of_index.items() if column in known), "date")
                raise EngineError(
                    f"{self._index}: another feed has just made {column} a {made}; run this one"
                    f" again"
                )
        info = replace(
            info,
            number_columns=tuple(sorted(kinds["number"])),
            tag_columns=tuple(sorted(kinds["tag"])),
            date_columns=tuple(sorted(kinds["date"])),
        )
        if self._description is None or self._folder is None:
            return info
        return replace(
            info,
            encoder_fingerprint=self._description.fingerprint,
            encoder_name=self._description.name,
            encoder_path=os.fspath(self._folder.absolute()),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is not None:
            self._engine.close()


def _still_there(folder: str | None) -> bool:
    return folder is not None and Path(folder).is_dir()


def _same(folder: str | None, other: str | None) -> bool:
    """Return whether both are one folder, perhaps through a link."""
    if folder is None or other is None:
        return folder == other
    return os.path.realpath(folder) == os.path.realpath(other)


def _encoder_of(engine: Engine | None) -> Path | None:
    path = None if engine is None else engine.info.encoder_path
    return None if path is None else Path(path)


def _description(folder: Path, asked: str | Path | None, index: str) -> EncoderDescription:
    if asked is None and not folder.is_dir():
        raise EncoderError(
            f"{folder}: the encoder that filled {index} is no longer there;"
            f" name where it lies now with --encoder"
        )
    return read_description(folder)


def _check_same_encoder(engine: Engine, description: EncoderDescription | None) -> None:
    held = engine.info.encoder_fingerprint
    given = None if description is None else description.fingerprint
    if held == given or (held is None and engine.count() == 0):
        return
    mend = "name the encoder that filled it"
    if held is None:
        mend = "leave --encoder out and give such vectors"
    raise EncoderMismatchError(
        f"{engine.target}: was filled by {_named(engine.info.encoder_name, held)}, not by"
        f" {_named(None if description is None else description.name, given)};"
        f" {mend}, or feed a new index"
    )


def _named(name: str | None, fingerprint: str | None) -> str:
    return READY_MADE if fingerprint is None else f"the encoder {name} ({fingerprint[:12]})"
