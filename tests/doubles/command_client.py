"""Be as Python is with these arguments, by the server that CLIPSEARCH_TEST_COMMANDS names.

`-m clipsearch …` and `-c CODE …` are all that it knows (see command_server).

Runs with -S and -I, and imports nothing but the standard library: it is to start in milliseconds.
"""

import json
import os
import signal
import socket
import sys

VARIABLE = "CLIPSEARCH_TEST_COMMANDS"
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def become_python() -> None:
    """Turn into a Python of its own."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def ask(connection: socket.socket) -> None:
    """Send the request, with the standard files."""
    mask = os.umask(0)
    os.umask(mask)
    told = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "mask": mask,
    }
    body = json.dumps(told).encode()
    socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(body)


def main() -> None:
    """Ask, pass signals on, and end as the command ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ[VARIABLE])
        ask(connection)
        answers = connection.makefile("rb")
        kind, *numbers = answers.readline().split()
    except (KeyError, OSError, ValueError):
        become_python()
    if kind != b"fork":
        become_python()
    pid = int(numbers[0])
    for number in PASSED_ON:
        signal.signal(number, lambda sent, _: os.kill(pid, sent))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    for number in range(3):
        os.close(number)
    words = answers.readline().split()
    code = int(words[1]) if words else 1
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
