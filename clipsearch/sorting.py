"""The order of what a query finds, where it is another one than that of its scores."""

from dataclasses import dataclass

SORTED_TEXTS = ("id", "path")


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of what a query finds, in place of its score; equal ones are ordered by id.

    Attributes:
        by: A column of numbers or dates, or one of SORTED_TEXTS. Documents without it are left
            out.
        descending: The greatest first.
    """

    by: str
    descending: bool = False

    @property
    def is_by_number(self) -> bool:
        """Whether it is by a number column."""
        return self.by not in SORTED_TEXTS


def without_value(column: str, count: int | None) -> tuple[str, ...]:
    """Return the note that documents without what they are sorted by are left out; none for 0.

    `count` of them, None where nobody has counted.
    """
    if count == 0:
        return ()
    if count is None:
        return (f"pictures without {column} are left out",)
    noun, verb = ("picture", "is") if count == 1 else ("pictures", "are")
    return (f"{count:,} {noun} without {column} {verb} left out",)
