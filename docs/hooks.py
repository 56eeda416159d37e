"""What the site needs beyond the pages as GitHub shows them; called by mkdocs."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^()\s#]*)(#[^()\s]*)?(?=\))")
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"(?:[-*] |\d+\. )\S")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Link what lies outside docs/ in the repository, and set lists apart as Markdown asks."""
    folder = posixpath.dirname(page.file.src_uri)

    def in_repository(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match.group(1)))
        if target.startswith("docs/"):
            return match.group(0)
        kind = "blob" if "." in posixpath.basename(target) else "tree"
        return f"{config['repo_url']}/{kind}/main/{target}{match.group(2) or ''}"

    return "\n".join(_with_lists_apart(LINK.sub(in_repository, markdown).split("\n")))


def _with_lists_apart(lines: list[str]) -> list[str]:
    """Put an empty line before a list that follows a paragraph, which GitHub does not need."""
    found: list[str] = []
    in_code = in_list = False
    for line in lines:
        if FENCE.match(line):
            in_code = not in_code
        if not in_code:
            is_item = ITEM.match(line) is not None
            if is_item and not in_list and found and found[-1].strip():
                found.append("")
            in_list = is_item or (in_list and bool(line.strip()))
        found.append(line)
    return found
