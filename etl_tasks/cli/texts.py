"""How times, numbers and durations are written for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rich.console import Console

_FILE_WIDTH = 200


def iso(moment: datetime) -> str:
    """``2025-08-08T00:00:00Z``, with milliseconds only where there are some."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def iso_second(moment: datetime) -> str:
    """As ``iso``, the fraction of the second cut off."""
    return iso(moment.replace(microsecond=0))


def iso_or_none(moment: datetime | None) -> str | None:
    """As ``iso``; None stays None."""
    return None if moment is None else iso(moment)


def short_time(moment: datetime | None) -> str:
    """``2025-08-08 00:00``, UTC, for a table, with seconds only where there are some; ``-`` for none."""
    if moment is None:
        return "-"
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S}" if utc.second else f"{utc:%Y-%m-%d %H:%M}"


def short_interval(start: datetime | None, end: datetime | None) -> str:
    """``2025-08-08 22:00–23:00``, UTC, for a table; the end with its day where that is another; ``-`` for none."""
    if start is None or end is None:
        return "-"
    first, last = start.astimezone(UTC), end.astimezone(UTC)
    if first.date() == last.date():
        return f"{short_time(first)}–{short_time(last)[11:]}"
    if last.date() - first.date() == timedelta(days=1) and not any((last.hour, last.minute, last.second)):
        return f"{short_time(first)}–24:00"
    return f"{short_time(first)}–{short_time(last)}"


def wide_console() -> Console:
    """Where tables go: the terminal as it is, a file or pipe without a terminal's narrow folds."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


def duration(span: timedelta | float | None) -> str:
    """``1.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``4 d 3 h``; ``-`` for none."""
    if span is None:
        return "-"
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    # Two clocks that differ by milliseconds make no negative time.
    sign, seconds = ("-", -seconds) if seconds <= -0.05 else ("", max(seconds, 0.0))
    if seconds < 60:
        return f"{sign}{seconds:.1f} s" if seconds < 10 else f"{sign}{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days} d {hours} h"
    return f"{sign}{hours} h {minutes} min" if hours else f"{sign}{minutes} min {rest} s"


def rough(span: timedelta) -> str:
    """``8 s``, ``42 min``, ``2 h 5 min``, ``4 d 3 h``: as ``duration``, no finer than somebody in a hurry reads."""
    seconds = round(abs(span.total_seconds()))
    sign = "-" if seconds and span < timedelta(0) else ""
    if seconds < 60:
        return f"{sign}{seconds} s"
    return duration(span) if seconds >= 3600 else f"{sign}{round(seconds / 60)} min"


def number(value: int) -> str:
    """``1,234,567``."""
    return f"{value:,}"


def count_of(value: int, one: str, many: str | None = None) -> str:
    """``1 slice``, ``2 slices``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def first_line(text: str | None, limit: int = 300) -> str:
    """The first line of a message, cut with an ellipsis."""
    line = (text or "").strip().partition("\n")[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"
