"""A process that only passes on what comes to a port: killed, it takes all connections with it.

python forwarder.py PORT TARGET_PORT
"""

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Both ways, until one side closes."""
        with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as target:
            back = threading.Thread(target=_pass_on, args=(target, self.request), daemon=True)
            back.start()
            _pass_on(self.request, target)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Supervised:
    """The process before a port, started again when it dies; a context manager.

    `url` stays the same; `process` is the id of the one that runs now.
    """

    def __init__(self, target_port: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.starts = 0
        self._target_port = target_port
        self._ended = threading.Event()

    @property
    def process(self) -> int:
        return self._running.pid

    def __enter__(self) -> Self:
        self._start()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._running.kill()
        self._running.wait()

    def _start(self) -> None:
        ports = (str(self._port), str(self._target_port))
        self._running = subprocess.Popen([sys.executable, __file__, *ports])
        self.starts += 1

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            if self._running.poll() is not None:
                time.sleep(1)  # a real one takes longer
                self._start()


if __name__ == "__main__":
    with _Server(("127.0.0.1", int(sys.argv[1])), _Handler) as server:
        server.serve_forever()
