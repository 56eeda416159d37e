"""`clipsearch list`."""

import click

from clipsearch.cli.answers import show
from clipsearch.cli.search_options import SearchOptions, list_options
from clipsearch.search.answer import answer_list
from clipsearch.search.search import Search
from finetune.manifest.inputs import check_sheet


@click.command()
@list_options
def list(options: SearchOptions) -> int:
    """List the pictures of an index, or those that pass the filters, page by page.

    By id, unless --sort says otherwise. Needs no encoder.

    \b
    Examples:
      clipsearch list --index photos.index
      clipsearch list --filter class=beach --facet place --page 2
      clipsearch list --filter "year>=2010" --sort -year --sheet newest.html
    """
    if options.sheet is not None:
        check_sheet(options.sheet, options.asked.k, inputs=[])
    with Search.open(options.index) as search:
        answer = answer_list(search, options.asked, images=options.images)
        return show(answer, as_json=options.as_json, sheet=options.sheet, listing=options.listing)
