"""How wide each slice of a plan is to be: from the rows believed to be in its window, and how many are too many.

Everything comes down to one number, the most rows of a slice (``RowCeiling``), and to rows believed to lie in a stretch
of time (``Profile``). A slice with more rows is halved as a split would halve it; where wider ones are allowed,
neighbours are put together as long as they fit. What nothing is known of stays as it was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import groupby

from etl_tasks.core.row_profile import Origin, Profile
from etl_tasks.core.slicing import PlannedSlice, SlicePlan
from etl_tasks.core.windows import DAY_S, MINUTE_S, Window, can_halve, halve, to_seconds
from etl_tasks.errors import ConfigError

SPLIT_SHARE = 0.1
"""A class of sizes is too big when more than this share of its windows had to be split."""


@dataclass(frozen=True, slots=True)
class SizingRules:
    """The settings that bound sizes; raises ConfigError naming every one that cannot be meant.

    ``auto``: whether anything is sized at all (``PHX_SLICE_SIZING``). ``initial_min`` is the width of the first cut
    (``PHX_INITIAL_SLICE_MIN``, 0: a step), ``widest_min`` what neighbours may be put together to
    (``PHX_SLICE_MAX_MIN``, 0: never), ``narrowest_min`` minutes of the narrowest half
    (``PHX_OVERLOAD_MIN_SPLIT_MIN``), ``most_rows`` and ``target_s`` what a slice is to have and to take at most.
    """

    auto: bool = True
    initial_min: int = 5
    widest_min: int = 0
    narrowest_min: float = 2
    most_rows: int = 200_000
    target_s: float = 120.0
    max_slices: int = 100_000

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least {least}, not {value}"
            for name, value, least in (
                ("PHX_SLICE_MAX_MIN", self.widest_min, 0),
                ("PHX_OVERLOAD_MIN_SPLIT_MIN", self.narrowest_min, 0),
                ("PHX_SLICE_MAX_ROWS", self.most_rows, 1),
                ("PHX_SLICE_TARGET_S", self.target_s, 1),
            )
            if value < least
        ]
        if self.widest_min and self.initial_min and self.widest_min % self.initial_min:
            faults.append(
                f"PHX_SLICE_MAX_MIN must be a multiple of PHX_INITIAL_SLICE_MIN={self.initial_min}, "
                f"not {self.widest_min}"
            )
        if faults:
            raise ConfigError("; ".join(faults))

    @property
    def widens(self) -> bool:
        """Whether neighbours may be put together; steps (``initial_min`` 0) never are."""
        return bool(self.initial_min) and self.widest_min > self.initial_min


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Windows that had ``low_rows`` to twice as many rows: how many were loaded whole, and how many had to be split."""

    low_rows: int
    done: int
    split: int


@dataclass(frozen=True, slots=True)
class Experience:
    """What the journal knows of sizes: classes of sizes, and rows a second of one slice (None: too few rows to say)."""

    classes: Sequence[SizeClass] = ()
    rows_a_second: float | None = None


@dataclass(frozen=True, slots=True)
class RowCeiling:
    """The most rows that a slice is planned with, and why, as the end of a sentence."""

    rows: int
    why: str


class Reason(StrEnum):
    """Why a slice has the size it has."""

    UNKNOWN = "unknown"
    FITS = "fits"
    WIDENED = "widened"
    WIDENED_PARTLY = "widened partly"
    NARROWED = "narrowed"
    NARROWEST = "narrowest"


@dataclass(frozen=True, slots=True)
class SizedSlice:
    """A slice with the rows believed to be in it, whom that is from (None: nobody knows), and why it is that wide."""

    planned: PlannedSlice
    rows: float | None
    origin: Origin | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class SizedStretch:
    """Neighbouring slices of one partition that are sized alike; widths in seconds, ``rows`` of all of them, and whom
    they are from.
    """

    partition: int
    window: Window
    slices: int
    shortest_s: int
    longest_s: int
    rows: int | None
    most_rows: int | None
    origins: tuple[Origin, ...]
    reason: Reason


@dataclass(frozen=True, slots=True)
class Sizing:
    """A plan whose slices were sized, and the account of it; ``ceiling`` is None where nothing was to be sized.

    ``asked`` counts the estimates that the source was asked for; ``notices`` say what could not be had.
    """

    plan: SlicePlan
    ceiling: RowCeiling | None = None
    stretches: Sequence[SizedStretch] = ()
    asked: int = 0
    notices: tuple[str, ...] = ()


def row_ceiling(rules: SizingRules, experience: Experience) -> RowCeiling:
    """The smallest of: the setting, what is loaded in ``target_s`` at the journal's pace, and what the source bore."""
    ceilings = [RowCeiling(rules.most_rows, "PHX_SLICE_MAX_ROWS")]
    if experience.rows_a_second:
        pace = experience.rows_a_second
        ceilings.append(
            RowCeiling(
                max(1, int(pace * rules.target_s)),
                f"PHX_SLICE_TARGET_S={rules.target_s:g} at {pace:,.0f} rows/s, the pace of slices before",
            )
        )
    too_big = _too_big(experience.classes)
    if too_big is not None:
        ceilings.append(
            RowCeiling(
                max(1, too_big.low_rows),
                f"of {too_big.done + too_big.split} windows with {too_big.low_rows:,} to {2 * too_big.low_rows - 1:,} "
                f"rows {too_big.split} had to be split",
            )
        )
    return min(ceilings, key=lambda ceiling: ceiling.rows)


def size_slices(
    plan: SlicePlan, profile: Profile, ceiling: RowCeiling, rules: SizingRules, *, widen: bool = True
) -> Sizing:
    """The same instants in slices of at most ``ceiling.rows`` rows, as far as the bounds allow.

    Slices cover exactly what those of ``plan`` did, none touches two partitions, none is wider than ``widest_min`` (or
    than it was) nor made narrower than ``narrowest_min``. ``widen=False`` keeps neighbours apart. Where more slices
    than ``max_slices`` would come of it, the plan stays as it was and a notice says so.
    """
    sized: list[SizedSlice] = []
    together = widen and rules.widens
    for cell in _cells(plan.slices, rules) if together else ([planned] for planned in plan.slices):
        sized += _fit(cell, profile, ceiling.rows, rules, Reason.WIDENED if len(cell) > 1 else Reason.FITS)
    if len(sized) > rules.max_slices:
        notice = (
            f"slices keep the width of PHX_INITIAL_SLICE_MIN: sized to at most {ceiling.rows:,} rows they would be "
            f"{len(sized):,}, more than MAX_SLICES_PER_RUN={rules.max_slices}"
        )
        return Sizing(plan, ceiling, notices=(notice,))
    slices = tuple(each.planned for each in sized)
    return Sizing(replace(plan, slices=slices), ceiling, stretches=_account(sized))


def _too_big(classes: Iterable[SizeClass]) -> SizeClass | None:
    """The smallest class of which too many were split; one split beside windows that passed may be an accident."""
    for each in sorted(classes, key=lambda size: size.low_rows):
        if each.split > SPLIT_SHARE * (each.split + each.done) and (each.split > 1 or not each.done):
            return each
    return None


def _cells(slices: Sequence[PlannedSlice], rules: SizingRules) -> Iterable[list[PlannedSlice]]:
    """Touching neighbours within one cell of the widest grid, which is counted from UTC midnight as the other is."""
    widest_s = rules.widest_min * MINUTE_S
    cell: list[PlannedSlice] = []
    for planned in slices:
        if cell:
            one, other = to_seconds(cell[0].window.start), to_seconds(planned.window.start)
            if (
                cell[-1].window.end != planned.window.start
                or cell[0].partition != planned.partition
                or one % DAY_S // widest_s != other % DAY_S // widest_s
            ):
                yield cell
                cell = []
        cell.append(planned)
    if cell:
        yield cell


def _fit(
    cell: list[PlannedSlice], profile: Profile, most_rows: int, rules: SizingRules, reason: Reason
) -> Iterable[SizedSlice]:
    if len(cell) == 1:
        return _narrow(cell[0], profile, most_rows, rules, reason)
    window = Window(cell[0].window.start, cell[-1].window.end)
    belief = profile.rows(window)
    if belief is not None and belief.rows <= most_rows:
        return [SizedSlice(replace(cell[0], window=window), belief.rows, belief.origin, reason)]
    middle = len(cell) // 2
    return [
        *_fit(cell[:middle], profile, most_rows, rules, Reason.WIDENED_PARTLY),
        *_fit(cell[middle:], profile, most_rows, rules, Reason.WIDENED_PARTLY),
    ]


def _narrow(
    planned: PlannedSlice, profile: Profile, most_rows: int, rules: SizingRules, reason: Reason
) -> list[SizedSlice]:
    belief = profile.rows(planned.window)
    if belief is None:
        return [SizedSlice(planned, None, None, Reason.UNKNOWN)]
    if belief.rows <= most_rows:
        return [SizedSlice(planned, belief.rows, belief.origin, reason)]
    if not can_halve(planned.window, timedelta(minutes=rules.narrowest_min)):
        return [SizedSlice(planned, belief.rows, belief.origin, Reason.NARROWEST)]
    return [
        sized
        for half in halve(planned.window)
        for sized in _narrow(replace(planned, window=half), profile, most_rows, rules, Reason.NARROWED)
    ]


def _account(sized: Iterable[SizedSlice]) -> tuple[SizedStretch, ...]:
    stretches = []
    alike = groupby(sized, key=lambda each: (each.planned.partition, each.reason))
    for (partition, reason), group in alike:
        members = list(group)
        widths = [int(each.planned.window.duration.total_seconds()) for each in members]
        rows = [each.rows for each in members if each.rows is not None]
        stretches.append(
            SizedStretch(
                partition=partition,
                window=Window(members[0].planned.window.start, members[-1].planned.window.end),
                slices=len(members),
                shortest_s=min(widths),
                longest_s=max(widths),
                rows=round(sum(rows)) if rows else None,
                most_rows=round(max(rows)) if rows else None,
                origins=tuple(sorted({each.origin for each in members if each.origin})),
                reason=reason,
            )
        )
    return tuple(stretches)
