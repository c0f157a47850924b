"""Sizes of slices: the bounds that always hold, and what becomes of days whose rows are known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_tasks.core.overload import OverloadRules, can_split
from etl_tasks.core.row_profile import (
    FIRST_STRETCHES,
    Belief,
    Estimate,
    LoadedStretch,
    Origin,
    Profile,
    cut_stretch,
    first_stretches,
)
from etl_tasks.core.slice_sizing import (
    Experience,
    Reason,
    RowCeiling,
    SizeClass,
    Sizing,
    SizingRules,
    row_ceiling,
    size_slices,
)
from etl_tasks.core.slicing import SlicePlan, SlicingRules, plan_slices
from etl_tasks.core.windows import Window, halve, merge
from etl_tasks.errors import ConfigError

DAY = datetime(2025, 8, 8, tzinfo=UTC)
LATER = DAY + timedelta(days=365)
HOUR = timedelta(hours=1)


def hours(start: float, end: float) -> Window:
    return Window(DAY + start * HOUR, DAY + end * HOUR)


def day_plan(initial_min: int, start: float = 0, end: float = 24) -> SlicePlan:
    rules = SlicingRules(step_min=10, initial_slice_min=initial_min)
    return plan_slices(DAY + start * HOUR, DAY + end * HOUR, rules, LATER)


def known(*stretches: tuple[float, float, int]) -> Profile:
    """Rows by EXPLAIN: (from hour, to hour, rows)."""
    profile = Profile()
    for start, end, rows in stretches:
        profile.learn_estimate(hours(start, end), Estimate(rows=rows, bytes=rows * 2_000))
    return profile


def widths(sizing: Sizing, start: float, end: float) -> list[float]:
    """Minutes of the slices that begin in these hours."""
    inside = hours(start, end)
    return [
        each.window.duration.total_seconds() / 60
        for each in sizing.plan.slices
        if inside.start <= each.window.start < inside.end
    ]


# -- what always holds -----------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[SlicePlan, Profile, RowCeiling, SizingRules, bool]:
    initial_min = draw(st.sampled_from([0, 1, 5, 7, 30, 60, 720]))
    times = draw(st.sampled_from([0, 1, 2, 12, 24]))
    widest_min = initial_min * times if initial_min * times <= 1440 else 0
    since = DAY + timedelta(seconds=draw(st.integers(-30_000, 30_000)))
    until = since + timedelta(seconds=draw(st.integers(1, 200_000)))
    holes = draw(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 20_000)), max_size=3))
    loaded = [Window(since + timedelta(seconds=a), since + timedelta(seconds=a + n)) for a, n in holes]
    slicing = SlicingRules(step_min=draw(st.sampled_from([10, 37])), initial_slice_min=initial_min, overlap_min=5)
    plan = plan_slices(since, until, slicing, LATER, loaded)
    profile = Profile()
    for quarter, quarters, rows in draw(
        st.lists(st.tuples(st.integers(-40, 400), st.integers(1, 60), st.integers(0, 50_000)), max_size=6)
    ):
        start = DAY + timedelta(minutes=15 * quarter)
        profile.learn_estimate(Window(start, start + timedelta(minutes=15 * quarters)), Estimate(rows, rows))
    rules = SizingRules(
        initial_min=initial_min,
        widest_min=widest_min,
        narrowest_min=draw(st.sampled_from([0, 1, 2, 10])),
        max_slices=draw(st.sampled_from([50, 100_000])),
    )
    return plan, profile, RowCeiling(draw(st.sampled_from([1, 100, 5_000])), "a test"), rules, draw(st.booleans())


@settings(max_examples=150)
@given(cases())
def test_slices_are_the_same_instants_within_every_bound(
    case: tuple[SlicePlan, Profile, RowCeiling, SizingRules, bool],
) -> None:
    plan, profile, ceiling, rules, widen = case
    sizing = size_slices(plan, profile, ceiling, rules, widen=widen)
    before, after = plan.slices, sizing.plan.slices
    # The same instants, each once, in order; nothing else of the plan is another.
    assert all(one.window.end <= other.window.start for one, other in pairwise(after))
    assert merge(each.window for each in after) == list(plan.source_windows)
    assert replace(sizing.plan, slices=before) == plan
    old_edges = {edge for each in before for edge in (each.window.start, each.window.end)}
    old_windows = {each.window for each in before}
    for each in after:
        first, last = each.window.start, each.window.end - timedelta(seconds=1)
        assert first.date() == last.date() and each.partition == int(f"{first:%Y%m%d}")
        if each.window in old_windows:
            continue
        if each.window.start in old_edges and each.window.end in old_edges:
            # Put together: within one cell of the widest grid, and no more rows than allowed.
            assert widen
            belief = profile.rows(each.window)
            assert belief is not None and belief.rows <= ceiling.rows
            cell = timedelta(minutes=rules.widest_min)
            midnight = first.replace(hour=0, minute=0, second=0)
            assert (first - midnight) // cell == (last - midnight) // cell
        else:
            # A half of a half of an old window: never shorter than a split would make it.
            (whole,) = [old for old in old_windows if old.start <= each.window.start and each.window.end <= old.end]
            assert each.window.duration >= timedelta(minutes=rules.narrowest_min)
            while whole != each.window:
                assert can_split(whole, 0, OverloadRules(min_split_min=rules.narrowest_min))
                (whole,) = [half for half in halve(whole) if half.start <= first < half.end]
    if sizing.stretches:
        assert sum(each.slices for each in sizing.stretches) == len(after) <= rules.max_slices
        assert merge(each.window for each in sizing.stretches) != [] or not after
    else:
        assert after == before


@given(cases())
def test_a_slice_with_more_rows_than_allowed_could_not_be_narrower(
    case: tuple[SlicePlan, Profile, RowCeiling, SizingRules, bool],
) -> None:
    plan, profile, ceiling, rules, widen = case
    sizing = size_slices(plan, profile, ceiling, replace(rules, max_slices=10**9), widen=widen)
    for each in sizing.plan.slices:
        belief = profile.rows(each.window)
        if belief is not None and belief.rows > ceiling.rows:
            assert not can_split(each.window, 0, OverloadRules(min_split_min=rules.narrowest_min))


# -- days ------------------------------------------------------------------------------------------------------------


def test_what_nothing_is_known_of_stays_as_it_was_cut() -> None:
    plan = day_plan(5)
    sizing = size_slices(plan, Profile(), RowCeiling(1, ""), SizingRules(widest_min=60))
    assert sizing.plan == plan
    (stretch,) = sizing.stretches
    assert (stretch.reason, stretch.slices, stretch.rows, stretch.origins) == (Reason.UNKNOWN, 288, None, ())


def test_only_the_dense_hours_are_cut_narrower() -> None:
    # 22 quiet hours of 100 rows, and 10:00 to 12:00 with 20,000: a quarter of an hour has 2,500.
    profile = known((0, 10, 1_000), (10, 12, 20_000), (12, 24, 1_200))
    sizing = size_slices(day_plan(60), profile, RowCeiling(2_500, ""), SizingRules(initial_min=60))
    assert widths(sizing, 0, 10) == [60] * 10
    assert widths(sizing, 10, 12) == [15] * 8
    assert widths(sizing, 12, 24) == [60] * 12
    assert [(each.reason, each.slices, each.rows, each.most_rows) for each in sizing.stretches] == [
        (Reason.FITS, 10, 1_000, 100),
        (Reason.NARROWED, 8, 20_000, 2_500),
        (Reason.FITS, 12, 1_200, 100),
    ]


def test_quiet_hours_are_put_together_and_dense_ones_are_not() -> None:
    profile = known((0, 10, 1_000), (10, 12, 20_000), (12, 24, 1_200))
    rules = SizingRules(initial_min=5, widest_min=60)
    sizing = size_slices(day_plan(5), profile, RowCeiling(2_500, ""), rules)
    assert widths(sizing, 0, 10) == [60] * 10
    # Twelve of 5 minutes by halves: six, then three; 15 minutes have 2,500 rows.
    assert widths(sizing, 10, 12) == [15] * 8
    assert [(each.reason, each.slices, each.origins) for each in sizing.stretches] == [
        (Reason.WIDENED, 10, (Origin.EXPLAIN,)),
        (Reason.WIDENED_PARTLY, 8, (Origin.EXPLAIN,)),
        (Reason.WIDENED, 12, (Origin.EXPLAIN,)),
    ]
    apart = size_slices(day_plan(5), profile, RowCeiling(2_500, ""), rules, widen=False)
    assert apart.plan == day_plan(5)


def test_what_cannot_be_narrower_is_said() -> None:
    sizing = size_slices(day_plan(60, 0, 1), known((0, 1, 60_000)), RowCeiling(10, ""), SizingRules(narrowest_min=20))
    assert widths(sizing, 0, 1) == [30, 30]
    assert [(each.reason, each.rows) for each in sizing.stretches] == [(Reason.NARROWEST, 60_000)]


def test_too_many_slices_leave_the_plan_as_it_was_and_say_so() -> None:
    plan = day_plan(60)
    rules = SizingRules(initial_min=60, max_slices=50)
    sizing = size_slices(plan, known((0, 24, 24_000)), RowCeiling(250, ""), rules)
    assert sizing.plan == plan
    assert "they would be 96, more than MAX_SLICES_PER_RUN=50" in sizing.notices[0]


def test_settings_that_cannot_be_meant_are_named_together() -> None:
    with pytest.raises(ConfigError) as refused:
        SizingRules(initial_min=7, widest_min=60, most_rows=0)
    assert "PHX_SLICE_MAX_ROWS" in str(refused.value)
    assert "a multiple of PHX_INITIAL_SLICE_MIN=7, not 60" in str(refused.value)


# -- how many rows are too many --------------------------------------------------------------------------------------


def test_without_experience_the_setting_is_the_bound() -> None:
    assert row_ceiling(SizingRules(most_rows=77), Experience()) == RowCeiling(77, "PHX_SLICE_MAX_ROWS")


def test_the_pace_and_the_target_are_a_bound() -> None:
    ceiling = row_ceiling(SizingRules(target_s=60), Experience(rows_a_second=500))
    assert ceiling.rows == 30_000
    assert ceiling.why == "PHX_SLICE_TARGET_S=60 at 500 rows/s, the pace of slices before"


def test_the_smallest_class_that_was_mostly_split_is_a_bound() -> None:
    classes = [SizeClass(8_192, 0, 1), SizeClass(2_048, 1, 7), SizeClass(1_024, 40, 3), SizeClass(128, 900, 5)]
    ceiling = row_ceiling(SizingRules(), Experience(classes))
    assert ceiling == RowCeiling(2_048, "of 8 windows with 2,048 to 4,095 rows 7 had to be split")


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        ([SizeClass(64, 5, 1)], 200_000),  # an accident: others of that size passed
        ([SizeClass(64, 0, 1)], 64),  # none of that size ever passed
        ([SizeClass(64, 100, 10)], 200_000),
        ([SizeClass(64, 80, 10)], 64),
    ],
)
def test_a_lone_split_beside_windows_that_passed_is_an_accident(classes: list[SizeClass], rows: int) -> None:
    assert row_ceiling(SizingRules(), Experience(classes)).rows == rows


# -- what is believed ------------------------------------------------------------------------------------------------


def test_who_says_most_is_believed() -> None:
    profile = known((0, 2, 7_200))
    profile.learn_loads([hours(0, 2)], [LoadedStretch(hours(0, 1), 0.5), LoadedStretch(hours(1, 2), 3.0)])
    assert profile.rows(hours(0, 1)) == Belief(3_600, Origin.EXPLAIN)
    assert profile.rows(hours(1, 2)) == Belief(10_800, Origin.JOURNAL)
    assert profile.rows(hours(0, 2)) == Belief(14_400, Origin.JOURNAL)
    assert profile.rows(hours(1, 2.25)) is None


def test_the_nearest_earlier_day_stands_in() -> None:
    profile = Profile()
    loads = [LoadedStretch(hours(-48 + 10, -48 + 11), 9.0), LoadedStretch(hours(-24 + 10, -24 + 11), 1.0)]
    profile.learn_loads([hours(9, 12)], loads)
    assert profile.rows(hours(10, 11)) == Belief(3_600, Origin.EARLIER_DAY)
    assert profile.rows(hours(9, 10)) is None
    too_old = Profile()
    too_old.learn_loads([hours(10, 11)], [LoadedStretch(hours(-8 * 24 + 10, -8 * 24 + 11), 9.0)])
    assert too_old.rows(hours(10, 11)) is None


def test_statistics_say_nothing_of_the_time_after_them() -> None:
    profile = Profile()
    profile.learn_estimate(hours(0, 24), Estimate(43_200, 1, as_of=DAY + 12 * HOUR))
    assert profile.rows(hours(0, 12)) == Belief(43_200, Origin.EXPLAIN)
    assert profile.rows(hours(11, 13)) is None
    later = Profile()
    later.learn_estimate(hours(13, 14), Estimate(0, 0, as_of=DAY + 12 * HOUR))
    assert later.rows(hours(13, 14)) is None


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 3_000_000)), min_size=1, max_size=5))
def test_the_first_stretches_tile_the_windows(spans: list[tuple[int, int]]) -> None:
    windows = merge(Window(DAY + timedelta(seconds=a), DAY + timedelta(seconds=a + n)) for a, n in spans)
    stretches = first_stretches(windows)
    assert merge(stretches) == windows
    assert sum((each.duration for each in stretches), timedelta()) == sum((w.duration for w in windows), timedelta())
    assert len(stretches) <= FIRST_STRETCHES + 2 * len(windows)


def test_a_year_and_a_day_begin_with_eight_questions_and_ten_minutes_with_one() -> None:
    assert len(first_stretches([hours(0, 360 * 24)])) <= 9
    assert len(first_stretches([hours(0, 24)])) == 8
    assert first_stretches([hours(0, 0.25)]) == [hours(0, 0.25)]


def test_stretches_are_cut_on_quarters_of_an_hour_down_to_the_first_cut() -> None:
    assert cut_stretch(hours(0, 1), 300) == (hours(0, 0.5), hours(0.5, 1))
    assert cut_stretch(hours(0, 0.75), 300) == (hours(0, 0.5), hours(0.5, 0.75))
    assert cut_stretch(hours(0, 0.25), 300) is None
    assert cut_stretch(hours(0, 1), 3_600) is None
