"""Captioned images as people have them, read from any known format. Imports without torch."""

from typing import TYPE_CHECKING

from finetune.public_names import loader

if TYPE_CHECKING:
    from finetune.manifest.formats.row import MetadataValue
    from finetune.manifest.manifest import Manifest, Record

__all__ = ["Manifest", "MetadataValue", "Record"]

__getattr__ = loader(
    __name__,
    {
        "Manifest": "finetune.manifest.manifest",
        "MetadataValue": "finetune.manifest.formats.row",
        "Record": "finetune.manifest.manifest",
    },
)
