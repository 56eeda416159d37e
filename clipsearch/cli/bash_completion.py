"""Completion in bash, which cuts words at =, so that class=be are three of them.

As click has it, but that these are joined again, that only what comes after the = is written, and
that nothing is added to a column that awaits its value. What an index holds is quoted, whatever it
is, since it is written into a command line.
"""

import shlex

from click.shell_completion import BashComplete, CompletionItem, add_completion_class

_AWAITS_VALUE = """
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi

    return 0
"""


class JoiningBashComplete(BashComplete):
    """Completes values behind = in bash."""

    source_template = (
        BashComplete.source_template.replace("\n    return 0\n", _AWAITS_VALUE, 1)
        # What comes stays as it is: no backslash is lost, and no * becomes names of files.
        .replace("read type value", "read -r type value", 1)
        .replace("    local response\n", "    local response\n    local -; set -f\n", 1)
    )

    def __init__(self, *arguments: object) -> None:
        """Take what click's own takes."""
        super().__init__(*arguments)  # type: ignore[arg-type]  # whatever click passes
        self._typed = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and this, as they were typed."""
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        joins = False
        for word in (*args, incomplete):
            if words and (word == "=" or joins):
                words[-1] += word
            else:
                words.append(word)
            joins = word == "="
        *before, self._typed = words or [""]
        return before, self._typed

    def format_completion(self, item: CompletionItem) -> str:
        """Return what bash puts in the place of its last word; "" for what has several lines."""
        value = item.value
        if "\n" in value:  # each would be a completion of its own, and not quoted
            return ""
        written = self._typed.rpartition("=")[0]
        for kept in (written, written.partition("=")[2]):  # --filter class=be, --filter=class=be
            if kept:
                value = value.removeprefix(f"{kept}=")
        if item.type != "plain":  # bash completes and quotes paths by itself
            return f"{item.type},{value}"
        awaits_value = "=" if value.endswith("=") else ""
        column = value.removesuffix(awaits_value)
        return f"plain,{shlex.quote(column)}{awaits_value}"


def take_over_bash() -> None:
    """Have click complete in bash by this."""
    add_completion_class(JoiningBashComplete)
