"""`clipsearch similar`."""

import click

from clipsearch.cli.answers import show
from clipsearch.cli.completion import complete_ids
from clipsearch.cli.locating import check_locate, locator
from clipsearch.cli.options import UTF8, device_option, moved_encoder_option
from clipsearch.cli.search_options import SearchOptions, search_options
from clipsearch.modes import MODES
from clipsearch.search.answer import answer_similar
from clipsearch.search.options import SIMILAR_MODE
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.manifest.inputs import check_sheet


@click.command()
@click.argument("id", type=UTF8, shell_complete=complete_ids)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=SIMILAR_MODE,
    show_default=True,
    help="The ranking; all but vector look also for the words of its captions.",
)
@moved_encoder_option
@device_option
@search_options
def similar(id: str, encoder: str | None, device: str, options: SearchOptions) -> int:
    """Show the pictures nearest to one of the index, which is itself left out.

    By its vector alone, or, with --mode hybrid, by the words of its captions as well.

    Needs no encoder, but for --locate.

    \b
    Examples:
      clipsearch similar beach/0001.jpg
      clipsearch similar beach/0001.jpg --filter class!=beach --sheet near.png
      clipsearch similar beach/0001.jpg --mode hybrid --collapse
      clipsearch similar beach/0001.jpg --sheet where.html --locate
    """
    check_locate(options)
    if options.sheet is not None:
        check_sheet(options.sheet, options.asked.k, inputs=[encoder])
    with Search.open(options.index, encoder=encoder, device=device) as search:
        answer = answer_similar(search, id, options.asked, images=options.images)
        locate = locator(search, [Part("id", id)]) if options.locate else None
        return show(
            answer,
            as_json=options.as_json,
            sheet=options.sheet,
            locate=locate,
            listing=options.listing,
        )
