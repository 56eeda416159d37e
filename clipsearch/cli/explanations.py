"""Why each hit is where it is, as a table."""

from typing import TYPE_CHECKING

from clipsearch.engine import Hit, Page
from finetune.console import printable

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("#", "word", "documents", "idf", "tf", "bm25", "share", "by words", "by image")
PLAIN_WIDTH = 120
_NONE = "-"


def explanation_table(page: Page) -> "Table":
    """Return a row for each word of each hit, the first with the ranks of the hit."""
    from rich import box  # light path: most answers are not explained
    from rich.table import Table  # light path: most answers are not explained

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "word" else "right", no_wrap=True)
    for rank, hit in enumerate(page.hits, page.offset + 1):
        for row in _rows(rank, hit):
            table.add_row(*row)
    return table


def print_explanations(page: Page, *, err: bool) -> None:
    """Print the table, and how the scores weigh words and vector."""
    from rich.console import Console  # light path: most answers are not explained

    console = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(explanation_table(page))
    if line := weights_line(page):
        console.print(line)


def weights_line(page: Page) -> str:
    """Return how the scores weigh words and vector; "" where they do not."""
    held = next((hit.explanation for hit in page.hits if hit.explanation is not None), None)
    if held is None or held.bm25_weight is None or held.vector_weight is None:
        return ""
    return f"Weights: {held.bm25_weight:g} of bm25, {held.vector_weight:g} of the cosine."


def _rows(rank: int, hit: Hit) -> list[tuple[str, ...]]:
    found = hit.explanation
    if found is None:
        return []
    ranks = [_NONE if n is None else f"{n:,}" for n in (found.rank_by_words, found.rank_by_image)]
    if not found.terms:
        return [(str(rank), *[""] * 6, *ranks)]
    whole = hit.bm25 or 0.0
    return [
        (
            "" if number else str(rank),
            printable(term.term),
            f"{term.documents:,}",
            f"{term.idf:.4f}",
            str(term.frequency),
            f"{term.share:.4f}",
            f"{term.share / whole:.0%}" if whole else _NONE,
            *(["", ""] if number else ranks),
        )
        for number, term in enumerate(found.terms)
    ]
