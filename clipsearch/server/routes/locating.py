"""Where in an image something is: `/v1/images/{id}/locate` and `/v1/locate`."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.localization.methods import METHODS
from clipsearch.search.parts import Part
from clipsearch.search.query_images import opened
from clipsearch.server.answering import json_answer
from clipsearch.server.dependencies import DocumentId, ReaderService
from clipsearch.server.questions import LocateQuestion, Text, body_schema, parts_of, read_question
from clipsearch.server.service import Service
from clipsearch.server.shapes import HeatMapShape, problems
from finetune.errors import UsageError
from finetune.images.source import ImageSource

router = APIRouter(prefix="/v1", tags=["images"])
_METHODS = "|".join(METHODS)
PICTURE_FIELD = "picture"


@router.get(
    "/images/{id:path}/locate",
    response_model=HeatMapShape,
    responses=problems(400, 401, 404, 409, 422, 503),
)
async def locate_by_address(
    request: Request,
    service: ReaderService,
    id: DocumentId,
    text: Annotated[Text, Query(min_length=1)],
    method: Annotated[str | None, Query(pattern=f"^({_METHODS})$")] = None,
) -> Response:
    """Say where in an indexed image a text is: how strongly each part of it answers."""
    parts = [Part("text", text)]
    return json_answer(request, await service.run(_of_document, service, id, parts, method))


@router.post(
    "/locate",
    response_model=HeatMapShape,
    responses=problems(400, 401, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=body_schema(LocateQuestion),
)
async def locate(request: Request, service: ReaderService) -> Response:
    """Say where in an image a weighted mix is: of an indexed image, or of one that is sent."""
    asked, uploads = await read_question(request, LocateQuestion, service.settings.limits)
    picture = uploads.pop(PICTURE_FIELD, None)
    text = [] if asked.text is None else [Part("text", asked.text)]
    parts = [*text, *parts_of(asked.parts, uploads)]
    if (picture is None) == (asked.id is None):
        raise UsageError(
            f"locate looks into one image: give either an id, or a file in the form's field"
            f" {PICTURE_FIELD}"
        )
    if picture is not None:
        found = await service.run(_of_picture, service, picture, parts, asked.method)
    else:
        found = await service.run(_of_document, service, asked.id, parts, asked.method)
    return json_answer(request, found)


def _of_document(
    service: Service, id: str, parts: list[Part], method: str | None
) -> dict[str, Any]:
    image = service.files.existing(service.document(id))
    return _of_picture(service, image.source, parts, method)


def _of_picture(
    service: Service, picture: bytes | ImageSource, parts: list[Part], method: str | None
) -> dict[str, Any]:
    seen = service.search.encoder.preprocessing.transparency
    image = opened(picture, seen)
    found = service.search.locate(image=image, parts=parts, method=method)
    return replace(found, notes=tuple(map(service.told, found.notes))).to_json()
