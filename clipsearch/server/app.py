"""The application: routes, what stands before them, and the page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from jinja2 import Environment, FileSystemLoader, select_autoescape
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from clipsearch.server import problems
from clipsearch.server.middleware import Admission, BelowPath, BodyLimits, Headers, RawPaths
from clipsearch.server.questions import DocumentChanges, LocateQuestion, Question
from clipsearch.server.routes import (
    changing,
    documentation,
    images,
    listing,
    locating,
    page,
    searching,
    state,
)
from clipsearch.server.service import Service
from clipsearch.server.shapes import ProblemShape
from clipsearch.server.shapes import problems as problems_of
from clipsearch.version import __version__

HERE = Path(__file__).parent
_GZIP_FROM_BYTES = 1024
_GZIP_LEVEL = 4
_SUMMARY = "Search images by words, by image and by both."
_BY_HAND: dict[str, type[BaseModel]] = {
    "Problem": ProblemShape,
    Question.__name__: Question,
    LocateQuestion.__name__: LocateQuestion,
    DocumentChanges.__name__: DocumentChanges,
}
_NO_PARAMETERS = ("HTTPValidationError", "ValidationError")


def make_app(service: Service) -> FastAPI:
    """Return the application that answers for `service`, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="clipsearch",
        version=__version__,
        summary=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        openapi_url=documentation.OPENAPI_ADDRESS,
        lifespan=lifespan,
        # A redirection would not know of the path that the service is seen below.
        redirect_slashes=not service.settings.root_path,
        middleware=_middleware(service),
    )
    app.state.service = service
    app.state.templates = Jinja2Templates(
        env=Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape())
    )
    problems.add_handlers(app, service.told)
    for router in (state, searching, locating, listing, images, changing):
        app.include_router(router.router)
    app.include_router(documentation.router, include_in_schema=False)
    app.include_router(page.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.mount("/docs/assets", documentation.assets(), name="docs-assets")
    app.openapi = lambda: _openapi(app, service.settings.root_path)  # type: ignore[method-assign]
    return app


def _middleware(service: Service) -> list[Middleware]:
    """Return what stands before the handlers, the outermost first."""
    settings = service.settings
    limits = settings.limits
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors),
        allow_methods=["GET", "POST", *(["PUT", "DELETE"] if settings.write_token else [])],
        allow_headers=["Authorization", "Content-Type", "If-None-Match"],
        expose_headers=["ETag", "Retry-After"],
    )
    root_path = settings.root_path
    return [
        *([Middleware(BelowPath, root_path=root_path)] if root_path else []),
        Middleware(Headers),
        *([cors] if settings.cors else []),
        Middleware(Admission, metrics=service.metrics, most=limits.requests),
        Middleware(GZipMiddleware, minimum_size=_GZIP_FROM_BYTES, compresslevel=_GZIP_LEVEL),
        Middleware(BodyLimits, limits=limits),
        Middleware(RawPaths),
    ]


def _openapi(app: FastAPI, root_path: str) -> dict[str, Any]:
    """Return OpenAPI, with our problems in place of FastAPI's, and bodies that are read by hand."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            servers=[{"url": root_path}] if root_path else None,
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for name in _NO_PARAMETERS:
            components.pop(name, None)
        for operations in schema["paths"].values():
            for operation in operations.values():
                if "422" in operation["responses"]:
                    operation["responses"] |= {"422": problems_of(422)[422]}
        template = "#/components/schemas/{model}"
        for name, model in _BY_HAND.items():
            described = model.model_json_schema(ref_template=template)
            components |= described.pop("$defs", {})
            components[name] = described
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic"},
        }
        schema["security"] = [{}, {"bearer": []}, {"basic": []}]
        app.openapi_schema = schema
    return app.openapi_schema
