"""The licence of an encoder: as its folder's card has it from the hub, beside our own list."""

from pathlib import Path

import yaml

from clipsearch.hub.known import known_encoder
from finetune.files.regular_files import read_regular

_CARD = "README.md"
_LARGEST_CARD = 1 << 20
_MARK = "---\n"


def license_of(folder: Path) -> str:
    """Return the licence in the head of an encoder folder's model card; "" where none is told."""
    try:
        text = read_regular(folder / _CARD, _LARGEST_CARD).decode("utf-8")
        head = text.removeprefix(_MARK).partition(_MARK)[0] if text.startswith(_MARK) else ""
        lines = [line for line in head.splitlines() if line.startswith("license:")]
        found = yaml.safe_load(lines[0]) if lines else {}
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(found.get("license") or "") if isinstance(found, dict) else ""


def told_license(folder: Path, base_model: str | None) -> str:
    """Return the licence for people: where our own list says another one, what the card says."""
    known = known_encoder(base_model or "")
    said = license_of(folder)
    if known is None:
        return said or "not told"
    if not said:
        return f"{known.license}, by its maker's card of November 2026"
    if said.lower() != known.license.lower():
        return f"{said}, as the hub said; clipsearch's own list says {known.license}"
    return said
