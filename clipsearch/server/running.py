"""A running server: from the settings to the last answer after SIGTERM."""

import asyncio
import contextlib
import signal
import socket
import threading
import time
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
# What anyio calls its threads.
_WORKER = "AnyIO worker thread"
_MOMENT_SECONDS = 1.0


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


def is_still_at_work() -> bool:
    """Return whether a question that nobody waits for any more is still asked of the engine.

    It was left to a thread of its own, for which Python would wait at its end, and a Vespa that
    does not answer may hold it for long. Threads that are done are given a moment to end.
    """
    until = time.monotonic() + _MOMENT_SECONDS
    for thread in threading.enumerate():
        if thread.name == _WORKER:
            thread.join(max(0.0, until - time.monotonic()))
    return any(thread.name == _WORKER for thread in threading.enumerate())


def server_of(settings: ServerSettings) -> Server:
    """Open the index, and return a server that is ready to start. Raises ClipsearchError."""
    service = Service(settings)
    service.load()  # beside what is made next
    config = uvicorn.Config(
        make_app(service),
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
