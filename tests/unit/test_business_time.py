"""What --since and --until mean; daylight saving against a walk over the minutes of UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_tasks.core.business_time import parse_interval, parse_moment
from etl_tasks.errors import ConfigError, UsageError

ALMATY, BERLIN = "Asia/Almaty", "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "until", "zone", "expected"),
    [
        ("2025-08-08T00:00:00Z", "2025-08-09T00:00:00Z", None, ("2025-08-08", "2025-08-09")),
        ("2025-08-08T00:00:00z", " 2025-08-09T00:00:00Z ", None, ("2025-08-08", "2025-08-09")),
        ("2025-08-08T00:00:00Z", "2025-08-09T00:00:00Z", ALMATY, ("2025-08-08", "2025-08-09")),
        ("2025-08-08T05:00+05:00", "2025-08-08T06:00+0500", None, ("2025-08-08T00:00", "2025-08-08T01:00")),
        ("2025-08-08T05:00+05:00", "2025-08-08T06:00Z", None, ("2025-08-08T00:00", "2025-08-08T06:00")),
        ("2025-08-08 10:00", "2025-08-08T11:00:30", None, ("2025-08-08T10:00", "2025-08-08T11:00:30")),
        ("2025-08-08 10:00", "2025-08-08T11:00:30", "", ("2025-08-08T10:00", "2025-08-08T11:00:30")),
        ("2025-08-08 10:00", "2025-08-08T11:00:30", ALMATY, ("2025-08-08T05:00", "2025-08-08T06:00:30")),
        ("2025-08-08", "2025-08-09", None, ("2025-08-08", "2025-08-09")),
        ("2025-08-08", "2025-08-09", ALMATY, ("2025-08-07T19:00", "2025-08-08T19:00")),
        (date(2025, 8, 8), "20250809", None, ("2025-08-08", "2025-08-09")),
        (datetime(2025, 8, 8, 5), datetime(2025, 8, 8, 6), ALMATY, ("2025-08-08T00:00", "2025-08-08T01:00")),
        (
            datetime(2025, 8, 8, 5, tzinfo=ZoneInfo(ALMATY)),
            datetime(2025, 8, 8, 6, tzinfo=UTC),
            None,
            ("2025-08-08T00:00", "2025-08-08T06:00"),
        ),
    ],
)
def test_accepted(since: str | date, until: str | date, zone: str | None, expected: tuple[str, str]) -> None:
    interval = parse_interval(since, until, zone)
    assert (interval.since, interval.until) == (utc(expected[0]), utc(expected[1]))
    assert interval.since.tzinfo is interval.until.tzinfo is UTC
    assert interval.notices == ()


@pytest.mark.parametrize(
    ("since", "until", "aware", "naive"),
    [
        ("2025-08-08T00:00:00Z", "2025-08-09T00:00:00", "--since", "--until"),
        ("2025-08-08", "2025-08-09T00:00:00+05:00", "--until", "--since"),
        (datetime(2025, 8, 8, tzinfo=UTC), datetime(2025, 8, 9), "--since", "--until"),
    ],
)
def test_a_mix_is_refused_with_the_cure(since: str | date, until: str | date, aware: str, naive: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_interval(since, until, ALMATY)
    message = str(caught.value)
    assert f"{aware} has an offset" in message
    assert f"{naive} has none" in message
    assert "write both" in message
    assert "BUSINESS_TZ (Asia/Almaty)" in message


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2025-08-08", "2025-08-08"),
        ("2025-08-09", "2025-08-08"),
        ("2025-08-08T05:00+05:00", "2025-08-08T00:00Z"),
        ("2025-08-08T00:00:00.1", "2025-08-08T00:00:00.9"),  # equal once floored
    ],
)
def test_since_must_be_before_until(since: str, until: str) -> None:
    with pytest.raises(UsageError, match="not before"):
        parse_interval(since, until)


@pytest.mark.parametrize("text", ["", "yesterday", "2025-13-01", "08.08.2025", "2025-08-08T25:00", "1754611200"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since .*is no time.*2025-08-08T10:00:00Z"):
        parse_interval(text, "2025-08-09")
    with pytest.raises(UsageError, match=r"--until .*is no time"):
        parse_interval("2025-08-08", text)


@pytest.mark.parametrize("zone", ["Asia/Alma-Ata-2", "Mars", "../etc/passwd", "/etc/localtime", "America", "a\0b"])
def test_an_unknown_zone_is_a_setting_at_fault(zone: str) -> None:
    with pytest.raises(ConfigError, match="BUSINESS_TZ"):
        parse_interval("2025-08-08", "2025-08-09", zone)


def test_times_outside_the_calendar() -> None:
    with pytest.raises(UsageError, match="years 1 to 9999"):
        parse_interval("0001-01-01T00:00+05:00", "2025-08-08T00:00Z")
    with pytest.raises(UsageError, match="years 1 to 9999"):
        parse_interval("2025-08-08", "9999-12-31T23:00", "America/New_York")


def test_fractions_are_floored_and_said() -> None:
    interval = parse_interval("2025-08-08T00:00:00.999Z", "2025-08-08T23:59:59.999999Z")
    assert (interval.since, interval.until) == (utc("2025-08-08T00:00:00"), utc("2025-08-08T23:59:59"))
    assert ["--since" in interval.notices[0], "--until" in interval.notices[1]] == [True, True]
    assert all("floored" in notice for notice in interval.notices)


def test_an_hour_that_exists_twice_is_taken_the_wide_way() -> None:
    # Berlin, 26 October 2025: 02:00 .. 03:00 is once UTC+2 (from 00:00 UTC) and once UTC+1 (from 01:00 UTC).
    interval = parse_interval("2025-10-26T02:30", "2025-10-26T02:45", BERLIN)
    assert (interval.since, interval.until) == (utc("2025-10-26T00:30"), utc("2025-10-26T01:45"))
    assert len(interval.notices) == 2
    assert "--since 2025-10-26 02:30:00 exists twice in BUSINESS_TZ=Europe/Berlin" in interval.notices[0]
    assert "2025-10-26T01:45:00Z" in interval.notices[1]


def test_the_same_local_time_twice_is_an_interval_when_it_exists_twice() -> None:
    interval = parse_interval("2025-10-26T02:30", "2025-10-26T02:30", BERLIN)
    assert interval.until - interval.since == timedelta(hours=1)


def test_an_hour_that_never_is_is_taken_the_wide_way() -> None:
    # Berlin, 30 March 2025: at 02:00 (01:00 UTC) the clock goes to 03:00.
    interval = parse_interval("2025-03-30T02:30", "2025-03-30T02:45", BERLIN)
    assert (interval.since, interval.until) == (utc("2025-03-30T00:30"), utc("2025-03-30T01:45"))
    assert all("exists never" in notice for notice in interval.notices)
    assert len(interval.notices) == 2


def test_hours_beside_the_change_are_plain() -> None:
    assert parse_interval("2025-10-26T01:59:59", "2025-10-26T03:00", BERLIN).notices == ()
    assert parse_interval("2025-03-30T01:59:59", "2025-03-30T03:00", BERLIN).notices == ()
    assert parse_interval("2025-03-30T01:59:59", "2025-03-30T03:00", BERLIN).until == utc("2025-03-30T01:00")


def test_almaty_gave_up_an_hour() -> None:
    # 1 March 2024: Kazakhstan went from UTC+6 to UTC+5 at midnight, so 23:00 .. 24:00 of 29 February was there twice.
    since, notices = parse_moment("2024-02-29T23:30", "since", ALMATY)
    until, _ = parse_moment("2024-02-29T23:30", "until", ALMATY)
    assert (since, until) == (utc("2024-02-29T17:30"), utc("2024-02-29T18:30"))
    assert "twice" in notices[0]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([ALMATY, BERLIN, "America/St_Johns", "Australia/Lord_Howe", "America/Sao_Paulo"]),
    st.sampled_from([datetime(2024, 2, 29, 22), datetime(2025, 3, 30), datetime(2025, 10, 26), datetime(2025, 4, 6),
                     datetime(2025, 10, 5), datetime(2025, 3, 9), datetime(2025, 11, 2)]),
    st.integers(0, 240),
)  # fmt: skip
def test_local_times_against_a_walk_over_utc(zone: str, around: datetime, offset: int) -> None:
    local = around + timedelta(minutes=offset)
    middle = around.replace(tzinfo=UTC)
    walk = [middle + timedelta(minutes=minute) for minute in range(-16 * 60, 20 * 60)]
    shows = {moment: moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in walk}
    meant = [moment for moment in walk if shows[moment] == local]
    since, since_notices = parse_moment(local, "since", zone)
    until, until_notices = parse_moment(local, "until", zone)
    if meant:
        assert (since, until) == (min(meant), max(meant))
        assert bool(since_notices) == bool(until_notices) == (len(meant) > 1)
    else:
        jump = next(moment for moment in walk if shows[moment] > local)  # the first instant after the missing hour
        assert since < jump <= until
        assert len(since_notices) == len(until_notices) == 1
        assert "never" in since_notices[0]
