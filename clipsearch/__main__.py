"""`clipsearch` and `python -m clipsearch`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback from the first moment on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Takes a while, in which there is nothing yet to stop in good order.
    from clipsearch.cli import main as run

    run()


if __name__ == "__main__":
    main()
