"""Why each hit is where it is, as a table."""

from typing import TYPE_CHECKING

import click

from clipsearch.engine import Hit, IndexInfo, Page
from finetune.console import printable

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("id", "word", "documents", "idf", "tf", "bm25", "share", "by words", "by image")
_TEXTS = ("id", "word")
_NONE = "-"
_SAME = 1e-4


def write_explanations(page: Page) -> None:
    """Write the table to standard output as lines with tabs, an empty line before it."""
    click.echo()
    for row in (COLUMNS, *(row for hit in page.hits for row in _rows(hit))):
        click.echo("\t".join(row))


def print_explanations(page: Page, *, err: bool) -> None:
    """Print the table for people."""
    from rich.console import Console  # light path: most answers are not explained

    console = Console(stderr=err, highlight=False, markup=False, emoji=False, soft_wrap=True)
    table = _table(page)
    # A narrower terminal wraps, and cuts nothing.
    console.width = max(console.width, console.measure(table).maximum)
    console.print(table)


def weights_told(page: Page, info: IndexInfo) -> list[str]:
    """Return how the scores of explained hits weigh words and vector, where they do: a line."""
    from clipsearch.modes import Weights  # light path: NumPy
    from clipsearch.ranking import most_bm25
    from clipsearch.weighing import share_sum_told, weighted_sum_told

    held = next((hit.explanation for hit in page.hits if hit.explanation is not None), None)
    if held is None or held.bm25_weight is None or held.vector_weight is None:
        return []
    line = f"Scores: {weighted_sum_told(Weights(held.bm25_weight, held.vector_weight))}"
    if info.word_share is not None and held.vector_weight == 1:
        weight = held.bm25_weight * most_bm25(term.idf for term in held.terms)
        if abs(weight / info.word_share.weight - 1) < _SAME:
            return [f"{line}, which for these words is {share_sum_told(weight)}."]
    return [f"{line}."]


def _table(page: Page) -> "Table":
    """Return a row for each word of each hit, the first with its id and ranks."""
    from rich import box  # light path: most answers are not explained
    from rich.table import Table  # light path: most answers are not explained

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in _TEXTS else "right", no_wrap=True)
    for hit in page.hits:
        for number, (id_, *between, by_words, by_image) in enumerate(_rows(hit)):
            ends = (id_, by_words, by_image) if number == 0 else ("", "", "")
            table.add_row(ends[0], *between, *ends[1:])
    return table


def _rows(hit: Hit) -> list[tuple[str, ...]]:
    found, id_ = hit.explanation, printable(hit.document.id)
    if found is None:
        return []
    ranks = [_NONE if n is None else f"{n:,}" for n in (found.rank_by_words, found.rank_by_image)]
    if not found.terms:
        return [(id_, *[_NONE] * 6, *ranks)]
    whole = hit.bm25 or 0.0
    return [
        (
            id_,
            printable(term.word),
            f"{term.documents:,}",
            f"{term.idf:.4f}",
            str(term.frequency),
            f"{term.share:.4f}",
            f"{term.share / whole:.0%}" if whole else _NONE,
            *ranks,
        )
        for term in found.terms
    ]
