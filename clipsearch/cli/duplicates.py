"""`clipsearch duplicates`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli.messages import note
from clipsearch.cli.options import index_option, json_option, moved_images_option
from finetune.console import printable

if TYPE_CHECKING:
    from clipsearch.duplicates.grouping import DuplicateGroup, Reason
    from clipsearch.engine import IndexInfo

# As in clipsearch.duplicates.grouping, whose NumPy `--help` does without.
_REASONS = ("content", "look", "embedding")
_MIN_COSINE = 0.98
_CELLS = 400
_MEMBERS_SHOWN = 50
_FEW = 100


@click.command()
@index_option
@click.option(
    "--by",
    "reasons",
    type=click.Choice(_REASONS),
    multiple=True,
    default=_REASONS,
    help="What is compared: the bytes, the perceptual hash, the embedding; may be repeated."
    " [default: all three]",
)
@click.option(
    "--min-cosine",
    metavar="NUMBER",
    type=float,
    default=_MIN_COSINE,
    show_default=True,
    help="Cosine from which two embeddings are alike, above 0 and up to 1.",
)
@click.option("--mark", is_flag=True, help="Write the groups into the index, for query --collapse.")
@moved_images_option
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Write a contact sheet of the first {_CELLS} pictures, .html or .png.",
)
@json_option
def duplicates(
    index: str,
    reasons: "tuple[Reason, ...]",
    min_cosine: float,
    mark: bool,
    images: Path | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Show which pictures of an index are nearly the same, in groups.

    Each picture of a group is like the first, which stands for the others: its bytes or its
    perceptual hash are the same, or its embedding reaches --min-cosine with the first's.

    Every embedding is compared with every other: for ten times the pictures it takes a hundred
    times as long (--by content --by look compares none). All embeddings are held in memory.

    \b
    Examples:
      clipsearch duplicates --index photos.index --sheet duplicates.html
      clipsearch duplicates --index photos.index --by content --by look --json
      clipsearch duplicates --index photos.index --mark
      clipsearch query "two dogs" --index photos.index --collapse
    """
    from clipsearch.duplicates.grouping import duplicate_groups  # light path: NumPy
    from clipsearch.duplicates.marking import mark as write_looks
    from clipsearch.engines import feed_lock, open_engine
    from clipsearch.feed.upgrade import upgraded
    from clipsearch.search.answer import json_text
    from finetune.manifest.inputs import check_sheet

    if sheet is not None:
        check_sheet(sheet, _CELLS)
    engine = open_engine(index)
    try:
        documents = list(engine.visit(embeddings=True))
        groups = duplicate_groups(documents, reasons=reasons, min_cosine=min_cosine)
        marked = None
        if mark:
            with feed_lock(index, "feed"):
                for told in upgraded(engine, None):
                    note(f"{told}.")
                marked = write_looks(engine, documents, groups, reasons)
        if as_json:
            click.echo(json_text(_as_json(groups, len(documents), marked), indent=2))
        else:
            _print(groups, len(documents), marked)
        if sheet is not None:
            _write_sheet(groups, sheet, engine.info, images)
            click.echo(f"Wrote {sheet}", err=True)
    finally:
        engine.close()


def _as_json(groups: "list[DuplicateGroup]", documents: int, marked: int | None) -> dict[str, Any]:
    return {
        "documents": documents,
        "groups": [
            {
                "by": list(group.reasons),
                "documents": [
                    {
                        "id": member.document.id,
                        "path": member.document.path,
                        "cosine": member.cosine,
                    }
                    for member in group.members
                ],
            }
            for group in groups
        ],
        **({} if marked is None else {"marked": marked}),
    }


def _print(groups: "list[DuplicateGroup]", documents: int, marked: int | None) -> None:
    if groups:
        click.echo("cosine with the first of the group, and id")
    for number, group in enumerate(groups, 1):
        click.echo(f"{number}. by {', '.join(group.reasons)}")
        for member in group.members[:_MEMBERS_SHOWN]:
            click.echo(f"   {member.cosine:z.4f}  {printable(member.document.id)}")
        if len(group.members) > _MEMBERS_SHOWN:
            more = len(group.members) - _MEMBERS_SHOWN
            click.echo(f"   and {more:,} more (--json has them all)")
    held = sum(len(group.members) for group in groups)
    named = "1 group" if len(groups) == 1 else f"{len(groups):,} groups"
    click.echo(f"{named} with {held:,} of {documents:,} pictures")
    if marked is not None:
        click.echo(f"marked {marked:,} documents")
    largest = max((group for group in groups), key=lambda each: len(each.members), default=None)
    if largest is None or 10 * len(largest.members) < documents or documents < _FEW:
        return
    if "embedding" in largest.reasons:
        note(
            f"the largest group holds {len(largest.members):,} of {documents:,} pictures: a higher"
            f" --min-cosine tells them apart"
        )


def _write_sheet(
    groups: "list[DuplicateGroup]", path: Path, info: "IndexInfo", images: Path | None
) -> None:
    from clipsearch.search.images import ImageFolders  # light path: NumPy, Pillow
    from finetune.images.contact_sheet import write_sheet
    from finetune.images.thumbnails import Cell

    folders = ImageFolders(info, images)
    cells = [
        Cell(
            image=folders.source(member.document.path),
            title=f"{number}. {member.cosine:z.4f}  {member.document.id}",
            text=f"group {number}, by {', '.join(group.reasons)}",
            missing=f"{member.document.path or 'picture'} not found; say where with"
            " --images FOLDER",
        )
        for number, group in enumerate(groups, 1)
        for member in group.members
    ]
    write_sheet(path, cells[:_CELLS], f"near duplicates: {len(groups):,} groups")
