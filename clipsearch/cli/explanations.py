"""Why each hit is where it is, as a table."""

from collections.abc import Sequence

import click

from clipsearch.engine import Hit, IndexInfo, Page
from finetune.console import printable

COLUMNS = ("id", "word", "documents", "idf", "tf", "bm25", "share", "by words", "by image")
_NONE = "-"
_SAME = 1e-4


def write_explanations(page: Page) -> None:
    """Write the table to standard output as lines with tabs, an empty line before it."""
    click.echo()
    for row in (COLUMNS, *(row for hit in page.hits if hit.explanation for row in _rows(hit))):
        click.echo("\t".join(row))


def print_explanations(page: Page, *, err: bool) -> None:
    """Print a block for each hit, for people: its id and ranks, and a line for each word."""
    told = [_rows(hit) for hit in page.hits if hit.explanation is not None]
    widths = [
        max(len(name), *(len(row[at]) for rows in told for row in rows))
        for at, name in enumerate(COLUMNS)
    ]

    def line(cells: Sequence[str]) -> str:
        word, *numbers = list(zip(cells, widths, strict=True))[1:-2]
        aligned = (text.rjust(width) for text, width in numbers)
        return "  ".join((word[0].ljust(word[1]), *aligned)).rstrip()

    click.echo(f"\n    {line(COLUMNS)}", err=err)
    for rows in told:
        id_, *_, by_words, by_image = rows[0]
        click.echo(f"{id_}: rank by words {by_words}, by image {by_image}", err=err)
        for row in rows:
            if row[1] != _NONE:
                click.echo(f"    {line(row)}", err=err)


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


def _rows(hit: Hit) -> list[tuple[str, ...]]:
    found, id_ = hit.explanation, printable(hit.document.id)
    assert found is not None
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
