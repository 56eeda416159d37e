"""A webdataset sample: which of its files is the image, which are captions, which metadata.

The files of a sample have one key and differ in the extension, which is all behind the first dot of
the file name. Its last part says what a file is, and what stands before that, what it is for:
`s0.input.jpg` and `s0.outputs.txt` are image and caption, `s0.seg.png` is a mask.

- **The image** is the file without such a word, else one called image, img, input, image or
  photo, else the first. Others, such as a mask, become notes; a second one that could as well be
  the image is a problem.
- **Captions** are texts without such a word, or called caption, text, output or target, with a
  number or an s behind it if you like; then those of the JSON. A single text of another name is
  the caption where there is no other; else texts of other names are metadata, as is the class in
  `.cls`.
- **The JSON**'s `id` is the id; other fields are captions and metadata, as in a JSON Lines file.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from finetune.manifest.formats.row import IMAGE_SUFFIXES, MetadataValue, metadata_text
from finetune.manifest.problems import Problems

TEXT_SUFFIXES = (".txt", ".text")
JSON_SUFFIXES = (".json", ".jsn")
CLASS_SUFFIXES = (".cls", ".class")
READ_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *CLASS_SUFFIXES)

_IMAGES = ("", "image", "img", "input", "picture", "photo")
_CAPTIONS = frozenset(("", "caption", "text", "txt", "output", "target"))
_NUMBER = re.compile(r"[._-]?\d+$")


def purpose(extension: str, suffixes: Iterable[str]) -> str | None:
    """Return what stands before the suffix, "input" of ".input.jpg".

    None where it has none of them.
    """
    for suffix in sorted(suffixes, key=len, reverse=True):
        if extension.endswith(suffix):
            return extension[: -len(suffix)].strip(".")
    return None


def chosen_image(extensions: list[str], where: str, problems: Problems) -> int:
    """Return the place of the image among the extensions of a sample's images.

    What becomes of the others is told.
    """
    names = [_plain(purpose(extension, IMAGE_SUFFIXES) or "") for extension in extensions]
    ranks = [_IMAGES.index(name) if name in _IMAGES else len(_IMAGES) for name in names]
    chosen = ranks.index(min(ranks))
    is_named = ranks[chosen] < len(_IMAGES)
    for place, extension in enumerate(extensions):
        if place == chosen:
            continue
        if is_named and ranks[place] == len(_IMAGES):
            reason = f"{extension}: taken for no picture, since the sample has {extensions[chosen]}"
            problems.note("image not taken", where, reason)
        else:
            problems.add("bad row", where, f"{extension}: the sample has an image already")
    return chosen


def captions_and_metadata(
    texts: Mapping[str, str], captioned: bool
) -> tuple[tuple[str, ...], dict[str, MetadataValue]]:
    """Return the captions and the metadata of a sample's text and class files, by extension.

    `captioned` says that the JSON has captions.
    """
    captions: list[str] = []
    others: dict[str, str] = {}
    classes: dict[str, str] = {}
    for extension, text in texts.items():
        name = purpose(extension, TEXT_SUFFIXES)
        if name is None:
            classes[extension.strip(".")] = text
        elif text.strip() and _plain(name) in _CAPTIONS:
            captions.append(text.strip())
        else:
            others[name] = text
    if not captions and not captioned and len(others) == 1:
        captions = [text.strip() for text in others.values() if text.strip()]
        others = {}
    metadata = {name: metadata_text(text) for name, text in (others | classes).items()}
    return tuple(captions), {name: text for name, text in metadata.items() if text is not None}


def merged(objects: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of all JSON objects of a sample; of a field in several the first."""
    fields: dict[str, Any] = {}
    for values in objects:
        fields = {**values, **fields}
    # A path that was true where the shard was packed.
    fields.pop("image", None)
    return fields


def _plain(name: str) -> str:
    """Return a name without number or s at its end: "caption" of "captions" and "caption.2"."""
    name = _NUMBER.sub("", name)
    return name if name in _CAPTIONS else name.removesuffix("s")
