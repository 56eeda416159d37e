"""A running server: from the settings to the last answer after SIGTERM."""

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from clipsearch.server.app import make_app
from clipsearch.server.connections import protocol_of
from clipsearch.server.service import Service
from clipsearch.server.settings import ServerSettings
from finetune.errors import ClipsearchError

# Connections, idle ones among them: far more than requests, and far fewer than files that may be
# open.
_MOST_CONNECTIONS = 1000
_BACKLOG = 512


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


def serve(settings: ServerSettings, tell: Callable[[str], None]) -> int:
    """Answer until a signal comes; which one that was.

    `tell` is given the address, once it is listened to. Raises ClipsearchError where the index
    cannot be opened or the address is taken.
    """
    with listen(settings.host, settings.port) as listener:
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
        backlog=_BACKLOG,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=round(settings.limits.drain_seconds),
    )
    return Server(config)


def address_of(listener: socket.socket) -> str:
    """Return the address of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises ClipsearchError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Where a socket does not say that it is TCP, asyncio leaves Nagle's algorithm on: then the
        # body of an answer waits until the client has acknowledged its head, some 40 ms.
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ClipsearchError(f"--host {host}: is no address of this machine ({error})") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise ClipsearchError(_why_not(host, port, error)) from error
    return found


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is for the system alone; choose one from 1024 with --port"
    return f"{host}:{port}: cannot be listened to ({error.strerror or error})"
