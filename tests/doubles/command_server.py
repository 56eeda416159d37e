"""Commands that need not import anew: a process with all modules forks one for each command.

A started `clipsearch finetune` imports torch and transformers for four seconds, and the tests start
hundreds of commands. `python command_server.py SOCKET` imports them once; what `clipsearch_command`
starts connects to it, hands over its arguments, environment, folder and files, and ends as the
forked process ends. That is as `python -m clipsearch` would be, or `python -c CODE`, in a process
of its own. Where the environment differs in what modules read when they are imported, the
started program becomes the real command instead, as it does without a server.

The server ends with its standard input.
"""

import array
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

# May differ without a consequence for modules that are imported already.
FREE_NAMES = {
    "_", "COLUMNS", "FORCE_COLOR", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_OFFLINE",
    "HF_TOKEN", "HOME", "LINES", "NO_COLOR", "OLDPWD", "PATH", "PWD", "SHLVL", "SSL_CERT_FILE",
    "TERM", "TMPDIR", "WANDB_SERVICE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME",
    "all_proxy", "http_proxy", "https_proxy", "no_proxy",
}  # fmt: skip
FREE_PREFIXES = ("CLIPSEARCH_", "VESPA_", "PYTEST_")
# What commands import within functions.
LATE = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "onnx", "onnxruntime",
    "safetensors.torch", "torch.onnx", "transformers",
    "transformers.models.auto.modeling_auto", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.processing_clip", "transformers.models.bert.modeling_bert",
    "transformers.models.vit.modeling_vit",
    "transformers.models.vision_text_dual_encoder.modeling_vision_text_dual_encoder",
)  # fmt: skip
# Modules of which the libraries start threads, which a fork would lose; or import for seconds.
LEFT_OUT = ("finetune.trackers.", "clipsearch.engines.local.table")
LONGEST_REQUEST = 1 << 24


@dataclass(frozen=True)
class Request:
    """A command: its arguments, environment, folder, limits, and the files 0, 1 and 2."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    mask: int
    files: list[int] = field(default_factory=list)


def import_all() -> None:
    """Import our modules and what they import late; what is not installed is left out."""
    names = list(LATE)
    for package in ("clipsearch", "finetune"):
        module = importlib.import_module(package)
        names += [one.name for one in pkgutil.walk_packages(module.__path__, f"{package}.")]
    for name in names:
        if not name.endswith("__main__") and not name.startswith(LEFT_OUT):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    from PIL import Image

    Image.init()


def may_fork(environment: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Return whether modules imported under `own` are as under `environment`."""
    differing = {
        name for name in environment.keys() | own.keys() if environment.get(name) != own.get(name)
    }
    return all(name in FREE_NAMES or name.startswith(FREE_PREFIXES) for name in differing)


def receive(connection: socket.socket) -> Request | None:
    """Read a request, or None where the other side went away."""
    size = array.array("i").itemsize
    data, extra, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * size))
    files = array.array("i")
    for _, _, content in extra:
        files.frombytes(content[: len(content) - len(content) % size])
    while 0 < len(data) < 8 and (more := connection.recv(8 - len(data))):
        data += more
    length = int.from_bytes(data, "big")
    if len(data) < 8 or len(files) != 3 or length > LONGEST_REQUEST:
        for file in files:
            os.close(file)
        return None
    body = b""
    while len(body) < length:
        more = connection.recv(length - len(body))
        if not more:
            return None
        body += more
    told = json.loads(body)
    return Request(
        told["arguments"], told["environment"], told["folder"], told["mask"], files.tolist()
    )


class CommandServer:
    """Fork a process for each request; `serve` returns in those only, with the request."""

    def __init__(
        self, path: str, environment: dict[str, str], set_by_imports: dict[str, str]
    ) -> None:
        self._environment = {**set_by_imports, **environment}
        self._set_by_imports = set_by_imports
        self._running: dict[int, socket.socket] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(64)
        self._wake, wake = socket.socketpair()
        for one in (self._wake, wake):
            one.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._waker = wake
        self._selector = selectors.DefaultSelector()
        for readable in (self._socket, self._wake, sys.stdin):
            self._selector.register(readable, selectors.EVENT_READ)

    def serve(self) -> Request:
        """Answer until the standard input ends, which ends the process and its commands."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._socket:
                    connection, _ = self._socket.accept()
                    if (request := self._begin(connection)) is not None:
                        return request
                elif key.fileobj is self._wake:
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)
                    self._tell_ended()
                elif key.fileobj is sys.stdin:
                    self._end()
                else:
                    self._left(key.data)

    def _begin(self, connection: socket.socket) -> Request | None:
        request = receive(connection)
        if request is not None:
            # Who starts a command may have imported the same, or not.
            whole = {**self._set_by_imports, **request.environment}
            request = replace(request, environment=whole)
        if request is None or not may_fork(request.environment, self._environment):
            with contextlib.suppress(OSError):
                connection.sendall(b"exec\n")
            connection.close()
            for file in request.files if request else []:
                os.close(file)
            return None
        pid = os.fork()
        if pid == 0:
            self._close(connection)
            return request
        for file in request.files:
            os.close(file)
        self._running[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            connection.sendall(b"fork %d\n" % pid)
        return None

    def _close(self, connection: socket.socket) -> None:
        """Leave nothing of the server in a forked process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for one in (self._socket, self._wake, self._waker, connection, *self._running.values()):
            one.close()

    def _tell_ended(self) -> None:
        for pid, connection in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError):
                    connection.sendall(b"end %d\n" % os.waitstatus_to_exitcode(status))
                self._forget(pid)

    def _left(self, pid: int) -> None:
        """Who started a command was killed, and with it the command."""
        if pid in self._running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        connection = self._running.pop(pid)
        self._selector.unregister(connection)
        connection.close()

    def _end(self) -> None:
        for pid in list(self._running):
            self._left(pid)
        os._exit(0)


def become(request: Request) -> None:
    """Make this process what a started `python -m clipsearch` is before its first line."""
    os.setsid()
    for number, file in enumerate(request.files):
        os.dup2(file, number)
        os.close(file)
    os.umask(request.mask)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    read_hub_settings()
    sys.argv = request.arguments
    sys.path[0] = request.folder
    sys.stdin = sys.__stdin__ = opened(0, "r", "strict")
    sys.stdout = sys.__stdout__ = opened(1, "w", "strict")
    sys.stderr = sys.__stderr__ = opened(2, "w", "backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def read_hub_settings() -> None:
    """Read what the hub's client takes from the environment when it is imported, anew."""
    if "huggingface_hub.constants" in sys.modules:
        constants = importlib.reload(sys.modules["huggingface_hub.constants"])
        if "huggingface_hub.hf_api" in sys.modules:
            sys.modules["huggingface_hub.hf_api"].api.endpoint = constants.ENDPOINT


def opened(number: int, mode: str, errors: str) -> io.TextIOWrapper:
    """Open a standard file as Python does at its start."""
    lines = number == 2 or os.isatty(number)
    return open(
        number, mode, encoding="utf-8", errors=errors, buffering=1 if lines else -1, closefd=False
    )


def main() -> None:
    """Serve; in a forked process, run its command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = dict(os.environ)
    # Nothing listens before all is imported: who starts a command until then does without.
    import_all()
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    if len(threads) > 1:
        sys.exit(f"the server of commands runs {len(threads)} threads, which forks would lose")
    gc.collect()
    gc.freeze()
    # As our modules tell libraries to report to nobody.
    set_by_imports = {name: os.environ[name] for name in os.environ.keys() - before.keys()}
    become(CommandServer(sys.argv[1], before, set_by_imports).serve())
    option, what, *_ = sys.argv
    del sys.argv[:2]
    if option == "-c":
        run_code(what)
    else:
        run_module(what)


def run_module(name: str) -> None:
    """Run `main` of the package's `__main__`, as `python -m` does."""
    module = importlib.import_module(f"{name}.__main__")
    sys.modules["__main__"] = module
    sys.argv.insert(0, str(module.__file__))
    leave(module.main)


def run_code(code: str) -> None:
    """Run the code as `python -c` does."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv.insert(0, "-c")
    leave(lambda: exec(code, vars(module)))


def leave(command: Callable[[], None]) -> None:
    """Run `command` and end as Python does, but for the half second that freeing modules takes.

    In that order: threads that are no daemons are waited for, then comes what was registered to run
    at the exit (as of `multiprocessing`'s own forks).
    """
    code: object = 0
    try:
        command()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
