"""`clipsearch similar`."""

import click

from clipsearch.cli.answers import show
from clipsearch.cli.options import UTF8
from clipsearch.cli.search_options import SearchOptions, search_options
from clipsearch.search.answer import answer_similar
from clipsearch.search.search import Search
from finetune.manifest.inputs import check_sheet


@click.command()
@click.argument("id", type=UTF8)
@search_options
def similar(id: str, options: SearchOptions) -> int:
    """The pictures nearest to one of the index, which is itself left out. Needs no encoder.

    \b
    clipsearch similar beach/0001.jpg
    clipsearch similar beach/0001.jpg --filter class!=beach --sheet near.png
    """
    if options.sheet is not None:
        check_sheet(options.sheet, options.k)
    with Search.open(options.index) as search:
        answer = answer_similar(
            search,
            id,
            k=options.k,
            page=options.page,
            filters=options.filters,
            facets=options.facets,
            exact=options.exact,
            images=options.images,
        )
        return show(answer, as_json=options.as_json, sheet=options.sheet)
