"""Captioned images as people have them, read from any known format. Imports without torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.manifest.formats.row import MetadataValue
    from finetune.manifest.manifest import Manifest, Record

__all__ = ["Manifest", "MetadataValue", "Record"]

_HOMES = {
    "Manifest": "finetune.manifest.manifest",
    "MetadataValue": "finetune.manifest.formats.row",
    "Record": "finetune.manifest.manifest",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that a part of this room imports without the rest."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'finetune.manifest' has no attribute {name!r}")
