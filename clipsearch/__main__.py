"""`clipsearch` and `python -m clipsearch`."""

import signal
import sys

WINDOWS = (
    "Error: clipsearch runs on Linux and macOS; on Windows run it in WSL 2 (wsl --install), where"
    " all of it works: its indexes are locked and replaced in ways that Windows does not have."
)


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback from the first moment on."""
    if sys.platform == "win32":
        sys.exit(WINDOWS)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Takes a while, in which there is nothing yet to stop in good order.
    from clipsearch.cli import main as run

    run()


if __name__ == "__main__":
    main()
