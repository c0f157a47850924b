"""What a rebuild of a partition from RAW alone would take from CLEAN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl_tasks.core.windows import DAY_S, MINUTE_S, Window, midnight_of, subtract, to_seconds, windows_between

CELL_MINUTES = 10
"""Losses are told, and loaded again, in cells of so many minutes: sparse rows would be a window each."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A window in some minutes of which CLEAN has more rows than RAW has keys, and by how many in all (``rows``): RAW's
    TTL has passed, or CLEAN has rows of nobody's.
    """

    window: Window
    clean_rows: int
    raw_rows: int
    rows: int


@dataclass(frozen=True, slots=True)
class RebuildOutlook:
    """A partition's rows in CLEAN, its keys in RAW, and where a rebuild would lose some."""

    partition: int
    clean_rows: int
    raw_rows: int
    losses: Sequence[Loss]

    @property
    def lost_rows(self) -> int:
        """Rows that would go, at least: one may go and another come in the same minute."""
        return sum(loss.rows for loss in self.losses)


def minutes_of(partition: int) -> list[Window]:
    """The minutes of the partition's day, in order: what is counted to compare CLEAN with RAW."""
    start_s = to_seconds(midnight_of(partition))
    return windows_between(range(start_s, start_s + DAY_S + 1, MINUTE_S))


def losses_not_agreed(outlook: RebuildOutlook, agreed: Sequence[Window]) -> list[Window]:
    """The windows in cells of which rows would go, and of which nobody has agreed to lose any."""
    return subtract((loss.window for loss in outlook.losses), agreed)


def rebuild_outlook(
    partition: int, minutes: Sequence[Window], clean: Sequence[int], raw: Sequence[int]
) -> RebuildOutlook:
    """Compare the counts of the day's ``minutes``, which are in order; losses in cells that touch are one.

    By the minute, so that a row that goes and one that comes seldom hide each other.
    """
    losses: list[Loss] = []
    for first in range(0, len(minutes), CELL_MINUTES):
        cell = slice(first, first + CELL_MINUTES)
        rows = sum(max(0, ours - theirs) for ours, theirs in zip(clean[cell], raw[cell], strict=True))
        if not rows:
            continue
        start, counts = minutes[first].start, (sum(clean[cell]), sum(raw[cell]), rows)
        if losses and losses[-1].window.end == start:
            last = losses.pop()
            start = last.window.start
            counts = last.clean_rows + counts[0], last.raw_rows + counts[1], last.rows + counts[2]
        losses.append(Loss(Window(start, minutes[cell][-1].end), *counts))
    return RebuildOutlook(partition, sum(clean), sum(raw), losses)
