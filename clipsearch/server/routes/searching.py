"""`/v1/search`, `/v1/similar` and `/v1/embed`."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.search.answer import answer_query, answer_similar
from clipsearch.search.parts import Part
from clipsearch.server.answering import hits_answer, json_answer
from clipsearch.server.dependencies import DocumentId, ReaderService
from clipsearch.server.questions import (
    Question,
    SearchParameters,
    SimilarParameters,
    Text,
    body_schema,
    id_parts,
    parts_of,
    query_options,
    read_question,
)
from clipsearch.server.shapes import AnswerShape, EmbeddingShape, problems

router = APIRouter(prefix="/v1", tags=["search"])


@router.get(
    "/search",
    response_model=AnswerShape,
    responses=problems(400, 401, 404, 409, 422, 503),
)
async def search_by_address(
    request: Request, service: ReaderService, asked: Annotated[SearchParameters, Query()]
) -> Response:
    """Search by words, by indexed images, or both."""
    options = query_options(asked, service.settings)
    parts = id_parts(asked.id)
    return await hits_answer(
        request,
        service,
        asked.sizes,
        lambda: answer_query(service.search, asked.text, parts, options),
    )


@router.post(
    "/search",
    response_model=AnswerShape,
    responses=problems(400, 401, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=body_schema(Question),
)
async def search(request: Request, service: ReaderService) -> Response:
    """Search by a weighted mix of texts, images, indexed images and vectors.

    Images come as files of a form, whose field `question` holds the JSON. A file that no part
    names is a part of weight 1.
    """
    asked, uploads = await read_question(request, Question, service.settings.limits)
    options = query_options(asked, service.settings)
    parts = parts_of(asked.parts, uploads)
    return await hits_answer(
        request,
        service,
        asked.sizes,
        lambda: answer_query(service.search, asked.text, parts, options),
    )


@router.get(
    "/similar/{id:path}",
    response_model=AnswerShape,
    responses=problems(400, 401, 404, 422, 503),
)
async def similar(
    request: Request,
    service: ReaderService,
    id: DocumentId,
    asked: Annotated[SimilarParameters, Query()],
) -> Response:
    """Find the images that are like an indexed one, itself left out."""
    options = query_options(asked, service.settings)
    return await hits_answer(
        request, service, asked.sizes, lambda: answer_similar(service.search, id, options)
    )


@router.get(
    "/embed",
    response_model=EmbeddingShape,
    responses=problems(400, 401, 409, 422, 503),
)
async def embed_text(
    request: Request, service: ReaderService, text: Annotated[Text, Query(min_length=1)]
) -> Response:
    """Embed a text with the encoder of the index."""
    return await _embedded(request, service, [Part("text", text)])


@router.post(
    "/embed",
    response_model=EmbeddingShape,
    responses=problems(400, 401, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=body_schema(Question),
)
async def embed(request: Request, service: ReaderService) -> Response:
    """Embed a text, an image or a weighted mix: the vector that `POST /v1/search` would look for.

    Of the question, `text` and `parts` count.
    """
    asked, uploads = await read_question(request, Question, service.settings.limits)
    text = [] if asked.text is None else [Part("text", asked.text)]
    return await _embedded(request, service, [*text, *parts_of(asked.parts, uploads)])


async def _embedded(request: Request, service: ReaderService, parts: list[Part]) -> Response:
    vector = await service.run(service.search.vector_of, parts)
    info = service.search.info
    return json_answer(
        request,
        {
            "dimension": info.dimension,
            "encoder": info.encoder_fingerprint,
            "embedding": vector.tolist(),
        },
    )
