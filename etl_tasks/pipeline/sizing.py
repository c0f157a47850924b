"""Size the slices of a plan: ask the journal and the source what is known of its windows, boundedly, then decide.

Nothing here can make a plan fail: what cannot be asked is said, and the slices it would have sized stay as they are.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import structlog

from etl_tasks.core.row_profile import Estimate, Profile, cut_stretch, first_stretches
from etl_tasks.core.slice_sizing import Experience, RowCeiling, Sizing, SizingRules, row_ceiling, size_slices
from etl_tasks.core.slicing import SlicePlan
from etl_tasks.core.windows import MINUTE_S, Window
from etl_tasks.errors import EtlError
from etl_tasks.pipeline.ports import SizingJournal

log = structlog.get_logger(__name__)

MOST_ESTIMATES = 128
ESTIMATING_S = 10.0
"""No estimate is asked for once so many seconds have passed; one answer takes at most as long again."""

MOST_SIZED = timedelta(days=400)


class Estimator(Protocol):
    """Who knows how big a window is."""

    def estimate(self, window: Window) -> Estimate | None:
        """As ``Source.estimate``."""


@dataclass(frozen=True, slots=True)
class SizingContext:
    """``open_source`` opens the source with time-outs short enough for planning; ``journal`` is that of this thread."""

    rules: SizingRules
    step_min: int
    journal: Callable[[], SizingJournal]
    open_source: Callable[[], AbstractContextManager[Estimator]]


def size_plan(plan: SlicePlan, context: SizingContext, *, widen: bool = True, ask_source: bool = True) -> Sizing:
    """The plan with its slices sized, and the account of it; unchanged with ``PHX_SLICE_SIZING=fixed``.

    ``widen=False`` for slices that were cut on purpose; ``ask_source=False`` where it is known not to answer.
    """
    if not context.rules.auto or not plan.slices:
        return Sizing(plan)
    span = plan.source_windows[-1].end - plan.source_windows[0].start
    if span > MOST_SIZED:
        # Quarters of an hour are kept in memory, and the journal is asked about each.
        return Sizing(
            plan, notices=(f"slices are not sized: {span.days} days are more than {MOST_SIZED.days} at a time",)
        )
    notices: list[str] = []
    profile, ceiling = _remember(plan, context, notices)
    asked = _estimate(plan, profile, ceiling, context, notices) if ask_source else 0
    sizing = size_slices(plan, profile, ceiling, context.rules, widen=widen)
    sizing = replace(sizing, asked=asked, notices=(*notices, *sizing.notices))
    log.info(
        "slices_sized",
        slices_before=len(plan.slices),
        slices=len(sizing.plan.slices),
        most_rows=ceiling.rows,
        why=ceiling.why,
        estimates=asked,
        stretches=[
            f"{each.window} {each.slices} {each.reason} {each.rows} rows {', '.join(each.origins)}"
            for each in sizing.stretches[:20]
        ],
    )
    return sizing


def _remember(plan: SlicePlan, context: SizingContext, notices: list[str]) -> tuple[Profile, RowCeiling]:
    """What the journal knows; nothing where it cannot be asked."""
    profile, experience = Profile(), Experience()
    windows = plan.source_windows
    try:
        experience = context.journal().experience()
        loads = context.journal().loads(Window(windows[0].start, windows[-1].end))
    except EtlError as error:
        log.warning("sizes_not_known", asked="journal", error_kind=type(error).__name__, error=str(error))
        notices.append(f"slices are sized without the journal's experience: {error}")
    else:
        profile.learn_loads(windows, loads)
    return profile, row_ceiling(context.rules, experience)


def _estimate(
    plan: SlicePlan, profile: Profile, ceiling: RowCeiling, context: SizingContext, notices: list[str]
) -> int:
    """Ask the source about stretches of hours, then about the halves of those that could hold too big a slice, the
    biggest first; how often it was asked. Stops at the bounds, at the first error, and where there are no statistics.
    """
    narrowest_s = (context.rules.initial_min or context.step_min) * MINUTE_S
    heavy: list[tuple[int, Window, Estimate]] = []
    asked = 0
    over_at = time.monotonic() + ESTIMATING_S

    def keep(window: Window, estimate: Estimate) -> None:
        if estimate.rows > ceiling.rows and cut_stretch(window, narrowest_s) is not None:
            heapq.heappush(heavy, (-estimate.rows, window, estimate))
        else:
            profile.learn_estimate(window, estimate)

    def may_ask(more: int) -> bool:
        return asked + more <= MOST_ESTIMATES and time.monotonic() < over_at

    try:
        with context.open_source() as source:
            for stretch in first_stretches(plan.source_windows):
                if not may_ask(1):
                    notices.append(
                        f"the source was not asked about {stretch} and what follows: {asked} estimates were enough"
                    )
                    break
                estimate = source.estimate(stretch)
                asked += 1
                if estimate is None:
                    break  # no statistics: the other stretches have none either
                keep(stretch, estimate)
            while heavy and may_ask(2):
                parts = cut_stretch(heavy[0][1], narrowest_s) or ()
                answers = [(part, source.estimate(part)) for part in parts]
                asked += len(answers)
                heapq.heappop(heavy)
                for part, answer in answers:
                    if answer is not None:
                        keep(part, answer)
    except EtlError as error:
        log.warning("sizes_not_known", asked="source", error_kind=type(error).__name__, error=str(error))
        notices.append(f"slices are sized without the source's estimates: {error}")
    for _, stretch, estimate in heavy:
        profile.learn_estimate(stretch, estimate)
    return asked
