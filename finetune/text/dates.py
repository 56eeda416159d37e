"""Dates as ISO 8601 writes them, and the time that each covers.

A year ("2019"), a month ("2019-06"), a day ("2019-06-01"), or a time of a day ("2019-06-01T12:30",
also with a blank in place of the T, with seconds and parts of them, and with "Z" or "+02:00"). A
time without a zone is taken as UTC, so that what cameras write has an order. Anything else, such as
"20190601" or "1.6.2019", is no date.

Seconds are those since 1970-01-01T00:00Z, as doubles: exact to a microsecond.
"""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})"
    r"(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?(?:Z|([+-])([0-9]{2}):?([0-9]{2}))?)?)?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY_SECONDS = 86_400
_MICROSECOND_DIGITS = 6


@dataclass(frozen=True, slots=True)
class DatePeriod:
    """The time that a date covers: a year, a day, a second.

    Attributes:
        start: Seconds of its first moment; what the date is sorted by.
        end: Seconds of the first moment after it.
    """

    start: float
    end: float


def date_period(text: str) -> DatePeriod | None:
    """Return the time that a date covers; None for what is no date."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second, part, sign, zone_hours, zone_minutes = found.groups()
    try:
        if hour is None:
            return _days(int(year), *(None if each is None else int(each) for each in (month, day)))
        parts = (part or "")[:_MICROSECOND_DIGITS]
        zone = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0),
            int(parts.ljust(_MICROSECOND_DIGITS, "0")), timezone(-zone if sign == "-" else zone),
        )  # fmt: skip
    except ValueError:  # a thirteenth month
        return None
    length = 60.0 if second is None else 10.0 ** -len(parts)
    start = (moment - _EPOCH).total_seconds()
    return DatePeriod(start, start + length)


def date_text(seconds: float) -> str:
    """Write a moment as a date: without a time at midnight, in UTC.

    Seconds that no date has are written as they are.
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return repr(seconds)
    if moment.time() == datetime.min.time():
        return moment.date().isoformat()
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def moment_text(seconds: float) -> str:
    """Write a moment as the date that covers a microsecond alone."""
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _days(year: int, month: int | None, day: int | None) -> DatePeriod:
    """Return the period of a year, a month or a day. Raises ValueError where there is none."""
    first = date(year, month or 1, day or 1)
    if month is None:
        last = date(year, 12, 31)
    elif day is None:
        last = date(year, month, monthrange(year, month)[1])
    else:
        last = first
    start, end = (float(each.toordinal() - _EPOCH_DAY) * _DAY_SECONDS for each in (first, last))
    return DatePeriod(start, end + _DAY_SECONDS)
