"""What an operator means by ``--since`` and ``--until``: aware UTC times on whole seconds (DESIGN, "Time")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from etl_tasks.errors import ConfigError, UsageError

Edge = Literal["since", "until"]


@dataclass(frozen=True, slots=True)
class BusinessInterval:
    """``[since, until)`` as aware UTC times on whole seconds, and what the operator should be told about them."""

    since: datetime
    until: datetime
    notices: tuple[str, ...] = ()


def parse_interval(since: str | date, until: str | date, business_tz: str | None = None) -> BusinessInterval:
    """The interval that ``since`` and ``until`` mean: ISO texts (with ``Z``, an offset or neither), dates or datetimes.

    Both carry an offset or neither does. Without one they are local times of ``business_tz`` (an IANA name; UTC when
    unset); a plain date is its midnight, so ``until`` excludes the day it names. Fractions of a second are floored,
    with a notice. A local time that exists twice or never is taken the wide way, with a notice. Raises UsageError for
    a mix, for a text that is no time and unless since is before until; ConfigError for an unknown zone.
    """
    first, last = _read(since, "since"), _read(until, "until")
    if (first.tzinfo is None) != (last.tzinfo is None):
        naive, aware = ("--since", "--until") if first.tzinfo is None else ("--until", "--since")
        raise UsageError(
            f"--since {since} and --until {until}: {aware} has an offset from UTC and {naive} has none; write both "
            "with one (such as 2025-08-08T00:00:00Z) or both without, which means "
            f"BUSINESS_TZ ({business_tz or 'UTC'})"
        )
    start, notices = parse_moment(first, "since", business_tz)
    end, more = parse_moment(last, "until", business_tz)
    if start >= end:
        raise UsageError(
            f"--since {since} is not before --until {until} (in UTC {start:%Y-%m-%dT%H:%M:%SZ} and "
            f"{end:%Y-%m-%dT%H:%M:%SZ}): the interval begins with since and ends before until"
        )
    return BusinessInterval(start, end, notices + more)


def parse_moment(value: str | date, edge: Edge, business_tz: str | None = None) -> tuple[datetime, tuple[str, ...]]:
    """One edge of an interval as an aware UTC time on a whole second, and the notices about it.

    As ``parse_interval``; of the instants that a local time may mean, ``since`` takes the earliest and ``until`` the
    latest. Raises UsageError for what is no time or lies outside the years 1 to 9999, ConfigError for an unknown
    zone.
    """
    moment = _read(value, edge)
    notices: tuple[str, ...] = ()
    try:
        if moment.tzinfo is None:
            moment, notices = _from_local(moment, edge, _zone(business_tz))
        else:
            moment = moment.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"--{edge} {value} lies outside the years 1 to 9999 in UTC") from None
    if moment.microsecond:
        moment = moment.replace(microsecond=0)
        notices += (f"--{edge} {value} was floored to a whole second: {moment:%Y-%m-%dT%H:%M:%SZ}",)
    return moment, notices


def _read(value: str | date, edge: Edge) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    text = value.strip()
    if text[-1:] == "z":
        text = text[:-1] + "Z"
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--{edge} {value!r} is no time ({error}); write it as 2025-08-08, 2025-08-08T10:00:00 (BUSINESS_TZ), "
            "2025-08-08T10:00:00Z or 2025-08-08T10:00:00+05:00"
        ) from None


def _zone(name: str | None) -> tzinfo:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # unknown; not a relative name; a directory such as "America"
        raise ConfigError(
            f"BUSINESS_TZ={name} is no time zone known here; use an IANA name such as Asia/Almaty "
            "(on a system without zone files, install the tzdata package)"
        ) from None


def _from_local(local: datetime, edge: Edge, zone: tzinfo) -> tuple[datetime, tuple[str, ...]]:
    """The instant meant by a naive ``local`` time of ``zone``, the wide one where there are two or none."""
    # With fold 0 a time that does not exist is read with the offset before the jump, with fold 1 with the one after
    # it; a time that exists twice is its first and its second occurrence. So both cases are: two readings that
    # differ.
    readings = sorted(local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if readings[0] == readings[1]:
        return readings[0], ()
    widest: Callable[[list[datetime]], datetime] = min if edge == "since" else max
    chosen = widest(readings)
    exists = chosen.astimezone(zone).replace(tzinfo=None) == local
    return chosen, (
        f"--{edge} {local.isoformat(sep=' ')} exists {'twice' if exists else 'never'} in BUSINESS_TZ={zone} (the clock "
        f"is set {'back' if exists else 'forward'}); taken the wide way, as {chosen:%Y-%m-%dT%H:%M:%SZ}",
    )
