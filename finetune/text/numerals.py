"""Numbers and their texts: which texts are numbers without loss, and a number's text in full.

Numbers are kept as doubles (float64). A text is a number here only if nothing is lost by that: read
as a double and printed in full, it is the same number again. In detail, after its outer blanks:

- **Whole numbers** ("2010", "-3", "0"): no plus sign, no leading zero, and a double has exactly
  that value, which all below 2**53 have and 9007199254740993 has not.
- **Decimals** ("19.90", ".5", "-0.0"): no leading zero but the one before the point, and digits
  behind it. The double's shortest text, or its text with 17 digits (as C and R print in full), is
  the same number, as with 0.1 and 0.10000000000000001, and not with 0.1000000000000000056.
- **With an exponent** only as programs write them: one digit before the point, and a sign behind
  the e ("1e-05", "1.5E+20"). "12E4" and "1e5" are codes, as are "02134" and "+49301234567".
- Never: "1_000", "1,5", "0x10", "nan", "inf", "5.", digits of other scripts, blanks inside, and
  what is above the largest double.

Values that come typed (JSON, Parquet) have no text to lose: a float is a number if it is finite,
a whole number if a double has exactly that value, a boolean is none.
"""

import math
import re
from decimal import Decimal

NumberOrText = str | float | int | None

_PLAIN = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)")
_SCIENTIFIC = re.compile(r"-?[0-9](?:\.[0-9]+)?[eE][+-][0-9]+")
_ANY_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0")
# A decimal of so many digits always comes back from a double (DBL_DIG).
_SAFE_DIGITS = 15
# Above, the digits of a whole double are its value no better than its shortest text is.
_DIGITS_UP_TO = 1e21


def exact_number(value: NumberOrText) -> float | None:
    """Return the value as a double where nothing is lost by it.

    None elsewhere; see the module's page.
    """
    if isinstance(value, str):
        text = value.strip()
        if _PLAIN.fullmatch(text):
            # Sign, point and a leading zero are no digits: a few more go the long way round.
            if len(text) <= _SAFE_DIGITS:
                return float(text)
        elif not _SCIENTIFIC.fullmatch(text):
            return None
        number = float(text)
        return number if math.isfinite(number) and _is_same(text, number) else None
    return _exact_typed(value)


def read_number(value: NumberOrText) -> float | None:
    """Return the number that a person means who says that this is one, whatever its spelling.

    "02134", "12E4" and "+5" are numbers here, and decimals are rounded to the nearest double. None
    for what is no finite decimal number, and for a whole number that no double is equal to.
    """
    if not isinstance(value, str):
        return _exact_typed(value)
    text = value.strip()
    if not _ANY_DECIMAL.fullmatch(text):
        return None
    number = float(text)
    if not math.isfinite(number):
        return None
    written = Decimal(text)
    is_whole = written == written.to_integral_value() if written else True
    return number if not is_whole or _is_same(text, number) else None


def number_text(number: float) -> str:
    """Write the number in full.

    Whole ones have no ".0", others as many digits as they need.
    """
    number = float(number)
    if number.is_integer() and abs(number) < _DIGITS_UP_TO:
        return str(int(number))
    return repr(number)


def value_text(value: str | float | int) -> str:
    """Return a value as text; a number in full, so that 2010.0 of a data frame is the year 2010."""
    return number_text(value) if isinstance(value, float) else str(value)


def whole_or_float(number: float) -> int | float:
    """Return the number for JSON: 2010 and not 2010.0, however large."""
    return int(number) if float(number).is_integer() and abs(number) < _DIGITS_UP_TO else number


def without_point_zero(text: str) -> str | None:
    """Return "101" of "101.0", and None of any other text.

    Data frames write whole numbers so beside a missing one.
    """
    whole = _WHOLE_FLOAT.fullmatch(text)
    return None if whole is None else whole[1]


def _exact_typed(value: float | int | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number) or (isinstance(value, int) and int(number) != value):
        return None
    return number


def _is_same(text: str, number: float) -> bool:
    """Return whether the double's text in full is this number again."""
    written = Decimal(text)
    if text.strip("+-").isdecimal():
        return written == Decimal(number)
    return written in (Decimal(repr(number)), Decimal(f"{number:.17g}"), Decimal(number))
