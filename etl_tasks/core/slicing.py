"""From a business interval to slices: the source windows of its steps, less what is loaded, cut on the UTC grid.

Every rule is DESIGN's ("Time"). Arithmetic is done in whole seconds since the epoch: it is exact, needs no calendar,
and a month of 5-minute slices costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from etl_tasks.core.windows import (
    DAY_S,
    MINUTE_S,
    Window,
    count_grid_cells,
    from_seconds,
    grid_edges,
    partition_of,
    subtract,
    to_seconds,
    windows_between,
)
from etl_tasks.errors import ConfigError, UsageError

_FIRST_S = to_seconds(datetime.min.replace(tzinfo=UTC))
_LAST_S = to_seconds(datetime.max.replace(tzinfo=UTC))
_UTC_NAMES = frozenset({"", "utc", "etc/utc", "uct", "etc/uct", "zulu", "etc/zulu"})


@dataclass(frozen=True, slots=True)
class SlicingRules:
    """The settings that shape a plan, in minutes; raises ConfigError naming every one that cannot be meant.

    ``overlap_only_first`` (``PHX_OVERLAP_ONLY_FIRST_SLICE``) is kept for the old setting's sake and changes nothing:
    steps touch, and overlapping windows are merged, so an overlap on every step asks for the same instants as on the
    first.
    """

    step_min: int
    shift_min: int = 0
    overlap_min: int = 0
    overlap_only_first: bool = True
    lag_min: int = 0
    initial_slice_min: int = 0
    max_slices: int = 100_000
    business_tz: str | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least {least}, not {value}"
            for name, value, least in (
                ("STEP_MIN", self.step_min, 1),
                ("PHX_QUERY_OVERLAP_MINUTES", self.overlap_min, 0),
                ("PHX_QUERY_LAG_MINUTES", self.lag_min, 0),
                ("PHX_INITIAL_SLICE_MIN", self.initial_slice_min, 0),
                ("MAX_SLICES_PER_RUN", self.max_slices, 1),
            )
            if value < least
        ]
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """One window to read, within one partition; ``step`` counts from 0 by business time (0 also before ``since``)."""

    window: Window
    partition: int
    step: int


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """What a run will read.

    ``since`` and ``until`` are the business interval covered, aware UTC, ``until`` as the lag clipped it (``until ==
    since`` when nothing is covered). ``slices`` are in order of time, disjoint, and together exactly
    ``source_windows``; ``partitions`` ascend; ``steps`` counts the steps of the interval covered; ``notices`` are
    sentences for the journal and the operator.
    """

    since: datetime
    until: datetime
    slices: tuple[PlannedSlice, ...]
    partitions: tuple[int, ...]
    steps: int
    notices: tuple[str, ...]
    source_windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Touching instants to read, in seconds: ``[start, end)``, of which ``[start, core)`` only repeats the overlap."""

    start: int
    core: int
    end: int


def schedule_until(rules: SlicingRules, now: datetime) -> datetime:
    """The schedule's ``until``: the business time of now less the lag, floored to a second, aware UTC (DESIGN)."""
    return from_seconds(_lag_edge(rules, now) - rules.shift_min * MINUTE_S)


def plan_slices(
    since: datetime,
    until: datetime,
    rules: SlicingRules,
    now: datetime,
    loaded: Iterable[Window] = (),
) -> SlicePlan:
    """The slices for the business interval ``[since, until)`` as seen at ``now``; all aware, floored to seconds.

    ``loaded`` are source windows not to be read again; give them for the schedule's lane only, runs by hand read what
    they are told. The overlap is read to the left of everything that is still to be read and whose left neighbour is
    not. If nothing is to be read, ``slices`` is empty and a notice says why. Raises UsageError for more slices than
    ``rules.max_slices`` (before making them) and for times outside the years 1 to 9999.
    """
    notices = _warnings(rules)
    since_s, until_s = to_seconds(since), to_seconds(until)
    shift_s = rules.shift_min * MINUTE_S
    lag_edge_s = _lag_edge(rules, now)
    covered_until_s = max(since_s, min(until_s, lag_edge_s - shift_s))
    if since_s + shift_s - rules.overlap_min * MINUTE_S < _FIRST_S or until_s + shift_s > _LAST_S:
        raise UsageError(
            f"[{_text(since_s)}, {_text(until_s)}) with a shift of {rules.shift_min} and an overlap of "
            f"{rules.overlap_min} minutes reaches outside the years 1 to 9999: choose other bounds"
        )

    pieces: list[_Piece] = []
    if until_s <= since_s:
        notices.append(f"nothing to read: until {_text(until_s)} is not after since {_text(since_s)}")
    elif covered_until_s == since_s:
        notices.append(
            f"nothing to read yet: since {_text(since_s)} (source time {_text(since_s + shift_s)}) is not before now "
            f"less PHX_QUERY_LAG_MINUTES={rules.lag_min}, which is {_text(lag_edge_s)}"
        )
    else:
        if covered_until_s < until_s:
            notices.append(
                f"until was clipped from {_text(until_s)} to {_text(covered_until_s)} (source time "
                f"{_text(lag_edge_s)}): nothing newer than now less PHX_QUERY_LAG_MINUTES={rules.lag_min} is read"
            )
        pieces = _pieces_to_read(since_s + shift_s, covered_until_s + shift_s, rules.overlap_min * MINUTE_S, loaded)
        if not pieces:
            notices.append(f"nothing to read: all of [{_text(since_s)}, {_text(covered_until_s)}) is loaded already")

    slices = _cut(pieces, since_s + shift_s, rules)
    return SlicePlan(
        since=from_seconds(since_s),
        until=from_seconds(covered_until_s),
        slices=slices,
        partitions=tuple(sorted({planned.partition for planned in slices})),
        steps=-(-(covered_until_s - since_s) // (rules.step_min * MINUTE_S)),
        notices=tuple(notices),
        source_windows=tuple(Window(from_seconds(piece.start), from_seconds(piece.end)) for piece in pieces),
    )


def earliest_hole_watermark(
    since: datetime,
    until: datetime,
    shift_min: int,
    holes: Iterable[Window],
    current: datetime | None,
) -> datetime | None:
    """The watermark (aware UTC) that a run over ``[since, until)`` leaves behind when it ends; None for none.

    ``holes`` are the source windows that it did not load. Without holes that is ``until``, else the business time of
    the earliest hole's start, never outside ``[since, until]``. The watermark only moves forward, and stays at
    ``current`` when ``since`` lies after it: a gap would be left between. Without a ``current`` one, a hole at or
    before ``since`` sets none. The rule is DESIGN's ("Time": the watermark moves only forward, and only if the run's
    since is not after it).
    """
    since_s, reached_s = to_seconds(since), to_seconds(until)
    for hole in holes:
        reached_s = min(reached_s, to_seconds(hole.start) - shift_min * MINUTE_S)
    reached_s = max(reached_s, since_s)
    if current is None:
        return from_seconds(reached_s) if reached_s > since_s else None
    current_s = to_seconds(current)
    if since_s > current_s or reached_s <= current_s:
        return current
    return from_seconds(reached_s)


def _lag_edge(rules: SlicingRules, now: datetime) -> int:
    """The second of the source's time at which reading stops: now less the lag, floored."""
    return to_seconds(now) - rules.lag_min * MINUTE_S


def _warnings(rules: SlicingRules) -> list[str]:
    if rules.shift_min and (rules.business_tz or "").strip().lower() not in _UTC_NAMES:
        return [
            f"PHX_QUERY_SHIFT_MINUTES={rules.shift_min} and BUSINESS_TZ={rules.business_tz} are both set: naive times "
            "are converted from the zone and then shifted again; set one of them"
        ]
    return []


def _pieces_to_read(start_s: int, end_s: int, overlap_s: int, loaded: Iterable[Window]) -> list[_Piece]:
    """``[start_s, end_s)`` less ``loaded``, what remains extended left by the overlap, touching pieces joined."""
    pieces: list[_Piece] = []
    for window in subtract([Window(from_seconds(start_s), from_seconds(end_s))], loaded):
        core = to_seconds(window.start)
        piece = _Piece(core - overlap_s, core, to_seconds(window.end))
        if pieces and piece.start <= pieces[-1].end:
            piece = _Piece(pieces[-1].start, pieces[-1].core, piece.end)
            pieces.pop()
        pieces.append(piece)
    return pieces


def _cut(pieces: list[_Piece], first_step_s: int, rules: SlicingRules) -> tuple[PlannedSlice, ...]:
    """The slices of ``pieces``; ``first_step_s`` is the source time of the first step's left edge."""
    grid_s, step_s = rules.initial_slice_min * MINUTE_S, rules.step_min * MINUTE_S
    if grid_s:
        _check_number(sum(count_grid_cells(piece.start, piece.end, grid_s) for piece in pieces), rules)
        edges = [[piece.start, *grid_edges(piece.start, piece.end, grid_s), piece.end] for piece in pieces]
    else:
        # A range knows its length without being walked. Edges of both kinds may coincide: these are lower bounds.
        step_edges = [range(_next_edge(piece.core, first_step_s, step_s), piece.end, step_s) for piece in pieces]
        _check_number(len(pieces) + sum(map(len, step_edges)), rules, "at least ")
        _check_number(sum(count_grid_cells(piece.start, piece.end, DAY_S) for piece in pieces), rules, "at least ")
        edges = [
            [piece.start, *sorted({*inside, *grid_edges(piece.start, piece.end, DAY_S)}), piece.end]
            for piece, inside in zip(pieces, step_edges, strict=True)
        ]
        _check_number(sum(len(cuts) - 1 for cuts in edges), rules)
    return tuple(
        PlannedSlice(
            window=window,
            partition=partition_of(window.start),
            step=max(0, (start_s - first_step_s) // step_s),
        )
        for cuts in edges
        for start_s, window in zip(cuts, windows_between(cuts), strict=False)
    )


def _next_edge(second: int, origin: int, spacing: int) -> int:
    """The first edge after ``second`` of the edges ``origin + k * spacing``."""
    return origin + ((second - origin) // spacing + 1) * spacing


def _check_number(slices: int, rules: SlicingRules, qualifier: str = "") -> None:
    if slices > rules.max_slices:
        setting, value = "PHX_INITIAL_SLICE_MIN", rules.initial_slice_min
        if not value:
            setting, value = "STEP_MIN", rules.step_min
        raise UsageError(
            f"the interval would be cut into {qualifier}{slices} slices, more than "
            f"MAX_SLICES_PER_RUN={rules.max_slices}: raise {setting} (now {value} minutes), or ask for a shorter "
            "interval at a time"
        )


def _text(seconds: int) -> str:
    """A time for a message; times outside the calendar stay numbers."""
    if _FIRST_S <= seconds <= _LAST_S:
        return f"{from_seconds(seconds):%Y-%m-%dT%H:%M:%SZ}"
    return f"second {seconds}"
