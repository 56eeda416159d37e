"""The JSON of answers, for OpenAPI: `clipsearch.search.answer` makes it, and this describes it.

Fields that a later version adds do not break a program that ignores what it does not know.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_HIT: dict[str, Any] = {
    "rank": 1,
    "id": "beach/0001.jpg",
    "score": 1.2832,
    "bm25": 9.714,
    "cosine": 0.3118,
    "captions": ["two dogs on a beach"],
    "highlights": [[[0, 3], [4, 8], [14, 19]]],
    "path": "beach/0001.jpg",
    "image": "/v1/images/beach%2F0001.jpg/file",
    "tags": {"class": "beach", "split": "train"},
    "numbers": {"year": 2012},
}


class Shape(BaseModel):
    """What has the fields below, and may have more in a later version."""

    model_config = ConfigDict(extra="allow")


class CropShape(Shape):
    """A part of an upright image, in whole pixels from its upper left."""

    x: int
    y: int
    width: int
    height: int


class AskedPart(Shape):
    """One part of a question; `value` is null for uploads and vectors."""

    kind: str
    value: str | None
    weight: float
    crop: CropShape | None = None


class AskedShape(Shape):
    """What was asked."""

    text: str | None
    parts: list[AskedPart]
    mode: str | None = Field(description="Null of a list.")


class TermShape(Shape):
    """What a word or phrase of the question is worth in a hit."""

    word: str = Field("", description="As it was typed; a phrase in quotation marks.")
    term: str = Field(description="A stem, or stems in quotation marks.")
    documents: int = Field(description="That hold it; of a phrase, its rarest word.")
    idf: float
    frequency: int = Field(description="How often the captions of the hit have it.")
    share: float = Field(description="Of the hit's bm25.")


class ExplanationShape(Shape):
    """Why a hit has its score."""

    terms: list[TermShape]
    length_part: float | None
    bm25_weight: float | None
    vector_weight: float | None
    rank_by_words: int | None
    rank_by_image: int | None


class HitShape(Shape):
    """One image found."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_HIT]})

    rank: int = Field(description="From 1 at the very first hit, whatever the page is.")
    id: str
    score: float = Field(description="What hits are ordered by, descending.")
    bm25: float | None = Field(description="The part of the words; null where the mode has none.")
    cosine: float | None = Field(description="The part of the vector; null where there is none.")
    more: int = Field(0, description="Collapsed: how many others look like this one.")
    captions: list[str]
    highlights: list[list[list[int]]] = Field(
        description="For each caption, [start, end] of each word that matches, in characters."
    )
    explanation: ExplanationShape | None = Field(None, description="With `explain` alone.")
    path: str = Field(description="As the manifest gave it.")
    image: str | None = Field(description="Address of the file; null where it is not here.")
    width: int | None = Field(None, description="Upright, in pixels; with `sizes` alone.")
    height: int | None = Field(None, description="Upright, in pixels; with `sizes` alone.")
    tags: dict[str, str]
    numbers: dict[str, float]


class FacetValue(Shape):
    """A value of a tag, and how many matches have it."""

    value: str
    count: int


class WordShape(Shape):
    """A word of the index, and the documents whose captions hold it."""

    word: str
    documents: int


class WordsShape(Shape):
    """Words that go on with what is typed, the most frequent first."""

    words: list[WordShape]


class CorrectionShape(Shape):
    """A word of the question that no caption has, and words that are spelled alike."""

    word: str
    suggestions: list[WordShape]


class AnswerShape(Shape):
    """A page of hits: the same JSON as `clipsearch query --json`."""

    query: AskedShape
    total: int = Field(description="All matches; for `vector`, all that pass the filters.")
    at_least: bool = Field(description="Whether more may be beyond a cut-off than `total` counts.")
    candidates: int | None = Field(description="For `vector`, how many of the nearest were ranked.")
    offset: int = Field(description="Hits before this page.")
    k: int
    seconds: float = Field(description="In the engine.")
    hits: list[HitShape]
    facets: dict[str, list[FacetValue]]
    corrections: list[CorrectionShape] = Field(description="Of words that no caption has.")
    notes: list[str] = Field(description="Sentences for people.")
    partial: str | None = Field(description="Why the answer may be incomplete; null if it is not.")


class FacetsShape(Shape):
    """Values of tags over all images that pass filters, most frequent first."""

    total: int
    facets: dict[str, list[FacetValue]]
    partial: str | None = Field(description="Why counts may be too low; null if they are not.")


class DocumentShape(Shape):
    """All that an index holds of an image."""

    id: str
    captions: list[str]
    path: str
    image: str | None
    width: int | None = None
    height: int | None = None
    media_type: str | None = None
    tags: dict[str, str]
    numbers: dict[str, float]
    data_set: str | None = None
    embedding: list[float] | None = None


class PeakShape(Shape):
    """The point that answers most strongly, in pixels."""

    x: float
    y: float
    cosine: float


class FoundBoxShape(CropShape):
    """A part that answers."""

    cosine: float


class HeatMapShape(Shape):
    """How strongly each part of an image answers: `clipsearch locate --json`."""

    method: str
    width: int
    height: int
    grid: list[list[float]] = Field(description="Cosines of cells, by rows from the upper left.")
    peak: PeakShape
    boxes: list[FoundBoxShape]
    notes: list[str]


class EmbeddingShape(Shape):
    """The vector of a question, of length 1."""

    dimension: int
    encoder: str | None = Field(description="Fingerprint of the encoder that made the index.")
    embedding: list[float]


class WordShareShape(Shape):
    """How hybrid joins words and vector where a question brings no weights."""

    weight: float
    images: int
    apart: float | None = Field(
        None, description="How far cosines of captions with their own image lie above others'."
    )


class ReorderShape(Shape):
    """Weights of the z-scores of words and vector."""

    bm25: float
    vector: float


class IndexShape(Shape):
    """What a program must know of the index to ask it."""

    count: int
    dimension: int
    language: str
    encoder_name: str | None = Field(description="Null where vectors came ready-made.")
    encoder_fingerprint: str | None
    has_encoder: bool = Field(description="Whether texts and images can be embedded here.")
    engine: str = Field(description="`local` or `vespa`.")
    modes: list[str]
    default_mode: str = Field(description="Of a text that names none.")
    text_mode: str | None = Field(description="Of a text, as calibrated; null: hybrid.")
    bm25_weight: float
    vector_weight: float
    rrf_k: int
    word_share: WordShareShape | None = Field(description="In place of the weights, as learned.")
    reorder: ReorderShape | None = Field(description="Of the first hits of hybrid, as learned.")
    precision: str
    index_id: str
    tag_columns: list[str]
    number_columns: list[str]
    date_columns: list[str]
    data_sets: list[str]
    version: str
    limits: dict[str, int]


class HealthShape(Shape):
    """Alive."""

    status: str


class ReadyShape(Shape):
    """Ready, or why not."""

    ready: bool
    reason: str | None
    documents: int


class ProblemShape(Shape):
    """An error (RFC 9457); `type` ends in the name of its kind."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:clipsearch:problem:UsageError",
                    "title": "Bad Request",
                    "status": 400,
                    "detail": "cannot filter by 'clas': the index has class, split;"
                    " did you mean class?",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return these answers as OpenAPI has them."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _WHEN[status], "content": content} for status in statuses}


_WHEN = {
    400: "What is asked cannot work.",
    401: "The token is missing or another one.",
    403: "This service changes nothing, or the token lets one read alone.",
    404: "No such document, or its image is not on this machine.",
    405: "Not with this method.",
    408: "The request did not come in time.",
    409: "The index's encoder is not there, or another one.",
    413: "Larger than the service takes.",
    415: "Neither JSON nor a form.",
    422: "A value does not fit, or an upload is no image.",
    502: "Vespa refuses the service.",
    503: "Too much at once, or the engine does not answer; try again.",
}
