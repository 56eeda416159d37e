"""A document whose image is given by hand: made anew, or with another image than before."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from clipsearch.documents import Document, Embedding
from clipsearch.feed.by_hand import ChangeByHand, Changes, add_columns
from clipsearch.feed.data_sets import ManifestPlace, settle_place
from clipsearch.feed.ledger.entry import Entry, hash_of_fields
from clipsearch.operations import Outcome, Upsert

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ImageByHand:
    """An image, encoded.

    Attributes:
        path: Where it lies.
        folder: Of all that come so: documents of it are a data set of their own.
        embedding: float32[d], unit length.
        content: sha256 of its bytes, in hex.
        look: Its perceptual hash.
    """

    path: Path
    folder: Path
    embedding: Embedding
    content: str
    look: str


def put_image(
    hand: ChangeByHand,
    index: str,
    id: str,
    known: Document | None,
    changes: Changes,
    image: ImageByHand,
) -> Outcome:
    """Write a document whole; `hand` has begun, and `known` is what the index has of this id.

    A document that came from a manifest stays of that data set, and the ledger forgets what it was
    made from: the next feed of the manifest gives it the manifest's image again. A new one is of
    the data set of `image.folder`, which no other manifest's feed touches.
    """
    engine, ledger = hand.engine, hand.ledger
    add_columns(engine, changes)
    own = settle_place(engine, ledger, ManifestPlace.of(image.folder, index))
    before = Document(id, data_set=own.name) if known is None else known
    document = replace(
        before,
        captions=before.captions if changes.captions is None else changes.captions,
        tags=_present({**before.tags, **changes.tags}),
        numbers=_present({**before.numbers, **changes.numbers, **changes.dates(engine.info)}),
        path=str(image.path),
        embedding=image.embedding,
        content=image.content,
        look=image.look,
    )
    # Before it is written: stopped in between, the ledger must not claim the image that was there.
    ledger.doubt([id])
    (outcome,) = engine.feed([Upsert(document)])
    if outcome.error is None and document.data_set == own.name and hand.is_about_the_index:
        fingerprint = engine.info.encoder_fingerprint or ""
        fields = hash_of_fields(document)
        ledger.put(Entry(id, "", image.content, fingerprint, fields, own.name))
    return outcome


def _present(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}
