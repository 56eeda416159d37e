"""Ctrl-C once ends the process within two seconds, whatever it is doing.

Python raises KeyboardInterrupt between two of its own instructions. While a library decodes a large
image, or a thread is waited for that runs the model, that may be long after the signal. So a
thread of our own is told of signals at once, and ends the process where it has not ended by itself
a moment later. Nothing is lost by that which kill -9 would not lose: what was acknowledged is kept,
and worker processes end with this one.

Training is left alone at the first signal: it ends its step and saves a checkpoint.
"""

import os
import signal
import sys
import threading
import time

from finetune.training import interruption

GRACE_SECONDS = 1.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_soon_after_signals(exit_code: int) -> None:
    """Watch SIGINT and SIGTERM from now on; call it once, in the main thread.

    Args:
        exit_code: Of a process that is ended.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The system's own handler writes the signal's number there, whatever Python is doing.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(
        target=_watch, args=(reader, exit_code), name="clipsearch-signals", daemon=True
    ).start()


def _watch(reader: int, exit_code: int) -> None:
    left_alone: interruption.Interruption | None = None
    while number := os.read(reader, 1):
        if number[0] not in _SIGNALS:
            continue
        saving = interruption.current()
        if saving is not None and saving is not left_alone:
            left_alone = saving
            continue
        time.sleep(GRACE_SECONDS)
        for stream in (sys.stdout, sys.stderr):
            # Whoever holds its lock may be what hangs.
            threading.Thread(target=stream.flush, daemon=True).start()
        os.write(2, b"Stopped.\n")
        os._exit(exit_code)
