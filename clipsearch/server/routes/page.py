"""The page for people: its frame, with the images that a question finds without scripts."""

import json
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.engine import Hit, IndexInfo
from clipsearch.filtering import LATITUDE, LONGITUDE
from clipsearch.modes import MODES, MODES_WITHOUT_VECTOR
from clipsearch.search.near_filter import NEAR, is_near
from clipsearch.search.options import QueryOptions
from clipsearch.search.parts import query_parts
from clipsearch.server.dependencies import ReaderService
from clipsearch.server.places import name_of
from clipsearch.server.questions import Text, checked_page
from clipsearch.server.service import Service, below_root
from clipsearch.server.settings import DEEPEST
from finetune.errors import ClipsearchError

router = APIRouter()
_HITS = 30
# Each is counted with every question.
_MOST_FACETS = 12
_DATE_EXAMPLES = ("2019", "2019-06-01")
_DATE = {
    "pattern": r"\d{4}(-(0\d|1[0-2])(-[0-3]\d(T.+)?)?)?",
    "title": "A date: 2019, 2019-06 or 2019-06-01",
}
_DEGREES = r"-?\d+(\.\d+)?"
_NEAR = {
    "column": NEAR,
    "between": ",",
    "needsBoth": True,
    "fields": [
        {
            "name": "place",
            "placeholder": "48.1, 11.6",
            "pattern": rf"{_DEGREES} *, *{_DEGREES}",
            "title": "Latitude, longitude: 48.1, 11.6",
        },
        {
            "name": "within",
            "value": "5km",
            "pattern": r"\d+(\.\d+)? *(m|km|mi)",
            "title": "A distance: 500m, 5km or 3mi",
        },
    ],
}


@dataclass(frozen=True, slots=True)
class ShownHit:
    """An image as the frame shows it: addresses from the page's own, and its first caption."""

    file: str
    thumbnail: str
    caption: str


@router.get("/")
async def page(
    request: Request,
    service: ReaderService,
    q: Text = "",
    page: Annotated[int, Query(ge=1, le=DEEPEST)] = 1,
) -> Response:
    """Show the page, with what `q` finds: scripts take over, but are not needed."""
    context = await service.run(_context, service, q.strip(), page)
    found: Response = request.app.state.templates.TemplateResponse(request, "page.html", context)
    return found


def _context(service: Service, text: str, page: int) -> dict[str, Any]:
    info = service.search.info
    frame: dict[str, Any] = {
        "config": json.dumps(_config(service)),
        "modes": MODES if service.search.has_encoder else MODES_WITHOUT_VECTOR,
        "numbers": info.compared_columns,
        "filtered": bool(info.tag_columns or info.compared_columns),
        "text": text,
        "words": "" if _has_words(service) else " hidden",
    }
    if not text:
        return frame
    try:
        settings = service.settings
        asked = QueryOptions(k=_HITS, page=page, synonyms=settings.synonyms)
        found = service.search.ask(query_parts(text), checked_page(asked, settings.limits))
    except ClipsearchError as error:
        return {**frame, "problem": service.told(str(error))}
    following = urlencode({"q": text, "page": page + 1})
    return {
        **frame,
        "summary": f"{found.total:,} found",
        "notes": found.notes,
        "hits": [_shown(hit) for hit in found.hits],
        "following": f"?{following}" if page * _HITS < found.total else None,
    }


def _has_words(service: Service) -> bool:
    """Return whether documents at either end of the index have captions: few are read for it.

    An engine that does not answer may have some.
    """
    try:
        pages = [service.search.list(k=_HITS, sort=order) for order in ("id", "-id")]
    except ClipsearchError:
        return True
    hits = [hit for page in pages for hit in page.hits]
    return not hits or any(hit.document.captions for hit in hits)


def _config(service: Service) -> dict[str, Any]:
    """Return what the scripts must know of the index."""
    info = service.search.info
    return {
        "count": service.documents(),
        "target": name_of(service.settings.index),
        "hasEncoder": service.search.has_encoder,
        "tags": info.tag_columns[:_MOST_FACETS],
        "pairs": _pairs(info),
    }


def _pairs(info: IndexInfo) -> list[dict[str, Any]]:
    """Return the filters that are two fields each: distances, ranges of numbers and of dates.

    `between` stands between both in the filter. The fields are properties of HTML's.
    """
    has_places = {LATITUDE, LONGITUDE} <= {*info.number_columns} and is_near(NEAR, info)
    places = (LATITUDE, LONGITUDE) if has_places else ()
    number = {"type": "number", "step": "any"}
    ranges = [
        *((each, number, ("from", "to")) for each in info.number_columns if each not in places),
        *((each, _DATE, _DATE_EXAMPLES) for each in info.date_columns),
    ]
    return [
        *([_NEAR] if has_places else []),
        *(
            {
                "column": column,
                "between": "..",
                "fields": [
                    {"name": name, **field, "placeholder": example}
                    for name, example in zip(("from", "to"), examples, strict=True)
                ],
            }
            for column, field, examples in ranges
        ),
    ]


def _shown(hit: Hit) -> ShownHit:
    id, captions = hit.document.id, hit.document.captions
    return ShownHit(
        file=below_root(id, "/file"),
        thumbnail=below_root(id, "/thumbnail?w=320"),
        caption=captions[0] if captions else id.rpartition("/")[2],
    )
