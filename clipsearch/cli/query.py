"""`clipsearch query`."""

import sys
from collections.abc import Callable
from dataclasses import replace

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.answers import exit_code, show
from clipsearch.cli.completion import complete_ids
from clipsearch.cli.image_addresses import image_file, private_addresses_option
from clipsearch.cli.locating import check_locate, locator
from clipsearch.cli.options import UTF8, device_option, moved_encoder_option
from clipsearch.cli.search_options import SearchOptions, search_options, synonyms_option
from clipsearch.modes import MODES
from clipsearch.search.answer import Answer, answer_json, answer_query, json_text
from clipsearch.search.parts import Part, parse_part
from clipsearch.search.search import Search
from finetune.errors import UsageError
from finetune.images.addresses import FetchLimits
from finetune.images.pixel_box import parse_pixel_box
from finetune.manifest.inputs import check_sheet


@click.command()
@click.argument("text", required=False, type=UTF8)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="The ranking. [default: hybrid, or vector where the query has no text]",
)
@click.option(
    "--text",
    "texts",
    type=UTF8,
    multiple=True,
    metavar="TEXT[:WEIGHT]",
    help="One more text; a negative weight moves away from it.",
)
@click.option(
    "--image",
    "query_images",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="A picture to search by.",
)
@click.option(
    "--id",
    "ids",
    type=UTF8,
    multiple=True,
    metavar="ID[:WEIGHT]",
    shell_complete=complete_ids,
    help="A picture of the index to search by.",
)
@click.option(
    "--vector",
    "vectors",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="A ready vector to search by (.npy).",
)
@click.option(
    "--words",
    type=UTF8,
    multiple=True,
    metavar="TEXT",
    help="Words that count as such alone, beside the vector of a picture, say; no operators.",
)
@click.option(
    "--crop",
    metavar="X,Y,W,H",
    help="Search by this part of the --image, in pixels from its upper left.",
)
@click.option(
    "--plain", is_flag=True, help='Take the texts as they stand: " - + * are no operators.'
)
@click.option(
    "--explain", is_flag=True, help="Say of each hit what each word is worth, and its ranks."
)
@synonyms_option
@moved_encoder_option
@device_option
@private_addresses_option
@search_options
def query(
    text: str | None,
    texts: tuple[str, ...],
    query_images: tuple[str, ...],
    ids: tuple[str, ...],
    vectors: tuple[str, ...],
    words: tuple[str, ...],
    crop: str | None,
    encoder: str | None,
    device: str,
    limits: FetchLimits,
    options: SearchOptions,
) -> int:
    """Search by TEXT, by pictures, or by a weighted mix.

    TEXT of - reads queries from standard input, one a line, and answers in JSON lines.

    \b
    Examples:
      clipsearch query "two dogs on a beach"
      clipsearch query "two dogs" --mode bm25 --filter class=beach --facet class
      clipsearch query 'butterfl* "on a leaf" +red -moth'
      clipsearch query --image photo.jpg --sheet found.html
      clipsearch query --image https://example.org/photo.jpg -k 3
      clipsearch query --image photo.jpg --crop 40,20,200,150
      clipsearch query "a red car" --sheet where.html --locate
      clipsearch query --image photo.jpg --words "two dogs" --bm25-weight 0.3
      clipsearch query "two dogs" --min-cosine 0.25 --sort -year
      clipsearch query "two dogs" --collapse
      clipsearch query --text "beach:2" --text "people:-1" --image a.jpg:0.5
      cat queries.txt | clipsearch query - -k 3

    A weight is the plain number after the last colon of --text, --image, --id or --vector. A
    value that itself ends in a colon and a number is written with its weight: "ratio 3:4:1" is
    the text "ratio 3:4". These weights mix one vector of all parts; --bm25-weight and
    --vector-weight weigh the words of all texts against that vector. TEXT has no weight.

    In texts, "a phrase" stands so in a caption, +word must be there, -word must not, and word* is
    the beginning of words; anything else is plain text, and with --plain all is.
    """
    given = [
        *(parse_part("text", value) for value in texts),
        *(Part("words", value) for value in words),
        *_image_parts(query_images, crop),
        *(parse_part("id", value) for value in ids),
        *(parse_part("vector", value) for value in vectors),
    ]
    for part in given:
        if part.kind == "image":
            image_file(str(part.value), limits)  # in the cache, an address is asked no more
    check_locate(options)
    if options.sheet is not None:
        if text == "-":
            raise UsageError("--sheet shows one answer; leave it out with queries from a pipe (-)")
        check_sheet(options.sheet, options.asked.k, inputs=[*_files(given), encoder])
    with Search.open(options.index, encoder=encoder, device=device) as search:

        def answer(typed: str | None) -> Answer:
            return answer_query(search, typed, given, options.asked, images=options.images)

        if text == "-":
            return _answer_lines(answer)
        asked = [*([] if text is None else [Part("text", text)]), *given]
        locate = locator(search, asked) if options.locate else None
        return show(
            answer(text),
            as_json=options.as_json,
            sheet=options.sheet,
            locate=locate,
            listing=options.listing,
        )


def _image_parts(values: tuple[str, ...], crop: str | None) -> list[Part]:
    """Return the parts of --image. Raises UsageError where --crop means none, or one of several."""
    parts = [parse_part("image", value) for value in values]
    if crop is None:
        return parts
    if len(parts) != 1:
        given = f"{len(parts)} are" if parts else "none is"
        raise UsageError(f"--crop is a part of one --image, but {given} given")
    return [replace(parts[0], crop=parse_pixel_box(crop))]


def _files(parts: list[Part]) -> list[str]:
    """Return the files that a query reads."""
    return [str(part.value) for part in parts if part.kind in ("image", "vector")]


def _answer_lines(answer: Callable[[str], Answer]) -> int:
    """Answer each line of standard input with a line of JSON; 3 where one had no whole answer."""
    code = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            text, error = line.decode("utf-8", "replace").strip(), f"line {number} is not UTF-8"
        else:
            error = "" if text else f"line {number} is empty"
        if error:
            code = EXIT_SOME_REJECTED
            click.echo(json_text({"query": {"text": text}, "error": error}))
            continue
        found = answer(text)
        code = max(code, exit_code(found.page))
        click.echo(json_text(answer_json(found)))
    return code
