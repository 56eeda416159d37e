"""A process that decodes pictures for `finetune.images.decode_ahead`: requests in on stdin, pixels
out.

Imports Pillow and numpy only, so that it starts in a fraction of a second and stays small.
"""

import contextlib
import hashlib
import os
import pickle
import select
import signal
import sys
import threading
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from finetune.errors import ImageError
from finetune.images.pixels import load_picture
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource, read_bytes

# pixels uint8[h, w, 3] or None, why there are none, sha256 of the file's bytes where readable,
# and a note on how the picture was read
Reply = tuple[npt.NDArray[np.uint8] | None, str | None, str | None, str | None]


def decode(source: ImageSource, preprocessing: Preprocessing) -> Reply:
    """Read and decode one picture. Never raises for a picture that cannot be read."""
    sha256 = None
    try:
        data = read_bytes(source)
        sha256 = hashlib.sha256(data).hexdigest()
        pixels, note = load_picture(data, preprocessing, name=str(source))
        return pixels, None, sha256, note
    except ImageError as error:
        return None, str(error), sha256, None


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer pickled sources until the other side is gone; the first request is the settings."""
    preprocessing = pickle.load(requests)
    while True:
        try:
            source = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(decode(source, preprocessing), replies, protocol=5)
        replies.flush()


def end_with_reader(replies: BinaryIO) -> None:
    """End this process as soon as nobody can read its replies, even while it decodes."""

    def wait() -> None:
        poll = select.poll()
        # An error alone: that the other side is gone. It is told of without being asked for.
        poll.register(replies, 0)
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run as a process of its own."""
    # Ctrl-C is the parent's to handle; a parent that died, however, closes our pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not come between the replies.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    end_with_reader(replies)
    # Half a request, or nobody to reply to: the parent was killed.
    with contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError):
        serve(sys.stdin.buffer, replies)
    # Without the interpreter's own exit, which would complain of replies that nobody reads.
    os._exit(0)


if __name__ == "__main__":
    main()
