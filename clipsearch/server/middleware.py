"""What stands before all handlers: limits, counts, headers. Plain ASGI, so that nothing is copied.

`Admission` refuses what there is no room for; `BodyLimits` what is too large or too slow;
`Headers` says what a browser may do with an answer; `BelowPath` takes off the path that a server
before this one puts it below; `RawPaths` keeps %2F apart from a slash.
"""

import asyncio
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipsearch.server.metrics import Metrics
from clipsearch.server.problems import OverloadedError, RefusedError, problem_of
from clipsearch.server.settings import ServerLimits

# Addresses that hold an id, which may hold a slash.
_WITH_ID = (b"/v1/images/", b"/v1/similar/")
# Answered even where there is no room for more.
_ALWAYS = ("/healthz", "/readyz", "/metrics")
NO_ROUTE = "none"

# Scripts, styles and images of this service alone, nothing inline; images of a form that is not
# sent yet (blob:) too.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
# Bytes that others wrote: a browser that opens them runs nothing.
_FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Admission:
    """Counts every request, and refuses those that there is no room for (503)."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        size = 0 if scope["path"] in _ALWAYS else 1
        is_full = self._under_way + size > self._most
        self._change(size)
        try:
            if is_full:
                self._metrics.refused()
                sentence = f"{self._most:,} requests are under way already; ask again later"
                await problem_of(OverloadedError(sentence))(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        finally:
            self._change(-size)
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            method = scope["method"] if route != NO_ROUTE else NO_ROUTE
            self._metrics.answered(method, route, status, time.perf_counter() - began)

    def _change(self, by: int) -> None:
        self._under_way += by
        self._metrics.under_way.set(self._under_way)


class BodyLimits:
    """Refuses bodies that are too large (413) or that take too long to come (408)."""

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._limits.body_bytes
        too_large = RefusedError(
            413, f"the body has more than {most:,} bytes; send less", {"Connection": "close"}
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await problem_of(too_large)(scope, receive, send)
            return
        until = time.monotonic() + self._limits.body_seconds
        come, whole = 0, False

        async def limited() -> Message:
            nonlocal come, whole
            if whole:  # what comes now is that the client has left
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise RefusedError(
                    408,
                    f"the body did not come within {self._limits.body_seconds:g} seconds",
                    {"Connection": "close"},
                ) from None
            come += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if come > most:
                raise too_large
            return message

        await self._app(scope, limited, send)


class Headers:
    """Says what a browser may do with an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        policy = _FILE_POLICY if path.startswith("/v1/images/") else _POLICY
        added = _encoded({**_HEADERS, "Content-Security-Policy": policy})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(each for each in added if each[0] not in known),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)


class BelowPath:
    """Takes off the path that others see the service below, where it is still there."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"].startswith(f"{self._root}/"):
            size = len(self._root)
            scope = {**scope, "path": scope["path"][size:]}
            if scope.get("raw_path", b"").startswith(self._root.encode()):
                scope["raw_path"] = scope["raw_path"][size:]
        await self._app(scope, receive, send)


class RawPaths:
    """Routes addresses with an id as they were sent: a slash of the id is %2F, and no slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and raw.startswith(_WITH_ID):
            scope["path"] = raw.decode("ascii", "replace")  # the router's own: Admission reads it
        await self._app(scope, receive, send)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
