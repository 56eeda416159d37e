"""What an examination finds: a line each, with a colour and a mend."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from finetune.errors import ClipsearchError

Colour = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What: "disk".
        colour: "green" is as it should be, "yellow" keeps some commands from working, or may soon,
            "red" keeps clipsearch from working.
        said: What was found, in a few words.
        mend: What to do; "" where nothing is.
    """

    name: str
    colour: Colour
    said: str
    mend: str = ""


Examination = Callable[[], Iterable[Finding]]


def examined(name: str, look: Examination) -> Iterator[Finding]:
    """Yield what `look` finds; one red finding where it fails, which keeps no other from going."""
    try:
        yield from look()
    except ClipsearchError as error:
        yield Finding(name, "red", str(error))
    except Exception as error:  # a doctor that dies of the disease is of no use
        said = " ".join(str(error).split())
        yield Finding(name, "red", f"{type(error).__name__}: {said}", "report this as a bug")
