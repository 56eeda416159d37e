"""Requests that end where nobody waits for their answer any more."""

import threading

from clipsearch.engines.vespa.http.connection import Body, Reply, Transport


class LeavableTransport:
    """A transport whose requests end where `left` is set, in whatever thread they wait."""

    def __init__(self, transport: Transport, left: threading.Event) -> None:
        """Leave `transport` open where this is closed: it is its owner's."""
        self._transport = transport
        self._left = left

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`; `left` is the one that was given at first."""
        return self._transport.send(method, path, body, content_type, timeout, self._left)

    def close(self) -> None:
        """See `Transport`."""
