"""Questions on their way to a service: `Search`'s arguments as JSON, images as files beside it."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clipsearch.engine import IndexInfo
from clipsearch.filtering import Filter, NearFilter, NumberFilter, TagFilter
from clipsearch.search.filters import Filters, parse_filters
from clipsearch.search.near_filter import near_text
from clipsearch.search.options import ListOptions
from clipsearch.search.parts import Part, unit_vector
from finetune.errors import UsageError
from finetune.images.source import read_bytes
from finetune.several import check_several
from finetune.text.dates import moment_text
from finetune.text.numerals import number_text

if TYPE_CHECKING:
    from PIL.Image import Image


def parts_json(
    parts: Sequence[Part], dimension: int
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return parts as JSON, and the files that they name.

    Raises UsageError for a vector that is none of `dimension` values, ImageError for a file that
    cannot be read.
    """
    listed: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for number, part in enumerate(parts):
        value: Any = part.value
        if part.kind == "image":
            files[f"image{number}"] = image_bytes(cast("str | Path | bytes | Image", value))
            value = f"image{number}"
        elif part.kind == "vector":
            value = unit_vector(part, dimension).tolist()
        else:
            value = str(value)
        crop = {} if part.crop is None else {"crop": asdict(part.crop)}
        listed.append({"kind": part.kind, "value": value, "weight": part.weight, **crop})
    return listed, files


def image_bytes(image: "str | Path | bytes | Image") -> bytes:
    """Return an image's file; of a Pillow image, a PNG. Raises ImageError."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return read_bytes(Path(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def options_json(options: ListOptions) -> dict[str, Any]:
    """Return the options that are not as usual, as the JSON of a question has them.

    Raises UsageError for what is no filter, and for synonyms: a service has its own.
    """
    given = _given(options)
    if "filters" in given:
        given["filters"] = _filters_json(options.filters)
    if "facets" in given:
        given["facets"] = list(options.facets)
    return given


def options_in_address(options: ListOptions, info: IndexInfo) -> dict[str, Any]:
    """Return the options that are not as usual, as an address has them; raises as above."""
    given = _given(options)
    filters, facets = given.pop("filters", ()), given.pop("facets", ())
    return given | {"filter": filter_texts_of(filters, info), "facet": list(facets)}


def _given(options: ListOptions) -> dict[str, Any]:
    check_several(options.facets, "facets")
    given = {
        each.name: getattr(options, each.name)
        for each in fields(options)
        if getattr(options, each.name) != each.default
    }
    if "synonyms" in given:
        raise UsageError("synonyms are the service's: start it with clipsearch serve --synonyms")
    return given


def _filters_json(filters: Filters) -> Any:
    """Return filters as a service takes them. Raises UsageError for what is no filter."""
    if isinstance(filters, str):
        return [filters]
    if isinstance(filters, Mapping):
        return {column: _value_json(value) for column, value in filters.items()}
    return [_filter_json(each) for each in filters]


def _value_json(value: Any) -> Any:
    if isinstance(value, date):
        return str(value)
    if isinstance(value, str | int | float | None):
        return value
    return [str(each) if isinstance(each, date) else each for each in value]


def _filter_json(filter: Any) -> Any:
    if isinstance(filter, str):
        return filter
    if isinstance(filter, NearFilter):
        return near_text(filter)
    if isinstance(filter, TagFilter | NumberFilter):
        return asdict(filter)
    raise UsageError(f"{filter!r} is no filter; write column=value")


def filter_texts_of(filters: Filters, info: IndexInfo) -> list[str]:
    """Return filters as they are written in an address. Raises what `parse_filters` raises."""
    return [text for each in parse_filters(filters, info) for text in _texts(each, info)]


def _texts(filter: Filter, info: IndexInfo) -> Iterator[str]:
    if isinstance(filter, NearFilter):
        yield near_text(filter)
        return
    if isinstance(filter, TagFilter):
        values = "|".join(value.replace("|", "\\|") for value in filter.values)
        yield f"{filter.column}{'!=' if filter.exclude else '='}{values}"
        return
    written = moment_text if filter.column in info.date_columns else number_text
    if filter.low is not None:
        yield f"{filter.column}{'>' if filter.low_open else '>='}{written(filter.low)}"
    if filter.high is not None:
        yield f"{filter.column}{'<' if filter.high_open else '<='}{written(filter.high)}"
