"""Lists of texts that stand in one field: as JSON, Python or NumPy writes them.

    ["a red kite", "the kite"]      JSON
    ['a red kite', "a dog's bowl"]  Python: what pandas writes of a column of lists
    ['a red kite' 'the kite']       NumPy: what pandas writes of a column of arrays

Only texts and missing values (null, None, nan) are read, side by side and never nested, so that
neither the depth nor the size of a field costs more than its own length.
"""

import ast
import json
import re

_JSON = json.JSONDecoder()
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_BETWEEN = re.compile(r"\s*(,?)\s*")
_MISSING = re.compile(r"(?:null|None|nan)(?![\w'\"])")
# A text as Python's repr writes it, with the escapes that there are.
_PYTHON_TEXT = re.compile(
    r"""u?(?:'(?:[^'\\\n]|\\[\\'"abfnrtvxuUN0-7])*'|"(?:[^"\\\n]|\\[\\'"abfnrtvxuUN0-7])*")"""
)


def listed_texts(text: str) -> tuple[str, ...] | None:
    """Return the texts of a list as they stand, without missing ones; None for any other text.

    A tuple, and a set, of Python are lists too; a text in parentheses is none without a comma.
    """
    text = text.strip()
    if len(text) < 2 or _CLOSING.get(text[0]) != text[-1]:
        return None
    end = len(text) - 1
    texts: list[str] = []
    commas = 0
    position = _skip_blanks(text, 1)
    while position < end:
        read = _one_text(text, position)
        if read is None:
            return None
        value, position = read
        if value is not None:
            texts.append(value)
        between = _BETWEEN.match(text, position)
        assert between is not None  # it matches nothing too
        if position < end and between.end() == position:
            return None  # two texts without anything between them
        commas += bool(between[1])
        position = between.end()
    if position != end or (text[0] == "(" and not commas) or (text[0] == "{" and not texts):
        return None
    return tuple(texts)


def _skip_blanks(text: str, position: int) -> int:
    while text[position].isspace():
        position += 1
    return position


def _one_text(text: str, position: int) -> tuple[str | None, int] | None:
    """Return the text, or None for a missing one, that begins at `position`, and where it ends."""
    missing = _MISSING.match(text, position)
    if missing is not None:
        return None, missing.end()
    if text[position] == '"':
        try:
            value, end = _JSON.raw_decode(text, position)
        except ValueError:
            pass  # Python may have written it
        else:
            return str(value), end
    literal = _PYTHON_TEXT.match(text, position)
    if literal is None:
        return None
    try:
        return str(ast.literal_eval(literal[0])), literal.end()
    except (ValueError, SyntaxError):  # such as "\x" without two digits
        return None
