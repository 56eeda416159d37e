"""`/v1/images`, `/v1/facets` and `/v1/suggest`: the index itself, without a question."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.search.answer import answer_list
from clipsearch.server.answering import hits_answer, json_answer
from clipsearch.server.dependencies import ReaderService
from clipsearch.server.questions import (
    MOST_FILTERS,
    Facets,
    ListParameters,
    Text,
    list_options,
)
from clipsearch.server.shapes import AnswerShape, FacetsShape, WordsShape, problems

router = APIRouter(prefix="/v1", tags=["images"])
MOST_SUGGESTED = 100
Filters = Annotated[list[Text], Field(max_length=MOST_FILTERS), Query()]


@router.get("/images", response_model=AnswerShape, responses=problems(400, 401, 422, 503))
async def images(
    request: Request, service: ReaderService, asked: Annotated[ListParameters, Query()]
) -> Response:
    """List the images that pass filters, in any order; their `score` is null."""
    options = list_options(asked, service.settings)
    return await hits_answer(
        request, service, asked.sizes, lambda: answer_list(service.search, options)
    )


@router.get("/facets", response_model=FacetsShape, responses=problems(400, 401, 422, 503))
async def facets(
    request: Request,
    service: ReaderService,
    facet: Annotated[Facets, Query(description="A tag; all of them unless given.")] = [],  # noqa: B006
    filter: Filters = [],  # noqa: B006
) -> Response:
    """Count the values of tags over all images that pass filters."""

    def counted() -> dict[str, object]:
        columns = facet or service.search.info.tag_columns
        page = service.search.list(k=1, filters=filter, facets=columns)
        return {
            "total": page.total,
            "facets": {
                column: [{"value": value, "count": count} for value, count in counts]
                for column, counts in page.facets.items()
            },
            "partial": page.partial,
        }

    return json_answer(request, await service.run(counted))


@router.get("/suggest", response_model=WordsShape, responses=problems(400, 401, 409, 422, 503))
async def suggest(
    request: Request,
    service: ReaderService,
    prefix: Annotated[Text, Query(description="What is typed; its last word counts.")],
    limit: Annotated[int, Query(ge=1, le=MOST_SUGGESTED)] = 10,
) -> Response:
    """Suggest words of the index that go on with what is typed, the most frequent first."""
    found = await service.run(service.search.suggest, prefix, limit)
    return json_answer(request, {"words": [asdict(each) for each in found]})
