"""`clipsearch delete`: remove documents by id."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clipsearch.cli.completion import complete_ids
from clipsearch.cli.messages import note
from clipsearch.cli.options import UTF8, index_option, json_option, ledger_option, yes_option
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
@yes_option("Do not ask.")
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
    from clipsearch.engines import open_engine  # light path: NumPy
    from clipsearch.feed.by_hand import by_hand, first_error
    from clipsearch.feed.removal import delete as remove
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
        with by_hand(engine, index, ledger, "delete") as hand:
            for told in hand.begin():
                note(f"{told}.")
            outcomes = list(remove(engine, hand.ledger, wanted))
    finally:
        engine.close()
    removed = sum(outcome.error is None for outcome in outcomes)
    click.echo(dumps({"removed": removed}) if as_json else f"removed {removed:,}")
    failure = first_error(outcomes, "removed")
    if failure is not None:
        raise EngineError(failure)


def check_known(found: Sequence[object], ids: Sequence[str], index: str) -> None:
    """Raise DocumentNotFoundError, naming them, where documents of some ids were not found."""
    missing = [name for name, document in zip(ids, found, strict=True) if document is None]
    if not missing:
        return
    named = ", ".join(printable(shown_id(name)) or "''" for name in missing[:MOST_NAMED])
    if len(missing) > MOST_NAMED:
        named += f" and {len(missing) - MOST_NAMED:,} more"
    raise DocumentNotFoundError(
        f"{index}: has no document {named}; ids are shown by: clipsearch list --ids"
    )


def _read_ids() -> list[str]:
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8; write the ids in UTF-8") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UsageError("standard input holds no ids; give one a line")
    return ids
