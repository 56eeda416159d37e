"""ImageCLEF's caption file: `id<TAB>caption` without a header; the image is `id.jpg`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.manifest.formats.row import IMAGE_SUFFIXES, Row
from finetune.manifest.formats.text_lines import first_lines, open_lines, report_not_utf8
from finetune.manifest.problems import Problems


@dataclass(frozen=True)
class ImageClefCaptions:
    """A caption file of ImageCLEF's form."""

    path: Path
    format: str = "imageclef"
    captioned: bool = True
    suffixes: tuple[str, ...] = ("", *IMAGE_SUFFIXES)

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows; lines without a tab are reported. A tab in a caption becomes a space."""
        name = self.path.name
        number = -1
        with open_lines(self.path) as lines:
            for text in lines:
                undecodable = lines.undecodable
                lines.clear()
                if not text.strip():
                    continue
                number += 1
                image, tab, caption = text.rstrip("\r\n").partition("\t")
                if undecodable:
                    report_not_utf8(problems, f"{name}:{lines.number}")
                elif not tab:
                    reason = "not of the form id<TAB>caption"
                    problems.add("bad row", f"{name}:{lines.number}", reason)
                else:
                    caption = caption.replace("\t", " ").strip()
                    captions = (caption,) if caption else ()
                    yield Row(number, name, lines.number, image.strip(), captions)


def recognise(path: Path, head: bytes) -> ImageClefCaptions | None:
    """Return the file as ImageCLEF's; None where one of its first lines has no id before a tab.

    An id is one word, as in "ROCOv2_2023_train_000001" or "12996_2007_Article_9030_Fig1_HTML".
    """
    lines = first_lines(head)
    for line in lines:
        id, tab, _ = line.partition("\t")
        if not tab or not id.strip() or len(id.split()) > 1:
            return None
    return ImageClefCaptions(path) if lines else None
