"""Changes of the index, one at a time: what `clipsearch update` and `delete` do, over HTTP.

Each opens the index for itself, as those commands do, so that searches go on meanwhile. It takes
as long as that: opening, one write, and what the engine does after every feed.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from clipsearch.documents import Document, check_id
from clipsearch.engine import Engine
from clipsearch.engines import open_engine
from clipsearch.feed.by_hand import ChangeByHand, Changes, by_hand, change, first_error
from clipsearch.feed.by_hand_image import ImageByHand, put_image
from clipsearch.feed.removal import delete
from clipsearch.operations import Outcome
from clipsearch.search.finding import find_documents, known_document
from clipsearch.search.search import Search
from clipsearch.server.problems import OverloadedError
from clipsearch.server.settings import ServerSettings
from clipsearch.server.uploaded_files import UploadedFiles
from finetune.errors import EngineError, UsageError
from finetune.images.perceptual_hash import perceptual_hash
from finetune.images.pixels import load_image
from finetune.text.composed import composed

# Others' changes are waited for so long.
_WAIT_SECONDS = 10.0


class Changing:
    """Changes documents of the index that `search()` asks. Safe between threads."""

    def __init__(self, search: Callable[[], Search], settings: ServerSettings) -> None:
        """Raise UsageError where the folder of uploads cannot be made."""
        self._search = search
        self._settings = settings
        self._turn = threading.Lock()
        self.uploads = None if settings.uploads is None else UploadedFiles(settings.uploads)

    def put(self, id: str, changes: Changes, image: bytes | None) -> tuple[str, bool]:
        """Change a document, or make one of an image; its id in the index, and whether it is new.

        Raises DocumentNotFoundError for an unknown id without an image, DocumentError for an id
        that none can have, UsageError for changes that cannot be, ImageError for no image,
        EncoderError where the index's encoder is not there, and EngineError while a feed is
        under way.
        """
        if image is None and changes.is_nothing:
            raise UsageError("nothing to change: give captions, tags, numbers or an image")
        if image is not None and self.uploads is None:
            raise UsageError(
                "this service keeps no images, so that none can be sent to it; start it with"
                " --uploads FOLDER"
            )
        check_id(id)
        with self._in_turn():
            if image is None or self.uploads is None:
                return self._change(id, changes), False
            return self._put_image(id, changes, image, self.uploads)

    def delete(self, id: str) -> None:
        """Remove a document, and its image where that was sent here.

        Raises DocumentNotFoundError for an unknown id, and EngineError while a feed is under way.
        """
        with self._in_turn(), self._by_hand("delete") as hand:
            document = _known(hand.engine, id)
            hand.begin()
            _check(list(delete(hand.engine, hand.ledger, [document.id])), "removed")
        if self.uploads is not None:
            self.uploads.remove(document.id, document.path)

    def _change(self, id: str, changes: Changes) -> str:
        with self._by_hand("update") as hand:
            known = _known(hand.engine, id)
            changes.check(hand.engine.info)
            hand.begin()
            _check(change(hand.engine, [known], changes), "changed")
        return known.id

    def _put_image(
        self, id: str, changes: Changes, data: bytes, uploads: UploadedFiles
    ) -> tuple[str, bool]:
        # Encoded before a feed is kept out, and one after the other: each takes memory.
        encoder = self._search().encoder
        pixels, _ = load_image(data, encoder.preprocessing, name="the image")
        (embedding,) = encoder.encode_pixels(pixels[None])
        with self._by_hand("update") as hand:
            (known,) = find_documents(hand.engine, [id])
            name = composed(id) if known is None else known.id
            changes.check(hand.engine.info)
            image = ImageByHand(
                uploads.keep(name, data),
                uploads.folder,
                embedding,
                hashlib.sha256(data).hexdigest(),
                perceptual_hash(pixels),
            )
            hand.begin()
            index = self._settings.index
            _check([put_image(hand, index, name, known, changes, image)], "changed")
        if known is not None and known.path != str(image.path):
            uploads.remove(name, known.path)
        return name, known is None

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_WAIT_SECONDS):
            raise OverloadedError("too many changes wait for each other; ask again later")
        try:
            yield
            self._search().refresh()
        finally:
            self._turn.release()

    @contextmanager
    def _by_hand(self, work: str) -> Iterator[ChangeByHand]:
        """Open the index to be changed; see `clipsearch.feed.by_hand`."""
        index = self._settings.index
        engine = open_engine(index)
        try:
            with by_hand(engine, index, self._settings.ledger, work) as hand:
                yield hand
        finally:
            engine.close()


def _known(engine: Engine, id: str) -> Document:
    (found,) = find_documents(engine, [id])
    return known_document(engine, id, found)


def _check(outcomes: Sequence[Outcome], what: str) -> None:
    failure = first_error(outcomes, what)
    if failure is not None:
        raise EngineError(failure)
