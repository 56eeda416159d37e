"""Which text an index can hold: what Vespa refuses, the embedded engine does not keep either.

Vespa takes no control characters below U+0020 but tab, newline and carriage return, no
noncharacters and no halves of surrogate pairs (`com.yahoo.text.Text` in its source). In captions,
tags, paths and column names blanks stand for them, and none of these characters is part of a word:
nothing that can be searched for is lost. An id is never changed; one that holds any of them is
refused, as is one that the address of a document cannot hold.

The control characters U+007F to U+009F are "discouraged" there. Nobody reads them, so that in
captions, tags and column names blanks stand for them too; but names of files that were once decoded
wrongly hold them ("Ã\\x89" was an É), so that ids and paths keep them.
"""

import re
from urllib.parse import quote

MOST_ID_BYTES = 49_152
"""Of an id in UTF-8, percent-encoded. Vespa's HTTP server takes 65,536 bytes of request line and
headers together (`requestHeaderSize` of its connector); the rest is for what stands beside the id:
path, options, host and credentials."""

_PLANES = "".join(
    chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)
)
_REFUSED = f"\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufdd0-\ufdef{_PLANES}"
_NO_TEXT = re.compile(f"[{_REFUSED}]")
_NO_WORDS = re.compile(f"[{_REFUSED}\x7f-\x9f]")
# Percent-encoded, a character of ASCII is at most three.
_SURELY_SHORT = MOST_ID_BYTES // 3
# So much of an id is shown in a sentence.
_SHOWN = 120


def blanked(text: str) -> str:
    """Return the text (a caption, a tag, a column's name) with a blank for each such character."""
    if is_plain(text):
        return text
    return _NO_WORDS.sub(" ", text)


def is_plain(text: str) -> bool:
    """Return whether the text surely holds no such character.

    Most do not, which is told quickly.
    """
    return text.isascii() and text.isprintable()


def is_storable_json(json: bytes) -> bool:
    """Return whether the texts in this JSON (UTF-8, without blanks) surely hold no such character.

    JSON writes control characters as an escape, and all others as they are.
    """
    if b"\\" in json and (b"\\u00" in json or b"\\b" in json or b"\\f" in json):
        return False
    if json.isascii():
        return b"\x7f" not in json
    return _NO_WORDS.search(json.decode()) is None


def blanked_path(path: str) -> str:
    """Return the path with a blank for each character that no index can hold."""
    return _NO_TEXT.sub(" ", path)


def why_no_id(id_: str) -> str | None:
    """Return why no document can have this id, as the end of a sentence; None where one can."""
    if id_.isascii() and id_.isprintable() and 2 < len(id_) <= _SURELY_SHORT:
        return None  # most ids, and ten times as quick
    if not id_:
        return "is empty; give every row an image or an id"
    found = _NO_TEXT.search(id_)
    if found is not None:
        return (
            f"holds the character U+{ord(found.group()):04X}, which no index can hold;"
            f" rename the image, or give the row another id"
        )
    if id_ in (".", ".."):
        return "cannot be part of an address; give the row another id"
    size = len(quote(id_, safe=""))
    if size > MOST_ID_BYTES:
        return (
            f"takes {size:,} bytes in an address, where there is room for {MOST_ID_BYTES:,};"
            f" give the row a shorter id"
        )
    return None


def shown_id(id_: str) -> str:
    """Return the id for a sentence, cut where it is very long."""
    return id_ if len(id_) <= _SHOWN else f"{id_[:_SHOWN]}… ({len(id_):,} characters)"
