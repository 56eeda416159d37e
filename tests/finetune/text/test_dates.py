"""ISO dates and the time that each covers, against Python's own reading of them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.text.dates import date_period, date_text, moment_text

MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9998, 12, 30))


def seconds(moment: datetime) -> float:
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / (
        timedelta(seconds=1)
    )


def period(text: str) -> tuple[float, float] | None:
    found = date_period(text)
    return None if found is None else (found.start, found.end)


@given(MOMENTS)
def test_years_months_and_days_cover_all_of_their_time(moment: datetime) -> None:
    day = datetime(moment.year, moment.month, moment.day)
    month = day.replace(day=1)
    following = (month + timedelta(days=40)).replace(day=1)
    year = datetime(moment.year, 1, 1)
    written = day.isoformat()
    assert period(written[:10]) == (seconds(day), seconds(day + timedelta(days=1)))
    assert period(written[:7]) == (seconds(month), seconds(following))
    assert period(f" {written[:4]} ") == (seconds(year), seconds(year.replace(moment.year + 1)))


@given(MOMENTS, st.sampled_from((" ", "T")), st.sampled_from(("", "Z", "+02:00", "-0530")))
def test_times_are_those_that_python_reads(moment: datetime, mark: str, zone: str) -> None:
    text = moment.isoformat(mark, timespec="microseconds") + zone
    start = seconds(datetime.fromisoformat(text))
    assert period(text) == pytest.approx((start, start + 1e-6), abs=1e-6)
    minutes = moment.isoformat(mark, timespec="minutes") + zone
    start = seconds(datetime.fromisoformat(minutes))
    assert period(minutes) == (start, start + 60)


@pytest.mark.parametrize(
    "text",
    ["", "1.6.2019", "20190601", "2019-13", "2019-02-29", "2019-6-1", "2019-06-01T25:00", "19-06",
     "2019-06-01T", "0000", "２０１９", "2019-06-01T12", "2019-W23", "June 2019", "2019-06-01x"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert period(text) is None


@given(MOMENTS)
def test_a_moment_is_written_as_a_date_again(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    found = date_period(date_text(seconds(whole)))
    assert found is not None and found.start == seconds(whole)
    exact = date_period(moment_text(seconds(whole)))
    assert exact is not None and exact.start == seconds(whole)
    assert exact.end - exact.start < 1e-4


def test_the_last_year_has_an_end() -> None:
    assert date_period("9999") is not None
    assert date_text(1e300) == "1e+300"
