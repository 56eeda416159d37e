"""`clipsearch demo`."""

from collections.abc import Sequence
from pathlib import Path

import click

from clipsearch.cli import cli
from clipsearch.cli.options import port_option, yes_option
from clipsearch.demo.whole import INDEX, is_whole
from finetune.errors import UsageError
from finetune.installing import install_command


@click.command()
@click.option(
    "--out",
    metavar="FOLDER",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for pictures, encoder, index and contact sheets; an earlier demo is replaced.",
)
@click.option("--seed", metavar="N", default=0, show_default=True, help="Of pictures and training.")
@click.option(
    "--epochs",
    metavar="N",
    type=click.IntRange(1),
    default=None,
    help="Fewer train a quicker, worse encoder.",
)
@yes_option("Replace also a demo of an earlier version, which has no list of its files.")
@click.option(
    "--serve",
    is_flag=True,
    help="Then show it as a page, until Ctrl-C; at once where the demo is there already.",
)
@port_option
def demo(out: Path, seed: int, epochs: int | None, yes: bool, serve: bool, port: int) -> int:
    """Walk the whole road on made-up pictures, in about 90 seconds.

    Renders 3,072 captioned pictures of coloured shapes, fine-tunes a small CLIP from scratch,
    exports it, feeds an embedded index, and searches it in every mode. Ten combinations of shape
    and colour are held out of training: the figures before and after are of those.

    \b
    Examples:
      clipsearch demo
      clipsearch demo --out /tmp/shapes --seed 1
      clipsearch demo --serve
    """
    if not serve or not is_whole(out):
        _walk(out, seed, epochs, yes)
    if not serve:
        return 0
    return _run(["serve", "--index", str(out / INDEX), "--port", str(port)])


def _walk(out: Path, seed: int, epochs: int | None, yes: bool) -> None:
    try:
        from clipsearch.demo.demo import EPOCHS, run_demo  # torch takes seconds to import
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("clipsearch", "finetune")):
            raise
        raise UsageError(
            f"the demo trains, and {error.name} is not installed;"
            f" install it with: {install_command('finetune')}"
        ) from error
    run_demo(out, _run, click.echo, seed=seed, epochs=epochs or EPOCHS, yes=yes)


def _run(arguments: Sequence[str]) -> int:
    code: int | None = cli.main(list(arguments), prog_name="clipsearch", standalone_mode=False)
    return code or 0
