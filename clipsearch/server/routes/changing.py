"""`PUT` and `DELETE /v1/images/{id}`, for who has the write token."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.feed.by_hand import Changes
from clipsearch.search.answer import json_text
from clipsearch.server.answering import JSON
from clipsearch.server.dependencies import DocumentId, WriterService
from clipsearch.server.questions import FORM, DocumentChanges, body_schema, read_question
from clipsearch.server.routes.images import document_json
from clipsearch.server.shapes import DocumentShape, problems
from finetune.errors import UsageError

router = APIRouter(prefix="/v1/images", tags=["images"])
DOCUMENT_FIELD, IMAGE_FIELD = "document", "image"
_NOT_KEPT = {"Cache-Control": "no-store"}
_MADE: dict[int | str, dict[str, Any]] = {
    201: {"model": DocumentShape, "description": "A document that was not there before."}
}


@router.put(
    "/{id:path}",
    response_model=DocumentShape,
    responses={**_MADE, **problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 502, 503)},
    openapi_extra=body_schema(DocumentChanges, DOCUMENT_FIELD),
)
async def put(request: Request, service: WriterService, id: DocumentId) -> Response:
    """Change a document, or make one of an image that is sent; what is not named stays.

    The image is the file `image` of a form, whose field `document` holds the JSON. It is encoded,
    and kept in a folder of the service.
    """
    asked, files = await read_question(
        request, DocumentChanges, service.settings.limits, DOCUMENT_FIELD
    )
    image = files.pop(IMAGE_FIELD, None)
    if files:
        raise UsageError(
            f"a file came in the field {next(iter(files))!r}; send one image, as {IMAGE_FIELD!r} of"
            f" a form of the type {FORM}"
        )
    changes = Changes.of(asked.captions, asked.tags, asked.numbers)

    def done() -> Response:
        name, is_new = service.changing.put(id, changes, image)
        service.recount()
        headers = _NOT_KEPT | ({"Location": service.address_of(name)} if is_new else {})
        content = json_text(document_json(service, name))
        return Response(content, 201 if is_new else 200, headers, JSON)

    return await service.run(done)


@router.delete(
    "/{id:path}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 422, 502, 503),
)
async def delete(service: WriterService, id: DocumentId) -> Response:
    """Remove a document; its image stays, unless it was sent here. 404 where there is none."""

    def done() -> None:
        service.changing.delete(id)
        service.recount()

    await service.run(done)
    return Response(None, 204, _NOT_KEPT)
