"""`clipsearch copy`: an index into another engine, or into a Parquet file, without encoding."""

from pathlib import Path

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.messages import note
from clipsearch.cli.options import NamedPath, json_option
from finetune.text.strict_json import dumps


@click.command()
@click.argument("source", metavar="FROM", type=NamedPath())
@click.argument("target", metavar="TO", type=NamedPath())
@json_option
def copy(source: str, target: str, as_json: bool) -> int:
    """Copy an index into a new one of either engine, or into Parquet; nothing is encoded.

    FROM is an index. TO is a folder that is not there yet, the address of a Vespa that was deployed
    for the same encoder and is empty, or FILE.parquet: a manifest with vectors, which feeds a new
    index. Where the copy was stopped, remove what it left and run it again.

    \b
    Examples:
      clipsearch copy photos.index http://localhost:8080
      clipsearch copy http://localhost:8080 backup.index
      clipsearch copy photos.index photos.parquet
    """
    from clipsearch.feed.copying import PARQUET, copy_index, write_parquet  # light path: NumPy

    if target.endswith(PARQUET) and "://" not in target:
        count = write_parquet(source, Path(target))
        click.echo(
            dumps({"copied": count, "refused": []})
            if as_json
            else f"wrote {count:,} documents to {target}"
        )
        return 0
    count, refused = copy_index(source, target)
    if as_json:
        told = [{"id": each.operation.id, "reason": each.error} for each in refused]
        click.echo(dumps({"copied": count, "refused": told}))
    else:
        click.echo(f"copied {count:,} documents to {target}")
        for each in refused[:10]:
            note(f"{each.operation.id} was refused: {each.error}")
    return EXIT_SOME_REJECTED if refused else 0
