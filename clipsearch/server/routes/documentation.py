"""`/docs`: OpenAPI, as people read it. Swagger UI comes from this machine, not from outside."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

router = APIRouter()
OPENAPI_ADDRESS = "/openapi.json"


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Show the API, and let it be tried."""
    found: Response = request.app.state.templates.TemplateResponse(
        request, "docs.html", {"openapi": OPENAPI_ADDRESS.removeprefix("/")}
    )
    return found


def assets() -> StaticFiles:
    """Return Swagger UI's own files."""
    return StaticFiles(directory=Path(str(files("fastapi_offline"))) / "static")
