"""`clipsearch get`: show documents by id."""

from typing import TYPE_CHECKING

import click

from clipsearch.cli.delete import check_known
from clipsearch.cli.options import UTF8, index_option, json_option
from finetune.numerals import number_text, whole_or_float
from finetune.strict_json import dumps
from finetune.terminal import printable

if TYPE_CHECKING:
    from clipsearch.documents import Document


@click.command()
@click.argument("ids", metavar="ID…", nargs=-1, required=True, type=UTF8)
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
    from clipsearch.engines import open_engine  # light path: lancedb
    from clipsearch.finding import find_documents

    engine = open_engine(index)
    try:
        found = find_documents(engine, ids, embeddings=embedding)
    finally:
        engine.close()
    check_known(found, ids, index)
    documents = [document for document in found if document is not None]
    if as_json:
        click.echo(dumps([as_dict(each) for each in documents], indent=2))
    else:
        click.echo("\n\n".join(as_text(each) for each in documents))


def as_dict(document: "Document") -> dict[str, object]:
    """The document for JSON; without `embedding` and `data_set` where it has none."""
    values: dict[str, object] = {
        "id": document.id,
        "captions": list(document.captions),
        "path": document.path,
        "tags": dict(document.tags),
        "numbers": {column: whole_or_float(value) for column, value in document.numbers.items()},
    }
    if document.data_set:
        values["data_set"] = document.data_set
    if document.embedding is not None:
        values["embedding"] = document.embedding.tolist()
    return values


def as_text(document: "Document") -> str:
    """The document for people: a line for each caption, tag and number."""
    lines = [document.id, f"  path: {document.path}"]
    lines += [f"  data set: {document.data_set}"] if document.data_set else []
    lines += [f"  caption: {caption}" for caption in document.captions]
    lines += [f"  {column}: {value}" for column, value in sorted(document.tags.items())]
    lines += [
        f"  {column}: {number_text(value)}" for column, value in sorted(document.numbers.items())
    ]
    if document.embedding is not None:
        lines.append("  embedding: " + " ".join(str(value) for value in document.embedding))
    return "\n".join(printable(line) for line in lines)
