"""A running server: from the settings to the last answer after SIGTERM."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from clipsearch.server.app import make_app
from clipsearch.server.connections import protocol_of
from clipsearch.server.listening import BACKLOG, address_of
from clipsearch.server.service import Service
from clipsearch.server.settings import ServerSettings

# Connections, idle ones among them: far more than requests, and far fewer than files that may be
# open.
_MOST_CONNECTIONS = 1000


class Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM when what is under way has been answered.

    Attributes:
        signal: The one that ended it; None where none has.
    """

    signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals, and do not raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        taken = (signal.SIGINT, signal.SIGTERM)
        for number in taken:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        self.signal = number
        self.handle_exit(number, None)


def serve(settings: ServerSettings, listener: socket.socket, tell: Callable[[str], None]) -> int:
    """Answer at `listener` until a signal comes; which one that was.

    `tell` is given the address, once all is loaded. Raises ClipsearchError where the index cannot
    be opened.
    """
    server = server_of(settings)
    tell(address_of(listener))
    asyncio.run(server.serve([listener]))
    return server.signal or signal.SIGTERM


def server_of(settings: ServerSettings) -> Server:
    """Open the index, and return a server that is ready to start. Raises ClipsearchError."""
    config = uvicorn.Config(
        make_app(Service(settings)),
        http=protocol_of(settings.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=round(settings.limits.drain_seconds),
    )
    return Server(config)
