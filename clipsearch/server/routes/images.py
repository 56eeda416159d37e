"""`/v1/images/{id}`: a document, its image, its thumbnail."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.server.answering import image_answer, json_answer
from clipsearch.server.dependencies import DocumentId, ReaderService
from clipsearch.server.image_files import UNKNOWN_MEDIA_TYPE, ImageFile
from clipsearch.server.problems import RefusedError
from clipsearch.server.service import Service
from clipsearch.server.shapes import DocumentShape, problems
from clipsearch.server.thumbnails import WIDTHS, width_of
from finetune.errors import ImageError

router = APIRouter(prefix="/v1/images", tags=["images"])
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get(
    "/{id:path}/file",
    response_class=Response,
    responses={**_BYTES, **problems(401, 404, 503)},
)
async def file(request: Request, service: ReaderService, id: DocumentId) -> Response:
    """Give the image as it lies on the disk."""

    def found() -> Response:
        image = service.files.existing(service.document(id))
        shape = service.files.shape(image)
        media_type = UNKNOWN_MEDIA_TYPE if shape is None else shape.media_type
        return image_answer(request, lambda: _bytes(image), media_type, image.stamp, image.modified)

    return await service.run(found)


@router.get(
    "/{id:path}/thumbnail",
    response_class=Response,
    responses={**_BYTES, **problems(401, 404, 422, 503)},
)
async def thumbnail(
    request: Request,
    service: ReaderService,
    id: DocumentId,
    w: Annotated[int, Query(ge=1, le=WIDTHS[-1], description="Pixels; rounded up.")] = 320,
) -> Response:
    """Give the image as WebP, upright, about `w` pixels wide."""

    def found() -> Response:
        image = service.files.existing(service.document(id))
        width = width_of(w)
        stamp = f"{image.stamp}-{width}"
        return image_answer(
            request,
            lambda: service.thumbnails.get(image, width),
            "image/webp",
            stamp,
            image.modified,
        )

    return await service.run(found)


@router.get(
    "/{id:path}",
    response_model=DocumentShape,
    responses=problems(401, 404, 422, 503),
)
async def document(
    request: Request,
    service: ReaderService,
    id: DocumentId,
    embedding: Annotated[bool, Query(description="Tell the embedding too.")] = False,
) -> Response:
    """Tell all that the index holds of an image."""

    return json_answer(request, await service.run(document_json, service, id, embedding))


def document_json(service: Service, id: str, embedding: bool = False) -> dict[str, Any]:
    """Return a document as `DocumentShape` describes it. Raises DocumentNotFoundError."""
    document = service.document(id, embeddings=embedding)
    image = service.files.find(document)
    shape = None if image is None else service.files.shape(image)
    about = service.image_json(document, sizes=True)
    media_type = None if shape is None else shape.media_type
    return {**document.to_show(), **about, "media_type": media_type}


def _bytes(image: ImageFile) -> bytes:
    try:
        return image.source.read()
    except (OSError, EOFError, ImageError) as error:
        raise RefusedError(404, f"{image.source}: cannot be read ({error})") from error
