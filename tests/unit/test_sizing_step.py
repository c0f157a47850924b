"""How often the source is asked for estimates while a plan is sized, and what becomes of what it does not answer."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.core.row_profile import Estimate, LoadedStretch
from etl_tasks.core.slice_sizing import Experience, Reason, SizingRules
from etl_tasks.core.slicing import SlicePlan, SlicingRules, plan_slices
from etl_tasks.core.windows import Window
from etl_tasks.errors import Overloaded, Unreachable
from etl_tasks.pipeline import sizing as sizing_module
from etl_tasks.pipeline.sizing import MOST_ESTIMATES, SizingContext, size_plan

DAY = datetime(2025, 8, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Remembering:
    """A journal that knows what it is made with, or is away."""

    def __init__(self, experience: Experience | None = None, away: bool = False) -> None:
        self._experience = experience or Experience()
        self._away = away

    def experience(self) -> Experience:
        if self._away:
            raise Unreachable("PostgreSQL does not answer")
        return self._experience

    def loads(self, window: Window) -> list[LoadedStretch]:
        return []


class Dense:
    """A source with ``rows_an_hour`` in [10:00, 12:00) of every day and nothing else; every question is kept."""

    def __init__(self, rows_an_hour: int, fail_after: int = 10**9) -> None:
        self._rows_an_hour = rows_an_hour
        self._fail_after = fail_after
        self.asked: list[Window] = []

    def estimate(self, window: Window) -> Estimate | None:
        if len(self.asked) >= self._fail_after:
            raise Overloaded("rejected")
        self.asked.append(window)
        dense_s = 0.0
        day = window.start.replace(hour=0, minute=0, second=0)
        while day < window.end:
            first, last = max(day + 10 * HOUR, window.start), min(day + 12 * HOUR, window.end)
            dense_s += max((last - first).total_seconds(), 0.0)
            day += timedelta(days=1)
        rows = round(dense_s / 3600 * self._rows_an_hour)
        return Estimate(rows, rows * 2_000)


class NoStatistics(Dense):
    def estimate(self, window: Window) -> Estimate | None:
        self.asked.append(window)
        return None


def context(source: Dense, journal: Remembering | None = None, **rules: Any) -> SizingContext:
    remembering = journal or Remembering()
    rules = {"initial_min": 60, "most_rows": 2_500, **rules}
    return SizingContext(SizingRules(**rules), 10, lambda: remembering, lambda: nullcontext(source))


def plan_of(days: float, initial_min: int = 60) -> SlicePlan:
    rules = SlicingRules(step_min=10, initial_slice_min=initial_min)
    return plan_slices(DAY, DAY + timedelta(days=days), rules, DAY + timedelta(days=4_000))


def test_a_day_is_asked_about_in_few_questions_that_find_the_dense_hours() -> None:
    source = Dense(10_000)
    sizing = size_plan(plan_of(1), context(source))
    dense = [each for each in sizing.plan.slices if 10 <= each.window.start.hour < 12]
    assert [each.window.duration for each in dense] == [HOUR / 4] * 8
    assert len(sizing.plan.slices) == 22 + 8
    # Eight stretches of three hours, and the halves of those that hold one dense hour each: down to an hour.
    assert sizing.asked == len(source.asked) <= 16


def test_a_quiet_interval_is_asked_about_eight_times_however_long() -> None:
    for days in (1, 30, 360):
        source = Dense(0)
        size_plan(plan_of(days), context(source))
        assert len(source.asked) <= 9


def test_the_questions_about_a_dense_year_are_bounded() -> None:
    source = Dense(10_000)
    sizing = size_plan(plan_of(365), context(source))
    assert MOST_ESTIMATES - 2 <= len(source.asked) <= MOST_ESTIMATES
    assert len(sizing.plan.slices) >= 365 * 24


def test_no_question_is_asked_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing_module, "ESTIMATING_S", -1.0)
    source = Dense(10_000)
    plan = plan_of(1)
    sizing = size_plan(plan, context(source))
    assert source.asked == [] and sizing.plan == plan
    assert "was not asked about" in sizing.notices[0]


def test_without_statistics_one_question_is_enough() -> None:
    source = NoStatistics(0)
    plan = plan_of(30)
    sizing = size_plan(plan, context(source))
    assert (len(source.asked), sizing.plan, sizing.notices) == (1, plan, ())
    assert {each.reason for each in sizing.stretches} == {Reason.UNKNOWN}


@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_source_that_fails_leaves_the_rest_as_it_was_and_is_told(after: int) -> None:
    source = Dense(10_000, fail_after=after)
    plan = plan_of(1)
    sizing = size_plan(plan, context(source))
    assert len(source.asked) == sizing.asked + (1 if after == 9 else 0)  # of two halves the first was answered in vain
    assert [notice.partition(":")[0] for notice in sizing.notices] == [
        "slices are sized without the source's estimates"
    ]
    quiet = [each.window for each in sizing.plan.slices if not 9 <= each.window.start.hour < 12]
    assert quiet == [each.window for each in plan.slices if not 9 <= each.window.start.hour < 12]


def test_a_journal_that_is_away_is_told_and_the_source_asked_all_the_same() -> None:
    source = Dense(10_000)
    sizing = size_plan(plan_of(1), context(source, Remembering(away=True)))
    assert sizing.notices == ("slices are sized without the journal's experience: PostgreSQL does not answer",)
    assert len(sizing.plan.slices) == 30


def test_an_interval_of_decades_is_not_sized_and_that_is_told() -> None:
    source = Dense(10_000)
    plan = plan_of(2_000, 1_440)
    sizing = size_plan(plan, context(source))
    assert (sizing.plan, source.asked) == (plan, [])
    assert sizing.notices == ("slices are not sized: 2000 days are more than 400 at a time",)


def test_fixed_asks_nobody_and_changes_nothing() -> None:
    source = Dense(10_000)
    plan = plan_of(1)
    sizing = size_plan(plan, context(source, auto=False))
    assert (sizing.plan, sizing.ceiling, source.asked) == (plan, None, [])


def test_a_source_known_not_to_answer_is_not_asked() -> None:
    source = Dense(10_000)
    assert size_plan(plan_of(1), context(source), ask_source=False).asked == len(source.asked) == 0


@pytest.mark.parametrize("widen", [True, False])
def test_only_plans_that_may_are_widened(widen: bool) -> None:
    sizing = size_plan(plan_of(1, 5), context(Dense(10_000), initial_min=5, widest_min=60), widen=widen)
    # Twelve of five minutes an hour, or one; 15 minutes of a dense hour have 2,500 rows.
    assert len(sizing.plan.slices) == (22 + 8 if widen else 288)
