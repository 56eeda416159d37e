"""What an earlier version wrote, brought to today's form before anything is fed."""

from typing import TextIO

from clipsearch.documents import DOCUMENT_FORM
from clipsearch.engine import Engine
from finetune.console import Progress


def upgraded(engine: Engine, stream: TextIO | None) -> list[str]:
    """Bring what an earlier version wrote to today's form; a sentence where there was any."""
    if engine.info.document_form == DOCUMENT_FORM:
        return []
    with Progress("upgrade", engine.count(), unit="documents", stream=stream) as progress:
        changed = engine.upgrade(progress.advance)
    if not changed:
        return []
    return [
        f"an earlier version fed this index: {changed:,} documents were brought to today's form,"
        f" and nothing was encoded for it"
    ]
