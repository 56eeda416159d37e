"""What the service says of itself: `/v1/index`, `/healthz`, `/readyz`, `/metrics`."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.engines import is_remote
from clipsearch.engines.local.folder import disk_bytes
from clipsearch.modes import MODES
from clipsearch.search.answer import json_text
from clipsearch.search.parts import Part
from clipsearch.server.answering import JSON, json_answer
from clipsearch.server.dependencies import AnyoneService, ReaderService
from clipsearch.server.service import Service
from clipsearch.server.shapes import HealthShape, IndexShape, ReadyShape, problems
from clipsearch.version import __version__
from finetune.errors import ClipsearchError

router = APIRouter(tags=["state"])
_NOT_KEPT = {"Cache-Control": "no-store"}


@router.get("/v1/index", response_model=IndexShape, responses=problems(401, 503))
async def index(request: Request, service: ReaderService) -> Response:
    """Tell what a program must know of the index to ask it."""
    return json_answer(request, await service.run(_index, service))


def _index(service: Service) -> dict[str, Any]:
    settings, search = service.settings, service.search
    info, limits = search.info, settings.limits
    return {
        "count": service.documents(),
        "dimension": info.dimension,
        "language": info.language,
        "encoder_name": info.encoder_name,
        "encoder_fingerprint": info.encoder_fingerprint,
        "has_encoder": search.has_encoder,
        "engine": "vespa" if is_remote(settings.index) else "local",
        "modes": list(MODES),
        "default_mode": search.default_mode([Part("text", "any")]),
        "text_mode": info.text_mode,
        "bm25_weight": info.bm25_weight,
        "vector_weight": info.vector_weight,
        "rrf_k": info.rrf_k,
        "word_share": None if info.word_share is None else asdict(info.word_share),
        "reorder": None if info.reorder is None else asdict(info.reorder),
        "precision": info.precision,
        "index_id": info.index_id,
        "tag_columns": list(info.tag_columns),
        "number_columns": list(info.number_columns),
        "date_columns": list(info.date_columns),
        "data_sets": [each.name for each in info.data_sets],
        "version": __version__,
        "limits": {
            "hits": limits.hits,
            "depth": limits.depth,
            "body_bytes": limits.body_bytes,
            "upload_pixels": limits.upload_pixels,
            "uploads": limits.uploads,
        },
    }


@router.get("/healthz", response_model=HealthShape)
async def healthz() -> Response:
    """Answer at once, whatever index and encoder do."""
    return Response(json_text({"status": "alive"}), 200, _NOT_KEPT, JSON)


@router.get(
    "/readyz",
    response_model=ReadyShape,
    responses={503: {"model": ReadyShape, "description": "Not yet, or no more."}},
)
async def readyz(service: AnyoneService) -> Response:
    """Answer 200 where questions can be answered, and 503 with the reason where they cannot."""
    found = await service.run_apart(service.readiness)
    content = {
        "ready": found.reason is None,
        "reason": found.reason,
        "documents": found.documents,
    }
    return Response(json_text(content), 200 if found.reason is None else 503, _NOT_KEPT, JSON)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problems(401)},
)
async def metrics(service: ReaderService) -> Response:
    """Tell the counts of the service, as Prometheus reads them."""

    def counted() -> bytes:
        with suppress(ClipsearchError):  # an index out of reach keeps its last number
            service.metrics.documents.set(service.documents())
        if not is_remote(service.settings.index):
            service.metrics.index_bytes.set(disk_bytes(Path(service.settings.index)))
        service.metrics.texts_looked_up(*service.search.texts_looked_up)
        return service.metrics.text()

    return Response(await service.run_apart(counted), 200, _NOT_KEPT, CONTENT_TYPE_LATEST)
