"""Arguments that take several texts, where one text would be taken for its letters."""

from collections.abc import Iterable

from finetune.errors import UsageError


def is_one_text(values: object) -> bool:
    """Return whether it is a single text, of which a loop would take the letters."""
    return isinstance(values, str | bytes)


def check_several(values: Iterable[object] | None, what: str) -> None:
    """Raise UsageError where a single text was given for a list of texts.

    `what` names the function or setting: "Search.get".
    """
    if is_one_text(values):
        raise UsageError(f"{what} takes a list of texts, not one text: write [{values!r}]")
