"""What all handlers share: the open index, its images, the threads they work in, and the counts."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import anyio
import anyio.to_thread

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import is_remote, open_engine
from clipsearch.search.finding import known_document
from clipsearch.search.index_encoder import load_encoder
from clipsearch.search.search import Search
from clipsearch.server.batching import BatchingEncoder
from clipsearch.server.bounded_engine import BoundedEngine
from clipsearch.server.changing import Changing
from clipsearch.server.image_files import ImageFiles
from clipsearch.server.metrics import Metrics
from clipsearch.server.places import without_places
from clipsearch.server.remembered_answers import RememberedAnswers
from clipsearch.server.served_index import ServedIndex
from clipsearch.server.settings import ServerSettings
from clipsearch.server.thumbnails import Thumbnails
from finetune.errors import ClipsearchError, EngineError

# How often it is looked whether a feed has given the index other columns, or another encoder.
REFRESH_SECONDS = 2.0
REFRESH_REMOTE_SECONDS = 15.0
_COUNTED_FOR_SECONDS = 5.0
_THREADS_APART = 4
THUMBNAILS = "thumbnails"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether questions can be answered; `reason` says in a sentence why not."""

    reason: str | None
    documents: int = 0


class Service:
    """A running service. A context manager."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the index; the encoder is loaded beside it. Raises EngineError, EncoderError."""
        settings.check()
        limits = settings.limits
        self.settings = settings
        self.metrics = Metrics()
        self._index = ServedIndex(settings.index, self._open)
        uploads = [] if settings.uploads is None else [settings.uploads]
        self.files = ImageFiles(lambda: self.search.info, (*settings.images, *uploads))
        self.changing = Changing(lambda: self.search, settings)
        self.thumbnails = Thumbnails(
            settings.cache / THUMBNAILS, limits.thumbnail_bytes, self.metrics
        )
        self.answers = RememberedAnswers(limits.answer_bytes)
        self._threads = anyio.CapacityLimiter(limits.threads)
        # Who looks after the service is answered while all of these are at work.
        self._threads_apart = anyio.CapacityLimiter(_THREADS_APART)
        self._encoder_failure: str | None = None
        self._is_loading = False
        self._encoder_loaded = threading.Event()
        self._counted: tuple[float, int] | None = None
        self._closed = threading.Event()

    @property
    def search(self) -> Search:
        """The index; another one once its name leads to another."""
        return self._index.search

    def load(self) -> None:
        """Begin to load the encoder, unless that has begun."""
        if not self._is_loading:
            self._is_loading = True
            threading.Thread(target=self._warm, name="clipsearch-warm", daemon=True).start()

    def start(self) -> None:
        """Load the encoder, and from now on follow what feeds do to the index."""
        self.load()
        threading.Thread(target=self._follow, name="clipsearch-follow", daemon=True).start()

    def close(self) -> None:
        """Close the index."""
        self._closed.set()
        self._index.close()

    async def run(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Do blocking work in one of the service's threads."""
        return await anyio.to_thread.run_sync(
            lambda: work(*arguments, **options), limiter=self._threads, abandon_on_cancel=True
        )

    async def run_apart(self, work: Callable[[], T]) -> T:
        """Do blocking work that must not wait for the others'."""
        return await anyio.to_thread.run_sync(
            work, limiter=self._threads_apart, abandon_on_cancel=True
        )

    def document(self, id: str, *, embeddings: bool = False) -> Document:
        """Return a document. Raises DocumentNotFoundError for an unknown id."""
        (found,) = self.search.get([id], embeddings=embeddings)
        return known_document(self.search.engine, id, found)

    def documents(self) -> int:
        """Return the number of documents, which is counted anew every few seconds.

        Where the engine cannot count, as a Vespa that answers in part, the last number there was:
        questions may be answered all the same. Raises EngineError where there was none.
        """
        try:
            return self._documents()
        except EngineError:
            if self._counted is None:
                raise
            return self._counted[1]

    def _documents(self) -> int:
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] > _COUNTED_FOR_SECONDS:
            self._counted = (now, self.search.count())
        return self._counted[1]

    def recount(self) -> None:
        """Count the documents anew when next asked for."""
        self._counted = None

    def readiness(self) -> Readiness:
        """Say whether index and encoder are there."""
        try:
            documents = self._documents()
        except ClipsearchError as error:
            return Readiness(self.told(str(error)))
        if not self._encoder_loaded.is_set():
            return Readiness("the encoder is being loaded", documents)
        failure = self._encoder_failure
        return Readiness(None if failure is None else self.told(failure), documents)

    def told(self, text: str) -> str:
        """Return a sentence as clients are told it: without where things lie on this machine."""
        settings, search = self.settings, self.search
        places = (settings.index, search.engine.target, settings.encoder, settings.uploads)
        known = (search.info.encoder_path, search.info.images_root)
        others = (settings.cache, settings.ledger, *settings.images)
        return without_places(text, (*places, *known, *others))

    def address_of(self, id: str, what: str = "") -> str:
        """Return the address of a document, or of what there is of it, as browsers see it."""
        return f"{self.settings.root_path}/{below_root(id, what)}"

    def image_json(self, document: Document, *, sizes: bool) -> dict[str, Any]:
        """Say where the image of a document can be had, and with `sizes` how large it is."""
        file = self.files.find(document)
        found: dict[str, Any] = {
            "image": None if file is None else self.address_of(document.id, "/file")
        }
        if sizes:
            shape = None if file is None else self.files.shape(file)
            found["width"] = None if shape is None else shape.width
            found["height"] = None if shape is None else shape.height
        return found

    def _open(self, place: str) -> Search:
        limits = self.settings.limits
        engine = BoundedEngine(open_engine(place), limits.engine_searches, self.metrics)
        try:
            return Search(
                cast(Engine, engine),
                encoder=self.settings.encoder,
                device=self.settings.device,
                load=self._load_encoder,
                texts_remembered=limits.texts_remembered,
            )
        except BaseException:
            engine.close()
            raise

    def _load_encoder(
        self, target: str, info: IndexInfo, folder: Path | None, device: str
    ) -> Encoder:
        loaded = load_encoder(target, info, folder, device)
        return BatchingEncoder(loaded, self.metrics, self.settings.limits.queued_texts)

    def _warm(self) -> None:
        """Load the encoder before the first question needs it."""
        try:
            if self.search.has_encoder:
                self.search.encoder.encode_texts(["warm"])
        except ClipsearchError as error:
            self._encoder_failure = str(error)
        finally:
            self._encoder_loaded.set()

    def _follow(self) -> None:
        remote = is_remote(self.settings.index)
        while not self._closed.wait(REFRESH_REMOTE_SECONDS if remote else REFRESH_SECONDS):
            with suppress(EngineError):  # a Vespa that does not answer says so to who asks it
                if self._index.follow():
                    self._encoder_failure = None
                    self.recount()


def below_root(id: str, what: str = "") -> str:
    """Return the address of a document, or of what there is of it, from the service's own root."""
    return f"v1/images/{quote(id, safe='', errors='surrogatepass')}{what}"
