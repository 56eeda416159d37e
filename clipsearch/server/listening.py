"""The address of a service: taken before anything slow is imported."""

import errno
import socket

from finetune.errors import ClipsearchError

# Of connections that wait until they are taken.
BACKLOG = 512


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
        found.listen(BACKLOG)
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
