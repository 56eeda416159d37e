"""The page for people: what its frame needs, and nothing of how it looks."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from clipsearch.server.dependencies import ReaderService

router = APIRouter()


@router.get("/")
async def page(request: Request, service: ReaderService) -> Response:
    """Show the page."""
    found: Response = request.app.state.templates.TemplateResponse(
        request, "page.html", {"info": service.search.info}
    )
    return found
