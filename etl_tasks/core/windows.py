"""Half-open intervals of the source's time column, always UTC, edges on whole seconds (DESIGN, "Words" and "Time")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from etl_tasks.core.spans import Span, merge_spans, subtract_spans

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_S = 60
DAY_S = 86_400

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """``[start, end)``: both aware and UTC, on whole seconds, ``start < end``; raises ValueError otherwise."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for edge in (self.start, self.end):
            if edge.tzinfo is None or edge.utcoffset() != timedelta(0):
                raise ValueError(f"a window's edge must be an aware UTC time, not {edge!r}")
            if edge.microsecond:
                raise ValueError(f"a window's edge must be on a whole second, not {edge!r}")
        if self.start >= self.end:
            raise ValueError(f"a window must not be empty: {self.start.isoformat()} .. {self.end.isoformat()}")

    @property
    def duration(self) -> timedelta:
        """The width as a timedelta."""
        return self.end - self.start

    @property
    def start_ms(self) -> int:
        """The left edge in milliseconds since the epoch (inclusive)."""
        return (self.start - EPOCH) // timedelta(milliseconds=1)

    @property
    def end_ms(self) -> int:
        """The right edge in milliseconds since the epoch (exclusive)."""
        return (self.end - EPOCH) // timedelta(milliseconds=1)

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M:%SZ}, {self.end:%Y-%m-%dT%H:%M:%SZ})"


def to_seconds(moment: datetime) -> int:
    """Whole seconds since the epoch, floored (also before 1970). Raises ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError(f"a time inside the core must be aware, not {moment!r}")
    return (moment - EPOCH) // _SECOND


def from_seconds(seconds: int) -> datetime:
    """The aware UTC time at ``seconds`` since the epoch. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(seconds=seconds)


def partition_of(moment: datetime) -> int:
    """The UTC day of ``moment`` as ClickHouse's ``toYYYYMMDD`` has it: 20250808. Raises ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError(f"a time inside the core must be aware, not {moment!r}")
    day = moment.astimezone(UTC)
    return day.year * 10_000 + day.month * 100 + day.day


def midnight_of(partition: int) -> datetime:
    """The UTC midnight at which the partition (20250808) begins. Raises ValueError for a number that is no day."""
    return datetime(partition // 10_000, partition // 100 % 100, partition % 100, tzinfo=UTC)


def grid_edges(start_s: int, end_s: int, grid_s: int) -> Iterator[int]:
    """The edges strictly inside ``(start_s, end_s)`` of a grid counted from each UTC midnight, in order.

    Times are seconds since the epoch. Every midnight is an edge: where ``grid_s`` does not divide a day, its last
    cell is shorter. So no cell ever touches two partitions.
    """
    day = start_s - start_s % DAY_S
    while day < end_s:
        first = day if day > start_s else day + ((start_s - day) // grid_s + 1) * grid_s
        yield from range(first, min(day + DAY_S, end_s), grid_s)
        day += DAY_S


def count_grid_cells(start_s: int, end_s: int, grid_s: int) -> int:
    """How many pieces ``grid_edges`` cuts ``[start_s, end_s)`` into, without walking over them."""

    def cell(second: int) -> int:
        day, second_of_day = divmod(second, DAY_S)
        return day * -(-DAY_S // grid_s) + second_of_day // grid_s

    return cell(end_s - 1) - cell(start_s) + 1


def windows_between(edges: Iterable[int]) -> list[Window]:
    """The windows between neighbouring edges (seconds since the epoch, ascending)."""
    moments = [from_seconds(edge) for edge in edges]
    return [Window(start, end) for start, end in pairwise(moments)]


def halve(window: Window) -> tuple[Window, Window]:
    """The two halves of ``window``; from two minutes on they meet at the whole minute nearest the middle.

    Raises ValueError for a window of one second, which has no second inside it to meet at.
    """
    start_s, end_s = to_seconds(window.start), to_seconds(window.end)
    if end_s - start_s < 2:
        raise ValueError(f"a window of one second has no halves: {window}")
    middle_s = (start_s + end_s) // 2
    if end_s - start_s >= 2 * MINUTE_S:
        # The nearest minute is at most 30 s off, so even halves of two minutes keep at least 30 s each.
        # A tie goes to the earlier minute: 5 minutes become 2 + 3.
        middle_s = (middle_s + MINUTE_S // 2 - 1) // MINUTE_S * MINUTE_S
    middle = from_seconds(middle_s)
    return Window(window.start, middle), Window(middle, window.end)


def can_halve(window: Window, shortest: timedelta) -> bool:
    """Whether ``window`` has halves, and both are at least ``shortest``."""
    return window.duration >= 2 * _SECOND and all(half.duration >= shortest for half in halve(window))


def merge(windows: Iterable[Window]) -> list[Window]:
    """The same instants as disjoint windows in order; touching ones are joined."""
    return from_spans(merge_spans(to_spans(windows)))


def subtract(windows: Iterable[Window], holes: Iterable[Window]) -> list[Window]:
    """The instants of ``windows`` that lie in none of ``holes``, as disjoint windows in order."""
    return from_spans(subtract_spans(to_spans(windows), to_spans(holes)))


def to_spans(windows: Iterable[Window]) -> list[Span]:
    """The windows in whole seconds since the epoch."""
    return [(to_seconds(window.start), to_seconds(window.end)) for window in windows]


def from_spans(spans: Iterable[Span]) -> list[Window]:
    """Spans of seconds since the epoch as windows. Raises OverflowError outside the years 1 to 9999."""
    return [Window(from_seconds(start), from_seconds(end)) for start, end in spans]
