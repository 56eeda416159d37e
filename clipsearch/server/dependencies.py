"""What handlers are given: the service, once who asks may ask, and the id in the address.

They are coroutines because what is none is called in a thread, which costs each request more than
all that is done here.
"""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path
from starlette.requests import Request

from clipsearch.server.service import Service
from clipsearch.server.tokens import check_reader, check_writer


async def service_of(request: Request) -> Service:
    """Return the service that answers."""
    service: Service = request.app.state.service
    return service


async def for_reader(request: Request) -> Service:
    """Return the service. Raises RefusedError unless who asks may read."""
    service = await service_of(request)
    check_reader(request, service.settings)
    return service


async def for_writer(request: Request) -> Service:
    """Return the service. Raises RefusedError unless who asks may change documents."""
    service = await service_of(request)
    check_writer(request, service.settings)
    return service


async def _id(
    id: Annotated[
        str, Path(description="Of a document; a slash in it is written as %2F.", max_length=6144)
    ],
) -> str:
    return unquote(id)


AnyoneService = Annotated[Service, Depends(service_of)]
ReaderService = Annotated[Service, Depends(for_reader)]
WriterService = Annotated[Service, Depends(for_writer)]
DocumentId = Annotated[str, Depends(_id)]
