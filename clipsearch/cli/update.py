"""`clipsearch update`: change captions, tags and numbers of documents by hand."""

from pathlib import Path

import click

from clipsearch.cli.completion import complete_ids, complete_tags
from clipsearch.cli.delete import check_known
from clipsearch.cli.messages import note
from clipsearch.cli.options import UTF8, index_option, json_option, ledger_option
from finetune.errors import EngineError
from finetune.text.strict_json import dumps


@click.command()
@click.argument(
    "ids", metavar="ID…", nargs=-1, required=True, type=UTF8, shell_complete=complete_ids
)
@index_option
@click.option(
    "--caption",
    "captions",
    type=UTF8,
    multiple=True,
    help="The new caption; repeated, all of them. They take the place of those before.",
)
@click.option(
    "--tag",
    "tags",
    type=UTF8,
    multiple=True,
    shell_complete=complete_tags,
    metavar="COLUMN=VALUE",
    help="A tag's new value; without a value the tag is taken away.",
)
@click.option(
    "--number",
    "numbers",
    type=UTF8,
    multiple=True,
    metavar="COLUMN=VALUE",
    help="A number's new value; without a value it is taken away.",
)
@ledger_option
@json_option
def update(
    ids: tuple[str, ...],
    index: str,
    captions: tuple[str, ...],
    tags: tuple[str, ...],
    numbers: tuple[str, ...],
    ledger: Path | None,
    as_json: bool,
) -> None:
    """Change captions, tags and numbers of documents by hand; embeddings stay.

    What is not named stays. A later feed leaves the change alone until the manifest's own row of
    the image changes. Where one of the ids is not in the index, nothing is changed.

    \b
    Examples:
      clipsearch update beach/0001.jpg --tag class=beach --index photos.index
      clipsearch update beach/0001.jpg --caption "two dogs" --caption "dogs on sand"
      clipsearch update beach/0001.jpg beach/0002.jpg --tag draft= --number year=2012
    """
    from clipsearch.engines import open_engine  # light path: NumPy
    from clipsearch.feed.by_hand import Changes, by_hand, change, first_error
    from clipsearch.search.finding import find_documents

    changes = Changes.parse(captions, tags, numbers)
    engine = open_engine(index)
    try:
        check_known(find_documents(engine, ids), ids, index)
        changes.check(engine.info)
        with by_hand(engine, index, ledger, "update") as hand:
            # Anew: a feed may have written them before it was kept out.
            documents = find_documents(engine, ids)
            check_known(documents, ids, index)
            known = list({each.id: each for each in documents if each is not None}.values())
            for told in hand.begin():
                note(f"{told}.")
            outcomes = change(engine, known, changes)
    finally:
        engine.close()
    updated = sum(outcome.error is None for outcome in outcomes)
    click.echo(dumps({"updated": updated}) if as_json else f"updated {updated:,}")
    failure = first_error(outcomes, "changed")
    if failure is not None:
        raise EngineError(failure)
