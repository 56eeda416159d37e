"""A process that decodes images for `finetune.images.decode_workers`: requests in on stdin,
images out.

Imports Pillow and numpy only, so that it starts in a fraction of a second and stays small.
"""

import contextlib
import os
import pickle
import select
import signal
import sys
import threading
from dataclasses import replace
from typing import BinaryIO

from finetune.images.decode import decode
from finetune.images.decode_requests import Reply, Work
from finetune.images.shared_pixels import SharedPixels

REPLY_BYTES = 1 << 17


def serve(requests: BinaryIO, replies: BinaryIO, begun: int) -> None:
    """Answer requests until the other side is gone.

    Args:
        requests: Pickled: first the Work, then lists of sources.
        replies: Pickled lists with a Reply for each source; small ones go together, as to wake
            the other side takes longer than to decode one.
        begun: A pipe; a byte for each image before it is decoded, so that the other side knows
            at which one this process died.
    """
    work: Work = pickle.load(requests)
    shared = None
    if work.memory is not None:
        shared = SharedPixels(work.memory, work.slots, work.preprocessing)
    while True:
        try:
            sources = pickle.load(requests)
        except EOFError:
            return
        reply: list[Reply] = []
        held = 0
        for slot, source in enumerate(sources):
            os.write(begun, b".")
            decoded = decode(source, work.preprocessing)
            pixels = decoded.pixels
            if pixels is None or shared is None:
                reply.append(Reply(decoded))
                held += 0 if pixels is None else pixels.nbytes
            else:
                shared.put(slot, pixels)
                reply.append(Reply(replace(decoded, pixels=None), slot))
            if held >= REPLY_BYTES or slot == len(sources) - 1:
                pickle.dump(reply, replies, protocol=5)
                replies.flush()
                reply, held = [], 0


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
    """Run as a process of its own; the argument is the descriptor of `begun`, see `serve`."""
    # Ctrl-C is the parent's to handle; a parent that died, however, closes our pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not come between the replies.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    end_with_reader(replies)
    # Half a request, or nobody to reply to: the parent was killed.
    with contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError):
        serve(sys.stdin.buffer, replies, int(sys.argv[1]))
    # Without the interpreter's own exit, which would complain of replies that nobody reads.
    os._exit(0)


if __name__ == "__main__":
    main()
