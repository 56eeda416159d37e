"""Questions answered, and answers as JSON: what `--json` prints, and any program is given.

The question, the page of hits with the marked words and the image files, facets and notes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clipsearch.documents import Document
from clipsearch.engine import Hit, IndexInfo, Page
from clipsearch.explanation import explanation_json
from clipsearch.modes import Mode
from clipsearch.search.highlight import match_spans
from clipsearch.search.images import ImageFolders
from clipsearch.search.options import (
    ASKED,
    LISTED,
    SIMILAR,
    SIMILAR_MODE,
    ListOptions,
    QueryOptions,
)
from clipsearch.search.parts import Part, query_parts
from clipsearch.search.query_terms import QueryTerms, query_terms
from clipsearch.search.search import Search
from clipsearch.sorting import SORTED_TEXTS
from finetune.text.strict_json import dumps

# Legal in JSON, but a terminal may obey them, line readers may split at them, and half a
# surrogate pair has no UTF-8.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What an answer says of the image of a document: at least `image`.
ImageJson = Callable[[Document], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of hits with what was asked.

    Attributes:
        page: The engine's answer.
        asked: The question (`question_json`).
        heading: The question in a few words.
        words: Of the query; what it looks for is marked in captions.
        info: Of the index.
        k: Hits a page.
        score_name: What the hits are ordered by; None where nobody needs to see it.
        collapsed: Whether one hit stands for all that look alike.
        images: Folder of the images; None takes where the index was fed from.
    """

    page: Page
    asked: Mapping[str, Any]
    heading: str
    words: QueryTerms
    info: IndexInfo
    k: int
    images: Path | None = None
    score_name: str | None = "score"
    collapsed: bool = False


def answer_query(
    search: Search,
    text: str | None = None,
    parts: Sequence[Part] = (),
    options: QueryOptions = ASKED,
    *,
    images: Path | None = None,
) -> Answer:
    """Ask `search` as `Search.query` does, with `text` before `parts`, and say what was asked.

    `images` is the folder of the pictures; None takes where the index was fed from. Raises what
    `Search.query` raises.
    """
    asked = query_parts(text, parts=parts)
    return Answer(
        page=search.ask(asked, options),
        asked=question_json(text, parts, options.mode or search.default_mode(asked)),
        heading=heading_of(asked),
        words=query_terms(
            asked, search.info.language, plain=options.plain, synonyms=options.synonyms
        ),
        info=search.info,
        k=options.k,
        images=images,
        score_name=score_name(options.sort),
        collapsed=options.collapse,
    )


def answer_similar(
    search: Search, id: str, options: QueryOptions = SIMILAR, *, images: Path | None = None
) -> Answer:
    """Ask `search` as `Search.similar` does, and say what was asked; see `answer_query`."""
    parts = search.parts_like(id, options.mode)
    answer = answer_query(search, None, parts, options, images=images)
    return replace(
        answer,
        asked=question_json(None, parts[:1], options.mode or SIMILAR_MODE),
        heading=f"similar to {id}",
    )


def answer_list(
    search: Search, options: ListOptions = LISTED, *, images: Path | None = None
) -> Answer:
    """Ask `search` as `Search.list` does, and say what was asked; see `answer_query`."""
    return Answer(
        page=search.browse(options),
        asked=question_json(None, (), None),
        heading="all that pass the filters" if options.filters else "all",
        words=QueryTerms(),
        info=search.info,
        k=options.k,
        images=images,
        score_name=None if options.sort is None else score_name(options.sort),
    )


def score_name(sort: str | None) -> str | None:
    """Return what the hits are ordered by, where it is a number."""
    column = "score" if sort is None else sort.removeprefix("-")
    return None if column in SORTED_TEXTS else column


def question_json(text: str | None, parts: Iterable[Part], mode: Mode | None) -> dict[str, Any]:
    """Return what was asked: the words, the parts beside them, and the mode; None for a list."""
    listed = [
        {"kind": each.kind, "value": _shown_value(each), "weight": each.weight}
        | ({} if each.crop is None else {"crop": asdict(each.crop)})
        for each in parts
    ]
    return {"text": text, "parts": listed, "mode": mode}


def heading_of(parts: Iterable[Part]) -> str:
    """Return the question in a few words."""
    return " + ".join(
        f"{_shown_value(each) or f'the {each.kind}'}"
        f"{'' if each.crop is None else f' ({each.crop})'}"
        f"{'' if each.weight == 1 else f' x {each.weight:g}'}"
        for each in parts
    )


def _shown_value(part: Part) -> str | None:
    """Return what a part looks for; None for pixels and numbers."""
    return str(part.value) if isinstance(part.value, str | Path) else None


def answer_json(answer: Answer, image_json: ImageJson | None = None) -> dict[str, Any]:
    """Return everything about the answer, as what JSON can hold.

    `highlights` has a list of [start, end] for each caption, in Unicode characters; `image` is
    the absolute path of the image file, null where it is not on this machine, unless
    `image_json` says otherwise where it can be had.
    """
    page = answer.page
    if image_json is None:
        image_json = _image_on_disk(ImageFolders(answer.info, answer.images))
    marked, prefixes = answer.words.marked, answer.words.marked_prefixes
    language = answer.info.language

    def marks(caption: str) -> list[list[int]]:
        return [list(span) for span in match_spans(caption, marked, language, prefixes)]

    return {
        "query": dict(answer.asked),
        "total": page.total,
        "at_least": page.at_least,
        "candidates": page.candidates,
        "offset": page.offset,
        "k": answer.k,
        "seconds": page.seconds,
        "hits": [
            _hit_dict(page.offset + number, hit, answer.collapsed, marks, image_json)
            for number, hit in enumerate(page.hits, 1)
        ],
        "facets": {
            column: [{"value": value, "count": count} for value, count in counts]
            for column, counts in page.facets.items()
        },
        "corrections": [asdict(each) for each in page.corrections],
        "notes": list(page.notes),
        "partial": page.partial,
    }


def _image_on_disk(folders: ImageFolders) -> ImageJson:
    def found(document: Document) -> dict[str, Any]:
        path = folders.find(document.path)
        return {"image": None if path is None else str(path)}

    return found


def _hit_dict(
    rank: int,
    hit: Hit,
    collapsed: bool,
    marks: Callable[[str], list[list[int]]],
    image_json: ImageJson,
) -> dict[str, Any]:
    document = hit.document
    shown = document.to_show(as_hit=True)
    return {
        "rank": rank,
        "id": shown.pop("id"),
        "score": _without_minus_zero(hit.score),
        "bm25": _without_minus_zero(hit.bm25),
        "cosine": _without_minus_zero(hit.cosine),
        **({"more": hit.more} if collapsed else {}),
        "captions": shown.pop("captions"),
        "highlights": [marks(caption) for caption in document.captions],
        **explanation_json(hit.explanation),
        "path": shown.pop("path"),
        **image_json(document),
        **shown,
    }


def _without_minus_zero(number: float | None) -> float | None:
    """Return the number; 0 for -0, which is a rounding's sign and tells nothing."""
    return None if number is None else number + 0.0


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON in which other scripts stay readable and nothing can steer a terminal."""
    text = dumps(value, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
