"""YAML of other people's making, with limits: a few aliases can stand for a billion values."""

from pathlib import Path

import yaml

from finetune.files.bounded_json import MAX_DEPTH
from finetune.files.regular_files import read_regular

MAX_FILE_BYTES = 1 << 20


def read_text(path: Path) -> str:
    """Read a YAML file without aliases, of at most MAX_FILE_BYTES and MAX_DEPTH levels.

    Raises OSError (no regular file, too large), UnicodeDecodeError, yaml.YAMLError where it is no
    YAML, and ValueError, which tells the limit.
    """
    text = read_regular(path, MAX_FILE_BYTES).decode("utf-8-sig")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            mark = event.start_mark
            where = "" if mark is None else f"line {mark.line + 1}: "
            raise ValueError(
                f"{where}*{event.anchor} stands for another value, which is not read; write the"
                " value out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return text
