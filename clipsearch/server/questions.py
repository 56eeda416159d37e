"""Questions as requests bring them, and what `Search` is asked for them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from clipsearch.engine import DEFAULT_CANDIDATES
from clipsearch.filtering import Filter, NumberFilter, TagFilter
from clipsearch.modes import Mode
from clipsearch.search.filters import Filters
from clipsearch.search.limits import MAX_CANDIDATES
from clipsearch.search.options import SIMILAR_MODE, ListOptions, QueryOptions
from clipsearch.search.parts import Part, PartKind, parse_part
from clipsearch.server.problems import RefusedError, reason_of
from clipsearch.server.settings import DEEPEST, MOST_HITS, ServerLimits, ServerSettings
from finetune.errors import ImageError, UsageError
from finetune.images.open import count_pixels
from finetune.images.pixel_box import PixelBox

MOST_PARTS = 32
MOST_FILTERS = 64
MOST_CAPTIONS = 256
MOST_COLUMNS = 256
LONGEST_TEXT = 2000
_LONGEST_JSON = 2**20
JSON, FORM = "application/json", "multipart/form-data"
QUESTION_FIELD = "question"

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Column = Annotated[str, Field(max_length=LONGEST_TEXT)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Model = TypeVar("Model", bound=BaseModel)
Options = TypeVar("Options", bound=ListOptions)


class Asked(BaseModel):
    """What a request brings: no field that is not known."""

    model_config = ConfigDict(extra="forbid")


class Crop(Asked):
    """A part of an upright image, in whole pixels from its upper left."""

    x: int = Field(ge=0, lt=10**9)
    y: int = Field(ge=0, lt=10**9)
    width: int = Field(ge=1, lt=10**9)
    height: int = Field(ge=1, lt=10**9)


class QuestionPart(Asked):
    """One part of a question.

    `value` is the text, the id of an indexed image, the vector's numbers, or for an image the
    name of the form's field that holds its file.
    """

    kind: PartKind
    value: Text | Annotated[list[Number], Field(max_length=65_536)]
    weight: Number = 1.0
    crop: Crop | None = None


class TagFilterAsked(Asked):
    """Keep images whose tag is one of these values, or none of them."""

    column: Column
    values: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    exclude: bool = False


class NumberFilterAsked(Asked):
    """Keep images whose number lies in the range; null leaves a side open."""

    column: Column
    low: Number | None = None
    high: Number | None = None
    low_open: bool = False
    high_open: bool = False


FilterValue = Text | Number | list[Text | Number | None] | None
AskedFilters = (
    Annotated[list[Text | TagFilterAsked | NumberFilterAsked], Field(max_length=MOST_FILTERS)]
    | Annotated[dict[Column, FilterValue], Field(max_length=MOST_FILTERS)]
)
Facets = Annotated[list[Column], Field(max_length=MOST_FILTERS)]
_EXAMPLE: dict[str, Any] = {
    "text": "two dogs on a beach",
    "parts": [{"kind": "text", "value": "people", "weight": -0.5}],
    "k": 5,
    "filters": ["class=beach", "year>=2010"],
    "facets": ["class"],
}


class PageAsked(Asked):
    """Which images are wanted, and in which order."""

    k: int = Field(10, ge=1, le=MOST_HITS, description="Hits a page.")
    page: int = Field(1, ge=1, le=DEEPEST, description="From 1.")
    sort: Text | None = Field(
        None, examples=["-year"], description="`year`, `-year`, `id`, `path`."
    )
    sizes: bool = Field(False, description="Tell width and height of the images found.")


class RankedAsked(PageAsked):
    """How hits are found and ranked; see `QueryOptions`."""

    candidates: int = Field(DEFAULT_CANDIDATES, ge=1, le=MAX_CANDIDATES)
    exact: bool = Field(False, description="Compare the vector with every document.")
    bm25_weight: Number | None = None
    vector_weight: Number | None = None
    min_score: Number | None = Field(None, description="Leave out what scores less.")
    min_cosine: Number | None = Field(None, description="Of what the vector finds, -1 to 1.")
    collapse: bool = Field(False, description="One of images that look alike.")
    plain: bool = Field(False, description="Signs in texts are text too.")
    explain: bool = Field(False, description="Say why each hit has its score.")


class Question(RankedAsked):
    """A question, as `Search.query` takes it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    text: Text | None = None
    parts: Annotated[list[QuestionPart], Field(max_length=MOST_PARTS)] = []
    mode: Mode | None = None
    filters: AskedFilters = []
    facets: Facets = []


class LocateQuestion(Asked):
    """What is looked for in which image: of an `id`, or the file of a field `picture`."""

    text: Text | None = None
    parts: Annotated[list[QuestionPart], Field(max_length=MOST_PARTS)] = []
    id: Text | None = None
    method: Literal["windows", "dense"] | None = None


class DocumentChanges(Asked):
    """What is to be changed of a document; what is not named stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"captions": ["two dogs"], "tags": {"class": "beach", "draft": None}}]
        },
    )

    captions: Annotated[list[Text], Field(max_length=MOST_CAPTIONS)] | None = Field(
        None, description="In place of all before; an empty list takes them away."
    )
    tags: Annotated[dict[Column, Text | None], Field(max_length=MOST_COLUMNS)] = Field(
        {}, description="New value by column; null takes it away."
    )
    numbers: Annotated[dict[Column, Number | None], Field(max_length=MOST_COLUMNS)] = Field(
        {}, description="New value by column; null takes it away."
    )


class ListParameters(PageAsked):
    """Which images are wanted, in an address; as on the command line."""

    filter: Annotated[list[Text], Field(max_length=MOST_FILTERS)] = Field(
        [], description="`class=beach`, `class=a|b`, `class!=x`, `year=2010..2014`, `year>=2010`."
    )
    facet: Facets = Field([], description="Count the values of this tag over all matches.")


class SimilarParameters(ListParameters, RankedAsked):
    """What is like an indexed image, and by what."""

    mode: Mode = Field(SIMILAR_MODE, description="Other modes look for its captions' words too.")


class SearchParameters(ListParameters, RankedAsked):
    """A question in an address, as the command line takes it."""

    text: Text | None = Field(None, examples=["two dogs on a beach"])
    id: Annotated[list[Text], Field(max_length=MOST_PARTS)] = Field(
        [], description="An indexed image to search by, as `ID` or `ID:WEIGHT`."
    )
    mode: Mode | None = Field(None, description="Hybrid unless given, or vector without text.")


def query_options(
    asked: Question | SearchParameters | SimilarParameters, settings: ServerSettings
) -> QueryOptions:
    """Return how `Search` is asked. Raises UsageError for hits beyond the service's limits."""
    given = QueryOptions(**_options(asked, QueryOptions), synonyms=settings.synonyms)
    return checked_page(given, settings.limits)


def list_options(asked: ListParameters, settings: ServerSettings) -> ListOptions:
    """Return how `Search` is asked for a list; raises as above."""
    return checked_page(ListOptions(**_options(asked, ListOptions)), settings.limits)


def _options(asked: Question | ListParameters, record: type[ListOptions]) -> dict[str, Any]:
    """Return what a request says of the fields of a record."""
    names = {each.name for each in fields(record)} & type(asked).model_fields.keys()
    given = {name: getattr(asked, name) for name in names}
    if isinstance(asked, Question):
        return given | {"filters": _filters_of(asked.filters)}
    return given | {"filters": asked.filter, "facets": asked.facet}


def checked_page(options: Options, limits: ServerLimits) -> Options:
    """Return the options. Raises UsageError for more or deeper hits than the service gives."""
    k, page, end = options.k, options.page, options.offset + options.k
    if k > limits.hits:
        raise UsageError(f"k is {k}; this service gives at most {limits.hits:,} hits a page")
    if end > limits.depth:
        raise UsageError(
            f"page {page} of {k} hits ends at hit {end:,}, but this service goes no further"
            f" than {limits.depth:,}; narrow the question with a filter"
        )
    return options


def id_parts(ids: Sequence[str]) -> list[Part]:
    """Return indexed images to search by."""
    return [parse_part("id", each) for each in ids]


def _filters_of(asked: AskedFilters) -> Filters:
    """Return filters as `Search` takes them: from JSON, a pair of numbers is a list."""
    if isinstance(asked, Mapping):
        return {
            column: tuple(value) if isinstance(value, list) else value
            for column, value in asked.items()
        }
    return [each if isinstance(each, str) else _ready(each) for each in asked]


def _ready(asked: TagFilterAsked | NumberFilterAsked) -> Filter:
    if isinstance(asked, TagFilterAsked):
        return TagFilter(asked.column, tuple(asked.values), asked.exclude)
    return NumberFilter(asked.column, asked.low, asked.high, asked.low_open, asked.high_open)


def parts_of(asked: Sequence[QuestionPart], uploads: Mapping[str, bytes]) -> list[Part]:
    """Return the parts that are named, then the uploads that no part names, each of weight 1.

    Raises UsageError for a value of another kind, or an upload that did not come.
    """
    parts = [_part(each, uploads) for each in asked]
    named = {each.value for each in asked if each.kind == "image"}
    return parts + [Part("image", data) for name, data in uploads.items() if name not in named]


def _part(asked: QuestionPart, uploads: Mapping[str, bytes]) -> Part:
    value: Any = asked.value
    if isinstance(value, str) == (asked.kind == "vector"):
        wanted = "a list of numbers" if asked.kind == "vector" else "text"
        raise UsageError(f"a part of the kind {asked.kind} has a value that is not {wanted}")
    if asked.kind == "image":
        if value not in uploads:
            raise UsageError(
                f"no file came in a field {value!r}: send the image in a form of the type {FORM},"
                f" and name its field in the part's value"
            )
        value = uploads[value]
    crop = None if asked.crop is None else PixelBox(**asked.crop.model_dump())
    return Part(asked.kind, value, asked.weight, crop)


async def read_question(
    request: Request, model: type[Model], limits: ServerLimits, field: str = QUESTION_FIELD
) -> tuple[Model, dict[str, bytes]]:
    """Read a body: JSON, or a form with JSON in a field (`question`), and files.

    Raises RefusedError for another type or JSON that is none of `model`, UsageError for too many
    fields, and ImageError for files of too many pixels.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == JSON:
        return read_model(model, await request.body(), "body"), {}
    if media_type != FORM:
        raise RefusedError(415, f"the body is {media_type or 'of no type'}; send {JSON} or {FORM}")
    async with request.form(
        max_files=limits.uploads, max_fields=4, max_part_size=_LONGEST_JSON
    ) as form:
        uploads: dict[str, bytes] = {}
        text = "{}"
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name in uploads:
                    raise UsageError(f"two files came in a field {name!r}; name each its own")
                uploads[name] = await value.read()
            elif name == field:
                text = value
            else:
                raise UsageError(f"the form has an unknown field {name!r}; there is {field}")
    for name, data in uploads.items():
        check_upload(name, data, limits)
    return read_model(model, text.encode(errors="replace"), field), uploads


def check_upload(name: str, data: bytes, limits: ServerLimits) -> None:
    """Raise ImageError for an upload of too many pixels, by its head: nothing is decoded."""
    pixels = count_pixels(data)
    if pixels > limits.upload_pixels:
        raise ImageError(
            f"the upload {name!r} has {pixels:,} pixels, more than {limits.upload_pixels:,};"
            f" scale it down"
        )


def _fields(model: type[BaseModel], wrong: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(model.model_fields) if len(wrong["loc"]) == 1 else ()


def read_model(model: type[Model], data: bytes, place: str) -> Model:
    """Read JSON. Raises RefusedError (422), naming each value that does not fit."""
    try:
        return model.model_validate(json.loads(data))
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join([place, *map(str, each['loc'])])}: {reason_of(each, _fields(model, each))}"
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        )
    except (ValueError, RecursionError) as error:
        reasons = f"{place}: is no JSON ({error})"
    raise RefusedError(422, reasons)


def body_schema(model: type[BaseModel], field: str = QUESTION_FIELD) -> dict[str, Any]:
    """Return a request's body as OpenAPI has it: JSON, or a form with files."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    form = {
        "type": "object",
        "properties": {field: schema},
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    encoding = {field: {"contentType": JSON}}
    content = {JSON: {"schema": schema}, FORM: {"schema": form, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": content}}
