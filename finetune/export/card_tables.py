"""Tables and numbers of a model card, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.export.card_metadata import without_places


def cell(value: object) -> str:
    """Return a value as a cell holds it."""
    if value is None:
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def figure(value: float | None) -> str:
    """Return a figure of an evaluation, to three digits."""
    return "–" if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """Return a whole number."""
    return "–" if value is None else f"{value:,}"


def size(bytes_: float) -> str:
    """Return a file's size in megabytes, as file managers count."""
    return f"{bytes_ / 1e6:,.1f} MB"


def memory(bytes_: float) -> str:
    """Return an amount of memory in GiB."""
    return f"{bytes_ / 2**30:,.2f} GiB"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def pairs(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    """Return a table of two columns."""
    lines = [f"| {cell(name)} | {cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def counts(kind: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return a row for each mapping, a column for each of their keys."""
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    lines = [
        " | ".join([cell(without_places(label)), *(count(found.get(name)) for name in names)])
        for label, found in rows
    ]
    head = f"| {' | '.join([kind, *names])} |\n|---|{'---:|' * len(names)}"
    return "\n".join([head, *(f"| {line} |" for line in lines)])
