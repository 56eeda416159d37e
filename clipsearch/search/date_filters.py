"""Filters of dates: a date covers a time, and so does what is asked for.

A document counts by the first moment of its date: "2019-06" by that of June 2019, and so it is in
`2019`, in `2019-06`, and not in `>=2019-06-02`.
"""

from clipsearch.filtering import NumberFilter
from finetune.errors import UsageError
from finetune.text.dates import DatePeriod, date_period

_OPERATORS = "=, >=, <=, >, < and first..last"


def date_filter(text: str, column: str, operator: str, value: str) -> NumberFilter:
    """Read a filter of a date column; `text` is all of it, for messages.

    Raises UsageError for what is no date, and an operator that dates do not take.
    """
    if operator == "!=" or "|" in value:
        raise UsageError(
            f"the filter {text!r} does not fit {column}, which is kept as a date:"
            f" dates take {_OPERATORS}"
        )
    if operator == "=":
        first, dots, last = (part.strip() for part in value.partition(".."))
        return date_between(text, column, first or None, (last or None) if dots else first or None)
    period = _period(text, value)
    if operator == ">=":
        return NumberFilter(column, low=period.start)
    if operator == ">":
        return NumberFilter(column, low=period.end)
    end = period.end if operator == "<=" else period.start
    return NumberFilter(column, high=end, high_open=True)


def date_between(text: str, column: str, first: str | None, last: str | None) -> NumberFilter:
    """Return the filter from the beginning of a date to the end of another; None is open.

    Raises UsageError for what is no date, for two that are open, and where the first is later.
    """
    if first is None and last is None:
        raise UsageError(f"the filter {text!r} has no date; write {column}=2019-06 or 2019..2021")
    low = None if first is None else _period(text, first).start
    high = None if last is None else _period(text, last).end
    if low is not None and high is not None and low >= high:
        raise UsageError(f"the filter {text!r} can match nothing: {first} is later than {last}")
    return NumberFilter(column, low=low, high=high, high_open=high is not None)


def _period(text: str, value: str) -> DatePeriod:
    period = date_period(value)
    if period is None:
        raise UsageError(
            f"the filter {text!r} needs a date, not {value!r}: write 2019, 2019-06, 2019-06-01 or"
            f" 2019-06-01T12:30"
        )
    return period
