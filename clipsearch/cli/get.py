"""`clipsearch get`: show documents by id."""

from typing import TYPE_CHECKING

import click

from clipsearch.cli.completion import complete_ids
from clipsearch.cli.delete import check_known
from clipsearch.cli.options import UTF8, index_option, json_option
from finetune.console import printable
from finetune.text.numerals import number_text
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.documents import Document


@click.command()
@click.argument(
    "ids", metavar="ID…", nargs=-1, required=True, type=UTF8, shell_complete=complete_ids
)
@index_option
@click.option("--embedding", is_flag=True, help="Show the embedding too.")
@json_option
def get(ids: tuple[str, ...], index: str, embedding: bool, as_json: bool) -> None:
    """Show what an index holds of documents.

    \b
    Examples:
      clipsearch get beach/0001.jpg --index photos.index
      clipsearch get beach/0001.jpg beach/0002.jpg --embedding --json --index photos.index
    """
    from clipsearch.engines import open_engine  # light path: NumPy
    from clipsearch.search.finding import find_documents

    engine = open_engine(index)
    try:
        found = find_documents(engine, ids, embeddings=embedding)
    finally:
        engine.close()
    check_known(found, ids, index)
    documents = [document for document in found if document is not None]
    if as_json:
        click.echo(dumps([each.to_show() for each in documents], indent=2))
    else:
        click.echo("\n\n".join(as_text(each) for each in documents))


def as_text(document: "Document") -> str:
    """Return the document for people: a line for each text, caption, tag and number."""
    from clipsearch.documents import PARTS  # light path: NumPy

    shown = document.to_show()
    lines = [shown.pop("id")]
    for kind in (str, list, dict):
        for name, value in shown.items():
            if isinstance(value, kind) and name in PARTS:
                lines += _lines(PARTS[name].label, value)
    if document.embedding is not None:
        lines.append("  embedding: " + " ".join(str(value) for value in document.embedding))
    return "\n".join(printable(line) for line in lines)


def _lines(label: str, value: object) -> list[str]:
    if isinstance(value, list):
        return [f"  {label}: {text}" for text in value]
    if isinstance(value, dict):
        return [
            f"  {column}: {one if isinstance(one, str) else number_text(one)}"
            for column, one in sorted(value.items())
        ]
    return [f"  {label}: {value}"]
