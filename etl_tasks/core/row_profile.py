"""How many rows are believed to lie in a stretch of the source's time, and who says so: EXPLAIN, or the journal.

Kept as rows a second in cells of a quarter of an hour. Where several say something of a cell, the one who says most is
believed: an estimate that is too high costs a slice more, one that is too low costs an overload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from etl_tasks.core.windows import DAY_S, MINUTE_S, Window, from_seconds, to_seconds

CELL_S = 15 * MINUTE_S
FIRST_STRETCHES = 8
LOOK_BACK_DAYS = 7
"""The same time of day so many days back stands in for a window that was never loaded."""


class Origin(StrEnum):
    """Whom a number of rows is from."""

    EXPLAIN = "EXPLAIN"
    JOURNAL = "journal"
    EARLIER_DAY = "journal, same time of an earlier day"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the source's EXPLAIN says of reading a window: rows, bytes, chunks (None: not told), and the time (aware
    UTC) up to which its statistics know anything (None: not told).
    """

    rows: int
    bytes: int
    chunks: int | None = None
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class LoadedStretch:
    """What the journal counted: windows that cover ``window`` had so many rows a second of source time."""

    window: Window
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Belief:
    """Rows of a window, and whom most of them are from."""

    rows: float
    origin: Origin


class Profile:
    """Rows a second, cell by cell; filled by ``learn_estimate`` and ``learn_loads``."""

    def __init__(self) -> None:
        self._cells: dict[int, tuple[float, Origin]] = {}

    def learn_estimate(self, window: Window, estimate: Estimate) -> None:
        """The estimate's rows, evenly over ``window``, as far as its statistics reach."""
        start_s, end_s = to_seconds(window.start), to_seconds(window.end)
        known_until_s = end_s if estimate.as_of is None else min(end_s, to_seconds(estimate.as_of))
        if known_until_s <= start_s:
            return
        rows_per_s = estimate.rows / (known_until_s - start_s)
        for cell in _cells_of(start_s, end_s):
            if min((cell + 1) * CELL_S, end_s) <= known_until_s:
                self._learn(cell, rows_per_s, Origin.EXPLAIN)

    def learn_loads(self, windows: Sequence[Window], loads: Iterable[LoadedStretch]) -> None:
        """What was loaded of ``windows`` before; where nothing was, the nearest of the last days at the same time."""
        loaded: dict[int, float] = {}
        for load in loads:
            for cell in _cells_of(to_seconds(load.window.start), to_seconds(load.window.end)):
                loaded[cell] = max(load.rows_per_s, loaded.get(cell, 0.0))
        for window in windows:
            for cell in _cells_of(to_seconds(window.start), to_seconds(window.end)):
                for days in range(LOOK_BACK_DAYS + 1):
                    rows_per_s = loaded.get(cell - days * (DAY_S // CELL_S))
                    if rows_per_s is not None:
                        self._learn(cell, rows_per_s, Origin.EARLIER_DAY if days else Origin.JOURNAL)
                        break

    def rows(self, window: Window) -> Belief | None:
        """The rows believed to be in ``window``; None where nothing is known of some of it."""
        start_s, end_s = to_seconds(window.start), to_seconds(window.end)
        total, most, origin = 0.0, -1.0, Origin.JOURNAL
        for cell in _cells_of(start_s, end_s):
            if cell not in self._cells:
                return None
            rows_per_s, said_by = self._cells[cell]
            rows = rows_per_s * (min((cell + 1) * CELL_S, end_s) - max(cell * CELL_S, start_s))
            total += rows
            if rows > most:
                most, origin = rows, said_by
        return Belief(total, origin)

    def _learn(self, cell: int, rows_per_s: float, origin: Origin) -> None:
        known = self._cells.get(cell)
        if known is None or rows_per_s > known[0]:
            self._cells[cell] = rows_per_s, origin


def first_stretches(windows: Sequence[Window]) -> list[Window]:
    """The windows cut into some ``FIRST_STRETCHES`` stretches to ask about first, of whole hours or days."""
    total_s = sum(int(window.duration.total_seconds()) for window in windows)
    hours = next((h for h in (1, 2, 3, 4, 6, 8, 12) if total_s <= FIRST_STRETCHES * h * 3600), None)
    width_s = hours * 3600 if hours else -(-total_s // (FIRST_STRETCHES * DAY_S)) * DAY_S
    return [
        Window(
            from_seconds(max(edge, to_seconds(window.start))), from_seconds(min(edge + width_s, to_seconds(window.end)))
        )
        for window in windows
        for edge in range(to_seconds(window.start) // width_s * width_s, to_seconds(window.end), width_s)
    ]


def cut_stretch(window: Window, narrowest_s: int) -> tuple[Window, Window] | None:
    """The two parts to ask about instead of ``window``, cut on the cells' grid; None where it is narrow enough."""
    start_s, end_s = to_seconds(window.start), to_seconds(window.end)
    middle_s = ((start_s + end_s) // 2 + CELL_S // 2) // CELL_S * CELL_S
    if end_s - start_s <= max(narrowest_s, CELL_S) or not start_s < middle_s < end_s:
        return None
    middle = from_seconds(middle_s)
    return Window(window.start, middle), Window(middle, window.end)


def _cells_of(start_s: int, end_s: int) -> Iterator[int]:
    yield from range(start_s // CELL_S, -(-end_s // CELL_S))
