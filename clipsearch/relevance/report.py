"""The report: one HTML file with the table and the queries that each mode wins and loses.

It needs no other file and no network: images are small copies inside it, each there once, and the
page forbids the browser to fetch anything. All that comes from data is escaped.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipsearch.modes import Mode, Weights
from clipsearch.relevance.conclusion import conclusion, telling_groups
from clipsearch.relevance.evaluation import IndexEvaluation, milliseconds
from clipsearch.relevance.measures import FIGURES, MRR, is_single
from clipsearch.relevance.runs import DEPTH, SHOWN, ShownHit
from clipsearch.search.finding import find_documents
from clipsearch.search.images import ImageFolders
from clipsearch.search.search import Search
from clipsearch.weighing import share_sum_told, weighted_sum_told
from finetune.console import printable
from finetune.errors import ClipsearchError, UsageError
from finetune.figures import Estimate, Figure
from finetune.files.outputs import is_sealed, write_html
from finetune.images.thumbnails import Cell, thumbnail
from finetune.manifest.inputs import Inputs, check_output

QUERIES_OF_A_KIND = 5
_THUMBNAIL = 132
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #8884; }
.query { border: 1px solid #8885; border-radius: 6px; padding: .6rem; margin: .6rem 0; }
.query b { overflow-wrap: anywhere; } .row { display: flex; gap: .6rem; flex-wrap: wrap; }
.row > span { width: 6rem; flex: none; }
figure { margin: 0; width: 132px; font-size: .75rem; overflow-wrap: anywhere; }
figure.right { outline: 3px solid #2a8f3c; outline-offset: 2px; border-radius: 3px; }
.image { width: 132px; height: 132px; background: #8882 center / contain no-repeat; }
"""


def check_report(path: Path, inputs: Inputs) -> None:
    """Raise UsageError unless the report can be written to `path`.

    `inputs`: what the command reads. Only an older report that nobody changed is replaced.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {path}: the report is a page; name it .html")
    if not path.parent.is_dir():
        raise UsageError(f"--html {path}: there is no folder {path.parent}; make it first")
    check_output(path, f"--html {path}", is_sealed, inputs)


def write_report(path: Path, evaluation: IndexEvaluation, images: Path | None = None) -> None:
    """Write the report; an older one is replaced whole.

    Args:
        path: Checked by `check_report`.
        evaluation: What was measured.
        images: Folder of the images, where they have moved since the feed.

    Raises ClipsearchError where the disk refuses, EngineError where the index is gone.
    """
    chosen = {
        mode: changed_most(evaluation, mode)
        for mode in (run.mode for run in evaluation.runs)
        if _rival(evaluation, mode) is not None
    }
    gallery = _gallery(evaluation, chosen, images)
    try:
        write_html(path, _page(evaluation, chosen, gallery))
    except OSError as error:
        raise ClipsearchError(f"--html {path}: cannot be written ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class ChangedQueries:
    """Queries, by number, in which a mode differs most from its rival, the most first."""

    won: tuple[int, ...]
    lost: tuple[int, ...]


def changed_most(evaluation: IndexEvaluation, mode: Mode) -> ChangedQueries:
    """Find the queries that the mode wins and loses most, at most QUERIES_OF_A_KIND each."""
    rival = _rival(evaluation, mode)
    assert rival is not None
    gain = evaluation.per_query[mode][MRR] - evaluation.per_query[rival][MRR]
    order = np.argsort(-gain, kind="stable")
    won = order[gain[order] > 0][:QUERIES_OF_A_KIND]
    lost = order[::-1][gain[order[::-1]] < 0][:QUERIES_OF_A_KIND]
    return ChangedQueries(tuple(won.tolist()), tuple(lost.tolist()))


def _rival(evaluation: IndexEvaluation, mode: Mode) -> Mode | None:
    """Find what a mode is held against: the best single mode; and that against the other one."""
    if mode != evaluation.against:
        return evaluation.against
    others = [run.mode for run in evaluation.runs if run.mode != mode and is_single(run.mode)]
    return others[0] if others else None


@dataclass(frozen=True, slots=True)
class _Gallery:
    """The images that the report shows.

    Attributes:
        numbers: Id to the number of its image; ids without an image are not in it.
        images: JPEG bytes by number.
        missing: Id to the reason why there is no image.
        captions: Id to its first caption.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


def _gallery(
    evaluation: IndexEvaluation, chosen: dict[Mode, ChangedQueries], images: Path | None
) -> _Gallery:
    wanted: dict[str, None] = {}
    for mode, changed in chosen.items():
        rival = _rival(evaluation, mode)
        for number in (*changed.won, *changed.lost):
            wanted[evaluation.queries[number].right[0]] = None
            for each in (mode, rival):
                if each is not None:
                    wanted |= dict.fromkeys(hit.id for hit in evaluation.run(each).shown[number])
    gallery, folders = _Gallery(), ImageFolders(evaluation.info, images)
    ids = list(wanted)
    with Search.open(evaluation.options.index, encoder=evaluation.options.encoder) as search:
        documents = find_documents(search.engine, ids)
    for id_, document in zip(ids, documents, strict=True):
        path = "" if document is None else document.path
        gallery.captions[id_] = document.captions[0] if document and document.captions else ""
        small = thumbnail(
            Cell(
                folders.source(path), id_, missing=f"{path or 'image'} not found; --images FOLDER"
            ),
            (_THUMBNAIL, _THUMBNAIL),
        )
        if isinstance(small, str):
            gallery.missing[id_] = small
            continue
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=78)
        gallery.numbers[id_] = len(gallery.images)
        gallery.images.append(buffer.getvalue())
    return gallery


def _page(
    evaluation: IndexEvaluation, chosen: dict[Mode, ChangedQueries], gallery: _Gallery
) -> Iterator[str]:
    title = _safe(f"Relevance of {evaluation.options.index}")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}"
    )
    for number, data in enumerate(gallery.images):
        encoded = base64.b64encode(data).decode("ascii")
        yield f".i{number} {{ background-image: url(data:image/jpeg;base64,{encoded}) }}\n"
    yield f"</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    said = (conclusion(evaluation), *heading_lines(evaluation))
    yield from (f"<p>{_safe(line)}</p>\n" for line in said)
    yield from _modes_table(evaluation)
    yield from _groups_tables(evaluation)
    for mode, changed in chosen.items():
        yield from _changed_section(evaluation, mode, changed, gallery)
    yield "</body>\n</html>\n"


def heading_lines(evaluation: IndexEvaluation) -> list[str]:
    """Say what was asked of what, in a few lines."""
    info, sampling = evaluation.info, evaluation.options.sampling
    share = info.word_share
    joined = "" if share is None else f" (hybrid: {share_sum_told(share.weight)})"
    weights = Weights(info.bm25_weight, info.vector_weight)
    return [
        f"{len(evaluation.queries):,} queries from {evaluation.source}; pool of"
        f" {evaluation.pool:,} images; encoder {info.encoder_name or 'none'};"
        f" weights {weighted_sum_told(weights)}{joined}.",
        f"In brackets: {sampling.confidence:.0%} bootstrap intervals, {sampling.resamples:,}"
        f" resamples. p: two-sided sign-flip test of MRR@10 against {evaluation.against}, the"
        " better single mode; not corrected for the number of modes.",
    ]


def _modes_table(evaluation: IndexEvaluation) -> Iterator[str]:
    names = ("mode", *FIGURES, "difference", "p", "ms p50 / p99")
    rows = []
    for each in evaluation.modes:
        times = milliseconds(evaluation.run(each.mode))
        figure = each.figure(MRR)
        rows.append(
            [
                each.mode,
                *(interval_text(each.figure(name).estimate) for name in FIGURES),
                *difference_cells(figure),
                f"{times['p50']:.1f} / {times['p99']:.1f}",
            ]
        )
    yield from _table(names, rows)


def _groups_tables(evaluation: IndexEvaluation) -> Iterator[str]:
    for by in telling_groups(evaluation):
        groups = [group for group in evaluation.groups if group.by == by]
        yield f"<h3>MRR@10 by {_safe(by)}</h3>\n"
        rows = [
            [
                group.name,
                f"{group.queries:,}",
                *(interval_text(each.figure(MRR).estimate) for each in group.modes),
            ]
            for group in groups
        ]
        yield from _table((by, "queries", *(run.mode for run in evaluation.runs)), rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "<table>\n<tr>" + "".join(f"<th>{_safe(name)}</th>" for name in names) + "</tr>\n"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>\n"
    yield "</table>\n"


def interval_text(estimate: Estimate, sign: str = "") -> str:
    """Write the value, with the ends of its interval in brackets."""
    value, *ends = (
        f"{number:{sign}z,.3f}"
        for number in (estimate.value, estimate.low, estimate.high)
        if number is not None
    )
    return f"{value} [{', '.join(ends)}]" if ends else value


def difference_cells(figure: Figure) -> tuple[str, str]:
    """Write the difference from the mode compared with, and p; nothing for that mode itself."""
    if figure.difference is None or figure.p_value is None:
        return "", ""
    return interval_text(figure.difference, sign="+"), f"{figure.p_value:.4f}"


def _changed_section(
    evaluation: IndexEvaluation, mode: Mode, changed: ChangedQueries, gallery: _Gallery
) -> Iterator[str]:
    rival = _rival(evaluation, mode)
    assert rival is not None
    yield f"<h2>{_safe(mode)} against {_safe(rival)}</h2>\n"
    for word, numbers in (("wins", changed.won), ("loses", changed.lost)):
        yield f"<h3>{_safe(mode)} {word} most</h3>\n"
        if not numbers:
            yield "<p>No query.</p>\n"
        for number in numbers:
            yield from _query_block(evaluation, (mode, rival), number, gallery)


def _query_block(
    evaluation: IndexEvaluation, modes: Sequence[Mode], number: int, gallery: _Gallery
) -> Iterator[str]:
    query = evaluation.queries[number]
    yield f'<div class="query"><b>{_safe(query.text)}</b>\n<div class="row"><span>wanted</span>'
    yield _figure(query.right[0], [], gallery, right=True)
    yield "</div>\n"
    for mode in modes:
        rank = int(evaluation.ranks(mode)[number])
        place = f"rank {rank}" if rank else f"not in the first {DEPTH}"
        yield f'<div class="row"><span>{_safe(mode)}<br>{place}</span>'
        for hit in evaluation.run(mode).shown[number][:SHOWN]:
            yield _figure(hit.id, _parts(hit), gallery, right=query.grades.get(hit.id, 0) > 0)
        yield "</div>\n"
    yield "</div>\n"


def _parts(hit: ShownHit) -> list[str]:
    named = (("score", hit.score), ("bm25", hit.bm25), ("cosine", hit.cosine))
    return [f"{name} {value:z.4f}" for name, value in named if value is not None]


def _figure(id_: str, parts: Sequence[str], gallery: _Gallery, *, right: bool) -> str:
    caption = gallery.captions.get(id_, "")
    number = gallery.numbers.get(id_)
    if number is None:
        image = f'<div class="image">{_safe(gallery.missing.get(id_, "no image"))}</div>'
    else:
        image = f'<div class="image i{number}" role="img" aria-label="{_safe(caption)}"></div>'
    lines = "<br>".join(_safe(line) for line in (*parts, id_))
    css = ' class="right"' if right else ""
    return f'<figure{css} title="{_safe(caption)}">{image}<figcaption>{lines}</figcaption></figure>'


def _safe(text: str) -> str:
    return html.escape(printable(text))
