"""Half-open intervals of the source's time column, always UTC, edges on whole seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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

    def overlaps(self, other: Window) -> bool:
        """Whether at least one instant lies in both."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M:%SZ}, {self.end:%Y-%m-%dT%H:%M:%SZ})"


def merge(windows: Iterable[Window]) -> list[Window]:
    """The same instants as disjoint windows in order; touching ones are joined."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and window.start <= merged[-1].end:
            if window.end > merged[-1].end:
                merged[-1] = Window(merged[-1].start, window.end)
        else:
            merged.append(window)
    return merged


def subtract(windows: Iterable[Window], holes: Iterable[Window]) -> list[Window]:
    """The instants of ``windows`` that lie in none of ``holes``, as disjoint windows in order."""
    remaining: list[Window] = []
    cuts = merge(holes)
    for window in merge(windows):
        start = window.start
        for cut in cuts:
            if cut.end <= start:
                continue
            if cut.start >= window.end:
                break
            if cut.start > start:
                remaining.append(Window(start, cut.start))
            start = max(start, cut.end)
            if start >= window.end:
                break
        if start < window.end:
            remaining.append(Window(start, window.end))
    return remaining
