"""`clipsearch update`: change captions, tags and numbers of documents by hand."""

from pathlib import Path

import click

from clipsearch.cli.completion import complete_ids
from clipsearch.cli.delete import check_known
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
    from clipsearch.engines import feed_lock, is_remote, open_engine  # light path: NumPy
    from clipsearch.feed.by_hand import Changes, change
    from clipsearch.feed.ledger.file import ledger_path
    from clipsearch.feed.ledger.ledger import Ledger
    from clipsearch.feed.ledger.mark import FeedMark
    from clipsearch.feed.upgrade import upgraded
    from clipsearch.search.finding import find_documents

    changes = Changes.parse(captions, tags, numbers)
    engine = open_engine(index)
    try:
        documents = find_documents(engine, ids)
        check_known(documents, ids, index)
        known = list({each.id: each for each in documents if each is not None}.values())
        changes.check(engine.info)
        with (
            feed_lock(index, "update"),
            Ledger.open(ledger or ledger_path(index), "update") as remembered,
        ):
            for note in upgraded(engine, None):
                click.echo(f"Note: {note}.", err=True)
            mark = FeedMark(engine, remembered, alone=not is_remote(index))
            if remembered.index_id == engine.info.index_id and mark.is_current():
                mark.agree()
            mark.begin("")
            outcomes = change(engine, known, changes)
            engine.finish_feed()
            mark.end()
    finally:
        engine.close()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    updated = len(outcomes) - len(failed)
    click.echo(dumps({"updated": updated}) if as_json else f"updated {updated:,}")
    if failed:
        raise EngineError(f"{failed[0].operation.id}: was not changed: {failed[0].error}")
