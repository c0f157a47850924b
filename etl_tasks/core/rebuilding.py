"""What a rebuild of a partition from RAW alone would take from CLEAN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl_tasks.core.windows import Window


@dataclass(frozen=True, slots=True)
class Loss:
    """A window in which CLEAN has more rows than RAW has keys: RAW's TTL has passed, or CLEAN has rows of nobody's."""

    window: Window
    clean_rows: int
    raw_rows: int

    @property
    def rows(self) -> int:
        """Rows that would go, at least."""
        return self.clean_rows - self.raw_rows


@dataclass(frozen=True, slots=True)
class RebuildOutlook:
    """A partition's rows in CLEAN, its keys in RAW, and where a rebuild would lose some."""

    partition: int
    clean_rows: int
    raw_rows: int
    losses: Sequence[Loss]

    @property
    def lost_rows(self) -> int:
        """Rows that would go, at least: one may go and another come in the same window."""
        return sum(loss.rows for loss in self.losses)


def rebuild_outlook(
    partition: int, windows: Sequence[Window], clean: Sequence[int], raw: Sequence[int]
) -> RebuildOutlook:
    """Compare the counts of ``windows``, which are in order of time; losses in windows that touch are one."""
    losses: list[Loss] = []
    for window, in_clean, in_raw in zip(windows, clean, raw, strict=True):
        if in_clean <= in_raw:
            continue
        if losses and losses[-1].window.end == window.start:
            last = losses.pop()
            joined = Window(last.window.start, window.end)
            losses.append(Loss(joined, last.clean_rows + in_clean, last.raw_rows + in_raw))
        else:
            losses.append(Loss(window, in_clean, in_raw))
    return RebuildOutlook(partition, sum(clean), sum(raw), losses)
