"""The slices of a run over time: bars in a lane a worker, and rows a second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from etl_tasks.core.states import SliceState
from etl_tasks.core.windows import Window

MOST_BARS = 1500
"""Slices up to which each has a bar of its own; beyond, a bar stands for all of its lane in a stretch of time."""
MOST_LANES = 24
CELLS = 300
"""Stretches of time of a lane whose slices have no bars of their own."""
BINS = 60
TICKS = 5

# What a bar that stands for several slices shows: what somebody should look at first.
_WEIGHT = (SliceState.ERROR, SliceState.SPLIT, SliceState.RUNNING, SliceState.DONE)


@dataclass(frozen=True, slots=True)
class ReportSlice:
    """A slice as the page needs it; times are of its last attempt, ``rows`` those it inserted."""

    slice_id: int
    parent_id: int | None
    partition: int
    window: Window
    state: str
    depth: int
    attempt: int
    overloads: int
    rows: int
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    error_kind: str | None

    @property
    def took_s(self) -> float | None:
        """Seconds from claim to end of the last attempt; None while it has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max((self.finished_at - self.started_at).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """A slice, or (``only`` is None) several: place and width in percent of the lane, ``counts`` by state."""

    left_pct: float
    width_pct: float
    state: str
    depth: int
    counts: Mapping[str, int]
    only: ReportSlice | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """What one worker did, in order of time; ``worker`` is a sentence where it stands for several."""

    worker: str
    slices: int
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Lanes in order of their first slice, and moments to write below them."""

    start: datetime
    end: datetime
    lanes: Sequence[Lane]
    ticks: Sequence[datetime]
    left_out: Sequence[str]


@dataclass(frozen=True, slots=True)
class Column:
    """Rows loaded in one stretch of time; its height is in percent of the highest."""

    start: datetime
    left_pct: float
    width_pct: float
    height_pct: float
    rows: int
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Columns that have rows, in order of time."""

    start: datetime
    end: datetime
    peak_rows_per_s: float
    columns: Sequence[Column]
    ticks: Sequence[datetime]


def timeline_of(slices: Sequence[ReportSlice], now: datetime) -> Timeline | None:
    """The timeline at ``now``; None where no worker has worked on any slice."""
    worked = [each for each in slices if _worked(each)]
    if not worked:
        return None
    start = min(_start(each) for each in worked)
    end = max(*(_end(each, now) for each in worked), start + timedelta(seconds=1))
    place = _placer(start, end)
    by_worker: dict[str, list[ReportSlice]] = defaultdict(list)
    for each in sorted(worked, key=_start):
        by_worker[each.worker or "?"].append(each)
    lanes, left_out = [], []
    each_its_bar = len(worked) <= MOST_BARS
    if not each_its_bar:
        left_out.append(f"{len(worked):,} slices are drawn together where they are neighbours, not each by itself")
    busiest = sorted(by_worker, key=lambda worker: -len(by_worker[worker]))
    own, others = set(busiest[:MOST_LANES]), busiest[MOST_LANES:]
    for worker, done in by_worker.items():
        if worker in own:
            bars = _bars(done, now, place) if each_its_bar else _merged_bars(done, now, place)
            lanes.append(Lane(worker, len(done), bars))
    if others:
        rest = [each for worker in others for each in by_worker[worker]]
        lanes.append(Lane(f"{len(others)} more workers", len(rest), _merged_bars(rest, now, place)))
        left_out.append(f"{len(others)} workers with the fewest slices share one lane")
    if idle := len(slices) - len(worked):
        left_out.append(f"{idle:,} slices not begun, or waiting to be tried again, are not in the timeline")
    return Timeline(start, end, lanes, _ticks(start, end), left_out)


def throughput_of(slices: Sequence[ReportSlice]) -> Throughput | None:
    """Rows by the time when their slice was done; None where no slice is."""
    done = [(each.finished_at, each.rows) for each in slices if each.state == SliceState.DONE and each.finished_at]
    begun = [each.started_at for each in slices if each.started_at and each.state == SliceState.DONE]
    if not done or not begun:
        return None
    start = min(begun)
    end = max(max(moment for moment, _ in done), start + timedelta(seconds=1))
    bin_s = (end - start).total_seconds() / BINS
    rows: Counter[int] = Counter()
    for moment, loaded in done:
        rows[min(int((moment - start).total_seconds() / bin_s), BINS - 1)] += loaded
    most = max(rows.values())
    columns = [
        Column(
            start=start + timedelta(seconds=index * bin_s),
            left_pct=round(index * 100 / BINS, 3),
            width_pct=round(100 / BINS, 3),
            height_pct=round(loaded * 100 / most, 1),
            rows=loaded,
            rows_per_s=loaded / bin_s,
        )
        for index, loaded in sorted(rows.items())
        if loaded
    ]
    return Throughput(start, end, most / bin_s, columns, _ticks(start, end))


def _worked(each: ReportSlice) -> bool:
    """Whether its last attempt is known: a planned one was given back, or not taken yet."""
    return each.started_at is not None and each.state != SliceState.PLANNED


def _start(each: ReportSlice) -> datetime:
    assert each.started_at is not None
    return each.started_at


def _end(each: ReportSlice, now: datetime) -> datetime:
    return max(each.finished_at or now, _start(each))


def _placer(start: datetime, end: datetime) -> Callable[[datetime], float]:
    """A moment → its place in percent."""
    span = (end - start) / 100

    def place(moment: datetime) -> float:
        return round((moment - start) / span, 3)

    return place


def _bars(slices: Iterable[ReportSlice], now: datetime, place: Callable[[datetime], float]) -> list[Bar]:
    bars = []
    for each in slices:
        left = place(_start(each))
        width = round(place(_end(each, now)) - left, 3)
        bars.append(Bar(left, width, each.state, each.depth, {each.state: 1}, each))
    return bars


def _merged_bars(slices: Iterable[ReportSlice], now: datetime, place: Callable[[datetime], float]) -> list[Bar]:
    """One bar for neighbouring cells of time with the same weightiest state; a slice counts where it ends."""
    touched: dict[int, set[str]] = defaultdict(set)
    ended: dict[int, Counter[str]] = defaultdict(Counter)
    for each in slices:
        first, last = (min(int(place(at) * CELLS / 100), CELLS - 1) for at in (_start(each), _end(each, now)))
        ended[last][each.state] += 1
        for cell in range(first, last + 1):
            touched[cell].add(each.state)
    bars: list[Bar] = []
    end_of_last = -1
    cell_pct = 100 / CELLS
    for cell in sorted(touched):
        state = next(str(weighty) for weighty in _WEIGHT if weighty in touched[cell])
        left, counts = round(cell * cell_pct, 3), ended[cell]
        if bars and end_of_last == cell and bars[-1].state == state:
            counts = Counter(bars[-1].counts) + counts
            left = bars.pop().left_pct
        bars.append(Bar(left, round((cell + 1) * cell_pct - left, 3), state, 0, counts))
        end_of_last = cell + 1
    return bars


def _ticks(start: datetime, end: datetime) -> list[datetime]:
    return [start + (end - start) * index / (TICKS - 1) for index in range(TICKS)]
