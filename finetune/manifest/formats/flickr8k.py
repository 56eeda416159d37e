r"""Flickr8k's token file: `name.jpg#0<TAB>caption`, a line for each caption.

Flickr30k's `results_20130124.token` has the same form.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.manifest.formats.row import Row
from finetune.manifest.formats.text_lines import first_lines, open_lines, report_not_utf8
from finetune.manifest.problems import Problems

_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")


@dataclass(frozen=True)
class Flickr8kTokens:
    """A token file of Flickr8k's form."""

    path: Path
    format: str = "flickr8k"
    captioned: bool = True
    suffixes: tuple[str, ...] = ("",)

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows; lines of another form are reported."""
        name = self.path.name
        number = -1
        with open_lines(self.path) as lines:
            for text in lines:
                undecodable = lines.undecodable
                lines.clear()
                line = text.strip()
                if not line:
                    continue
                number += 1
                parts = _LINE.fullmatch(line if "\t" in line else line + "\t")
                if undecodable:
                    report_not_utf8(problems, f"{name}:{lines.number}")
                elif parts is None:
                    reason = "not of the form name.jpg#0<TAB>caption"
                    problems.add("bad row", f"{name}:{lines.number}", reason)
                else:
                    caption = parts[2].strip()
                    captions = (caption,) if caption else ()
                    yield Row(number, name, lines.number, parts[1].strip(), captions)


def recognise(path: Path, head: bytes) -> Flickr8kTokens | None:
    """Recognise the file as Flickr8k's token file.

    None where most of its first lines are of another form.
    """
    lines = first_lines(head)
    matching = sum(_LINE.match(line.strip()) is not None for line in lines)
    return Flickr8kTokens(path) if matching * 2 > len(lines) else None
