"""Documents as Vespa takes them: addresses, and the bodies of puts and updates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from clipsearch.documents import PARTS, Document, Embedding, check_id, look_of
from clipsearch.engine import EmbeddingPrecision
from clipsearch.engines.vespa.caption_words import WORDS, caption_words
from clipsearch.engines.vespa.filter_fields import NUMBER_KEYS, TAG_VALUES, number_keys, tag_values
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.sortable import SORTABLE, sortable
from clipsearch.operations import Update

CLUSTER = "images"
NAMESPACE = "images"
DOCUMENT_TYPE = "image"
INFO_TYPE = "index_info"
INFO_ID = "index"

DATA_SET = "data_set"
LOOK = "look"


@dataclass(frozen=True, slots=True, init=False)
class DerivedFields(Update):
    """Change nothing but fields that follow from others, which filters, orders and groups ask.

    Attributes:
        fields: By name, as Vespa takes them.
    """

    fields: Mapping[str, Json]

    def __init__(self, id: str, fields: Mapping[str, Json]) -> None:
        Update.__init__(self, id)
        object.__setattr__(self, "fields", fields)


def document_path(id_: str, document_type: str = DOCUMENT_TYPE) -> str:
    """Return the /document/v1 path of a document.

    Raises DocumentError for an id that none can have.
    """
    check_id(id_)
    return f"{documents_path(document_type)}/{quote(id_, safe='')}"


def document_name(id_: str, document_type: str = DOCUMENT_TYPE) -> str:
    """Return what Vespa calls a document in its answers."""
    return f"id:{NAMESPACE}:{document_type}::{id_}"


def documents_path(document_type: str = DOCUMENT_TYPE) -> str:
    """Return the /document/v1 path of all documents of a type, for a visit."""
    return f"/document/v1/{NAMESPACE}/{document_type}/docid"


def shown_fields(form: int, *, embeddings: bool) -> tuple[str, ...]:
    """Return the fields that make a document of ours, with the embedding or without.

    The schema has those of `form` (`IndexInfo.document_form`) alone for certain.
    """
    known = _id_and_path_first(name for name, part in PARTS.items() if part.form <= form)
    return (*known, "embedding") if embeddings else known


def hit_fields(form: int) -> tuple[str, ...]:
    """Return the fields that a search asks for.

    The schema has those of `form` for certain.
    """
    return _id_and_path_first(
        name for name, part in PARTS.items() if part.in_hits and part.form <= form
    )


def _id_and_path_first(names: Iterable[str]) -> tuple[str, ...]:
    """Order the fields as the requests were recorded; the order means nothing to Vespa."""
    return ("id", *sorted(names, key="path".__ne__))


def field_set(fields: Sequence[str]) -> str:
    """Return the `fieldSet` parameter."""
    return f"{DOCUMENT_TYPE}:{','.join(fields)}"


def put_fields(
    document: Document, precision: EmbeddingPrecision = "float", *, places: Mapping[str, int]
) -> dict[str, Json]:
    """Return the JSON body of a put.

    The embedding goes as hex: half the bytes, 10–40 % faster to feed.

    Vespa takes hex only in the precision of its field. `places` has a place for each column of
    the numbers (`IndexInfo.column_order`).
    """
    assert document.embedding is not None  # check_document
    return {
        "fields": {
            "id": document.id,
            **_fields(document.parts, places),
            LOOK: look_of(document),
            "embedding": {"values": hex_values(document.embedding, precision)},
        }
    }


def hex_values(embedding: Embedding, precision: EmbeddingPrecision) -> str:
    """Return the values, big-endian: 8 hex digits each as float, 4 as bfloat16 (rounded to even).

    https://docs.vespa.ai/en/reference/schemas/document-json-format.html#tensor-hex-dump
    """
    if precision == "float":
        return embedding.astype(">f4").tobytes().hex()
    # bfloat16 is the upper half of a float. Values are finite: checked before.
    bits = embedding.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(">u2").tobytes().hex()


def update_fields(update: Update, places: Mapping[str, int]) -> dict[str, Json]:
    """Return the JSON body of a partial update: each named part is replaced as a whole.

    What filters look at is replaced with the tags or the numbers that it follows from, in one
    step. `places` has a place for each column of the numbers.
    """
    fields = _fields(update.parts, places)
    if isinstance(update, DerivedFields):
        fields = dict(update.fields)
    return {"fields": {name: {"assign": value} for name, value in fields.items()}}


def _fields(parts: Mapping[str, Any], places: Mapping[str, int]) -> dict[str, Json]:
    """Return the parts as Vespa's fields, and the fields for filters that follow from them."""
    fields = {name: PARTS[name].kind.to_json(value) for name, value in parts.items()}
    if "captions" in parts:
        fields[WORDS] = caption_words(parts["captions"])
    if "tags" in parts:
        fields[TAG_VALUES] = tag_values(parts["tags"])
    if "numbers" in parts:
        fields[NUMBER_KEYS] = number_keys(parts["numbers"], places)
        fields[SORTABLE] = sortable(parts["numbers"])
    return fields
