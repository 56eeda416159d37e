"""What passes between a process and its decoding workers. Imports Pillow and numpy only."""

from dataclasses import dataclass

from finetune.images.decode import Decoded
from finetune.images.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is told first.

    Attributes:
        preprocessing: Of all images.
        memory: The descriptor of `SharedPixels`; None sends pixels with the replies.
        slots: Images that it holds; as many as are asked for at once, at most.
    """

    preprocessing: Preprocessing
    memory: int | None
    slots: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer for one image; `slot` is where its pixels lie, None where they are with it."""

    decoded: Decoded
    slot: int | None = None
