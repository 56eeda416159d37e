"""The stages of a feed, so that decoding, encoding and writing happen at the same time.

    records ──> decode (worker processes) ──> encode (threads) ──> engine.feed (the caller)

Each arrow is a bounded queue: a slow stage holds back the ones before it. An exception in any
stage reaches the caller, and a caller that stops (Ctrl-C, full disk) ends every stage.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import EllipsisType

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, Embedding
from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.ledger.entry import Entry
from clipsearch.operations import Operation, Upsert, UpsertMany
from finetune.images.decode import Decoded
from finetune.images.decode_workers import decode_ahead
from finetune.images.perceptual_hash import perceptual_hash
from finetune.images.source import ImageSource


@dataclass(frozen=True, slots=True)
class Step:
    """An operation for the engine, and what the ledger remembers once it is acknowledged.

    Attributes:
        note: What a user should know of how the image was read; None for most.
        reused: Whether the embedding came out of the index.
        known: What the ledger knew of the document; ... where it was not asked.
        place: Of the record among all of the manifest; None where nobody needs it.
    """

    operation: Operation
    entry: Entry
    note: str | None = None
    reused: bool = False
    known: Entry | EllipsisType | None = ...
    place: int | None = None


@dataclass(frozen=True, slots=True)
class StepMany:
    """New documents of ready-made vectors, and what the ledger remembers of them.

    Attributes:
        operation: That puts them.
        fields: Of each, the hash of the ledger's entry, as bytes.
        contents: Of each, the sha256 of its vector as the manifest gives it.
        places: Of their records among all of the manifest.
    """

    operation: UpsertMany
    fields: Sequence[bytes]
    contents: Sequence[bytes]
    places: npt.NDArray[np.intp]

    def steps(self) -> Iterator[Step]:
        """Yield a step for each document."""
        for document, fields, content, place in zip(
            self.operation.documents, self.fields, self.contents, self.places.tolist(), strict=True
        ):
            entry = Entry(document.id, "", content.hex(), "", fields.hex(), document.data_set)
            yield Step(Upsert(document), entry, known=None, place=place)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that no operation can be made of."""

    id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """A document that still needs its embedding, and the entry that still needs its content.

    Attributes:
        blanked: Whether the record has characters that no index can hold.
        place: Of the record among all of the manifest; None where nobody needs it.
    """

    document: Document
    entry: Entry
    blanked: bool = False
    place: int | None = None


def encode(
    images: Iterable[tuple[PlannedImage, ImageSource]],
    encoder: Encoder,
    *,
    workers: int | None,
    batch_size: int,
    threads: int = 1,
    device: str = "cpu",
) -> Generator[Step | Rejection, None, None]:
    """Decode in `workers` processes, encode in `threads` threads; in the order given.

    Args:
        images: What to encode, and where it lies.
        encoder: Computes in the threads that call it: with several of them, load it with one
            thread of its own. Threads that share a batch wait for each other in every layer,
            and for the one whose core a decoding worker has taken; threads with a batch of
            their own never do.
        workers: See decode_ahead.
        batch_size: Images that are encoded at once, by all threads together.
        threads: As many as cores, where the encoder runs on the CPU. On a GPU two: one's images are
            on their way while the other's are encoded.
        device: Where the encoder runs.
    """
    decoded = decode_ahead(
        images, encoder.preprocessing, workers=workers, ahead=4 * batch_size, device=device
    )
    share = max(1, batch_size // threads)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clipsearch-tower")
    encoding: deque[Future[list[Step]]] = deque()
    batch: list[tuple[PlannedImage, Decoded]] = []
    try:
        for image, read in decoded:
            if read.pixels is None:
                reason = read.error or "cannot be read"
                yield Rejection(image.document.id, "unreadable image", reason)
                continue
            batch.append((image, read))
            if len(batch) == share:
                encoding.append(pool.submit(_encode_batch, batch, encoder))
                batch = []
            # One waits beside those that run, so that no thread is ever out of work.
            while encoding and (len(encoding) > threads or encoding[0].done()):
                yield from encoding.popleft().result()
        if batch:
            encoding.append(pool.submit(_encode_batch, batch, encoder))
        while encoding:
            yield from encoding.popleft().result()
    finally:
        decoded.close()
        pool.shutdown(cancel_futures=True)


def _encode_batch(batch: list[tuple[PlannedImage, Decoded]], encoder: Encoder) -> list[Step]:
    pixels = np.stack([read.pixels for _, read in batch if read.pixels is not None])
    embeddings = encoder.encode_pixels(pixels)
    return [
        replace(
            upsert_step(image, embedding, read.sha256 or "", look=perceptual_hash(read.pixels)),
            note=read.note,
        )
        for (image, read), embedding in zip(batch, embeddings, strict=True)
        if read.pixels is not None
    ]


def upsert_step(
    image: PlannedImage,
    embedding: Embedding,
    content: str,
    known: Entry | EllipsisType | None = ...,
    *,
    look: str = "",
) -> Step:
    """Return the image with its embedding (float32[d]) and the sha256 of its content.

    `known` as in `Step`. Without a `look` the content is it.
    """
    # Field by field: it is done for every document, and `replace` takes three times as long.
    made, entry = image.document, image.entry
    document = Document(
        made.id,
        made.captions,
        made.path,
        made.tags,
        made.numbers,
        embedding,
        made.data_set,
        content,
        look or content,
    )
    entry = Entry(
        entry.id, entry.stamp, content, entry.encoder, entry.fields, entry.data_set, entry.size
    )
    return Step(Upsert(document), entry, known=known, place=image.place)
