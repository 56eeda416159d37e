"""`clipsearch delete`: remove documents by id."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clipsearch.cli.completion import complete_ids
from clipsearch.cli.options import UTF8, index_option, json_option, ledger_option
from clipsearch.storable import shown_id
from finetune.console import printable
from finetune.errors import DocumentNotFoundError, EngineError, UsageError
from finetune.text.strict_json import dumps

MOST_NAMED = 5


@click.command()
@click.argument(
    "ids", metavar="ID…|-", nargs=-1, required=True, type=UTF8, shell_complete=complete_ids
)
@index_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@ledger_option
@json_option
def delete(ids: tuple[str, ...], index: str, yes: bool, ledger: Path | None, as_json: bool) -> None:
    """Remove documents from an index; the pictures themselves stay.

    With - the ids are read from standard input, one a line. Where one of them is not in the
    index, nothing is removed.

    \b
    Examples:
      clipsearch delete beach/0001.jpg --index photos.index
      clipsearch delete - --yes --index photos.index < ids.txt
    """
    from clipsearch.engines import feed_lock, is_remote, open_engine  # light path: NumPy
    from clipsearch.feed.ledger.file import ledger_path
    from clipsearch.feed.ledger.ledger import Ledger
    from clipsearch.feed.ledger.mark import FeedMark
    from clipsearch.feed.removal import delete as remove
    from clipsearch.feed.upgrade import upgraded
    from clipsearch.search.finding import find_documents

    from_stdin = ids == ("-",)
    wanted = list(dict.fromkeys(_read_ids() if from_stdin else ids))
    if not yes and (from_stdin or not sys.stdin.isatty()):
        raise UsageError("nobody can be asked here: add --yes to remove without a question")
    engine = open_engine(index)
    try:
        documents = find_documents(engine, wanted)
        check_known(documents, wanted, index)
        wanted = list(dict.fromkeys(each.id for each in documents if each is not None))
        if not yes:
            click.confirm(f"Remove {len(wanted):,} documents from {index}?", abort=True, err=True)
        # Not before: a question that waits for its answer must not keep a feed out.
        with (
            feed_lock(index, "delete"),
            Ledger.open(ledger or ledger_path(index), "delete") as known,
        ):
            for note in upgraded(engine, None):
                click.echo(f"Note: {note}.", err=True)
            mark = FeedMark(engine, known, alone=not is_remote(index))
            if known.index_id == engine.info.index_id and mark.is_current():
                mark.agree()
            mark.begin("")
            outcomes = list(remove(engine, known, wanted))
            engine.finish_feed()
            mark.end()
    finally:
        engine.close()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    removed = len(outcomes) - len(failed)
    click.echo(dumps({"removed": removed}) if as_json else f"removed {removed:,}")
    if failed:
        raise EngineError(f"{failed[0].operation.id}: was not removed: {failed[0].error}")


def check_known(found: Sequence[object], ids: Sequence[str], index: str) -> None:
    """Raise DocumentNotFoundError, naming them, where documents of some ids were not found."""
    missing = [name for name, document in zip(ids, found, strict=True) if document is None]
    if not missing:
        return
    named = ", ".join(printable(shown_id(name)) or "''" for name in missing[:MOST_NAMED])
    if len(missing) > MOST_NAMED:
        named += f" and {len(missing) - MOST_NAMED:,} more"
    raise DocumentNotFoundError(f"{index}: has no document {named}")


def _read_ids() -> list[str]:
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8; write the ids in UTF-8") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UsageError("standard input holds no ids; give one a line")
    return ids
