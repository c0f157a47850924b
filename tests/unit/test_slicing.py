"""Plans against an oracle that walks over steps and seconds and keeps them in sets: it has no edges to get wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_tasks.core.business_time import parse_interval
from etl_tasks.core.overload import OverloadRules, can_split
from etl_tasks.core.slicing import (
    PlannedSlice,
    SlicePlan,
    SlicingRules,
    earliest_hole_watermark,
    plan_slices,
    schedule_until,
)
from etl_tasks.core.windows import Window, halve, merge
from etl_tasks.errors import ConfigError, UsageError

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
ZERO = int(MIDNIGHT.timestamp())
LATER = MIDNIGHT + timedelta(days=365)
RULES = SlicingRules(step_min=10, overlap_min=5, lag_min=2, initial_slice_min=5)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str) -> Window:
    return Window(at(f"2025-08-{start}"), at(f"2025-08-{end}"))


def seconds(windows: Iterable[Window]) -> list[int]:
    """Every second of every window since the epoch, repeats kept."""
    return [second for one in windows for second in range(int(one.start.timestamp()), int(one.end.timestamp()))]


def edges(plan: SlicePlan) -> list[str]:
    return [f"{planned.window.start:%d %H:%M:%S} {planned.window.end:%d %H:%M:%S}" for planned in plan.slices]


# -- the oracle -------------------------------------------------------------------------------------------------------


def wanted_seconds(
    since: datetime, until: datetime, rules: SlicingRules, now: datetime, loaded: list[Window]
) -> tuple[set[int], set[int]]:
    """Seconds of the source to be covered, and those to be read, as DESIGN says it: step by step, second by second."""
    covered: set[int] = set()
    read: set[int] = set()
    skip = set(seconds(loaded))
    left = int(since.timestamp())
    first = True
    while left < int(until.timestamp()):
        right = min(left + rules.step_min * 60, int(until.timestamp()))
        source = range(left + rules.shift_min * 60, right + rules.shift_min * 60)
        step = {second for second in source if second + 1 <= now.timestamp() - rules.lag_min * 60}
        if step and not loaded and (first or not rules.overlap_only_first):
            read.update(range(source.start - rules.overlap_min * 60, source.start))
        covered |= step
        left, first = right, False
    core = covered - skip
    read |= core
    if loaded:
        for second in core:
            if second - 1 not in core:
                read.update(range(second - rules.overlap_min * 60, second))
    return covered, read


@st.composite
def cases(draw: st.DrawFn) -> tuple[datetime, datetime, SlicingRules, datetime, list[Window]]:
    rules = SlicingRules(
        step_min=draw(st.integers(1, 40)),
        shift_min=draw(st.sampled_from([-300, -61, -1, 0, 1, 45, 360])),
        overlap_min=draw(st.sampled_from([0, 1, 5, 13, 60])),
        overlap_only_first=draw(st.booleans()),
        lag_min=draw(st.sampled_from([0, 2, 30])),
        initial_slice_min=draw(st.sampled_from([0, 1, 2, 5, 7, 45, 1440])),
    )
    since = MIDNIGHT + timedelta(seconds=draw(st.integers(-7200, 7200))) - timedelta(minutes=rules.shift_min)
    until = since + timedelta(seconds=draw(st.integers(1, 6000)))
    ahead = st.one_of(st.integers(-7000 * 10**6, 4000 * 10**6), st.just(10**12))
    edge_of_now = until + timedelta(minutes=rules.shift_min + rules.lag_min)
    now = edge_of_now + timedelta(microseconds=draw(ahead))
    holes = draw(st.lists(st.tuples(st.integers(-4000, 7000), st.integers(1, 3000)), max_size=5))
    source = since + timedelta(minutes=rules.shift_min)
    loaded = [Window(source + timedelta(seconds=a), source + timedelta(seconds=a + n)) for a, n in holes]
    return since, until, rules, now, loaded


@settings(max_examples=300, deadline=None)
@given(cases())
def test_slices_tile_what_is_to_be_covered(
    case: tuple[datetime, datetime, SlicingRules, datetime, list[Window]],
) -> None:
    since, until, rules, now, loaded = case
    covered, read = wanted_seconds(since, until, rules, now, loaded)
    plan = plan_slices(since, until, rules, now, loaded)

    # No gap, no overlap, in order: the seconds of the slices one after the other are the wanted ones, each once.
    assert seconds(planned.window for planned in plan.slices) == sorted(read)
    assert seconds(plan.source_windows) == sorted(read)
    assert list(plan.source_windows) == merge(plan.source_windows)

    # The business time said to be covered is the covered source time.
    assert plan.since == since
    assert int(plan.until.timestamp()) == max(
        covered, default=int(since.timestamp()) + rules.shift_min * 60 - 1
    ) + 1 - (rules.shift_min * 60)
    assert plan.steps == len({(second - rules.shift_min * 60 - int(since.timestamp())) // (rules.step_min * 60)
                              for second in covered})  # fmt: skip

    for planned in plan.slices:
        first, last = int(planned.window.start.timestamp()), int(planned.window.end.timestamp()) - 1
        assert first // 86400 == last // 86400
        assert planned.partition == int(f"{datetime.fromtimestamp(last, UTC):%Y%m%d}")
        if rules.initial_slice_min:
            assert first % 86400 // (rules.initial_slice_min * 60) == last % 86400 // (rules.initial_slice_min * 60)
        business = first - rules.shift_min * 60 - int(since.timestamp())
        assert planned.step == (business // (rules.step_min * 60) if business >= 0 else 0)
    assert plan.partitions == tuple(sorted({planned.partition for planned in plan.slices}))

    # Nothing is cut where no rule cuts.
    for left, right in pairwise(plan.slices):
        edge = int(right.window.start.timestamp())
        if left.window.end == right.window.start and edge % 86400:
            if rules.initial_slice_min:
                assert edge % 86400 % (rules.initial_slice_min * 60) == 0
            else:
                assert (edge - rules.shift_min * 60 - int(since.timestamp())) % (rules.step_min * 60) == 0

    if not plan.slices:
        assert any("nothing to read" in notice for notice in plan.notices)
    if plan.until < until and plan.slices:
        assert any("clipped" in notice for notice in plan.notices)
    if plan.until == until:
        assert not any("clipped" in notice for notice in plan.notices)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_without_a_grid_a_step_is_one_window(
    case: tuple[datetime, datetime, SlicingRules, datetime, list[Window]],
) -> None:
    since, until, rules, now, _ = case
    rules = replace(rules, initial_slice_min=0)
    plan = plan_slices(since, until, rules, now)
    ends = [int((planned.window.end - since).total_seconds()) - rules.shift_min * 60 for planned in plan.slices]
    step_ends = {
        min((k + 1) * rules.step_min * 60, int((plan.until - since).total_seconds())) for k in range(plan.steps)
    }
    midnights = [
        end for planned, end in zip(plan.slices, ends, strict=True) if planned.window.end.timestamp() % 86400 == 0
    ]
    assert set(ends) - set(midnights) <= step_ends <= set(ends)


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_splits_in_any_sequence_keep_the_tiling(
    case: tuple[datetime, datetime, SlicingRules, datetime, list[Window]], data: st.DataObject
) -> None:
    since, until, rules, now, loaded = case
    plan = plan_slices(since, until, rules, now, loaded)
    limits = OverloadRules(min_split_min=data.draw(st.sampled_from([0.05, 1, 2])), max_depth=3)
    leaves = [(planned.window, 0) for planned in plan.slices]
    for _ in range(data.draw(st.integers(0, 12))):
        candidates = [index for index, (one, depth) in enumerate(leaves) if can_split(one, depth, limits)]
        if not candidates:
            break
        index = data.draw(st.sampled_from(candidates))
        whole, depth = leaves[index]
        left, right = halve(whole)
        assert left.end == right.start
        assert min(left.duration, right.duration) >= timedelta(minutes=limits.min_split_min)
        leaves[index : index + 1] = [(left, depth + 1), (right, depth + 1)]
    assert seconds(one for one, _ in leaves) == seconds(plan.source_windows)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["Asia/Almaty", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2025, 12, 30)),
    st.integers(1, 30),
    st.sampled_from([0, 30, 60]),
)
def test_slices_tile_the_local_time_of_any_zone(zone: str, since: datetime, hours: int, grid: int) -> None:
    since = since.replace(microsecond=0)
    interval = parse_interval(since, since + timedelta(hours=hours), zone)
    rules = SlicingRules(step_min=60, initial_slice_min=grid, business_tz=zone)
    plan = plan_slices(interval.since, interval.until, rules, LATER)
    tz = ZoneInfo(zone)
    # Every second that a local clock shows within the interval is read (an hour that never is shows on no clock).
    day_before = int(since.replace(tzinfo=UTC).timestamp()) - 86400
    for second in range(day_before, day_before + (hours + 48) * 3600, 300):
        moment = datetime.fromtimestamp(second, UTC)
        if since <= moment.astimezone(tz).replace(tzinfo=None) < since + timedelta(hours=hours):
            assert sum(one.window.start <= moment < one.window.end for one in plan.slices) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(-50, 350), st.integers(1, 60)), max_size=4),
    st.one_of(st.none(), st.integers(-50, 350)),
    st.sampled_from([-300, 0, 7]),
)
def test_watermark_against_a_walk_over_seconds(
    length: int, hole_offsets: list[tuple[int, int]], current_offset: int | None, shift_min: int
) -> None:
    since, until = MIDNIGHT, MIDNIGHT + timedelta(seconds=length)
    shift = timedelta(minutes=shift_min)
    holes = [
        Window(since + shift + timedelta(seconds=a), since + shift + timedelta(seconds=a + n)) for a, n in hole_offsets
    ]
    current = None if current_offset is None else since + timedelta(seconds=current_offset)
    reached = 0
    # A hole left of since is one too: the overlap that was to be read again was not.
    while reached < length and not any(a <= reached for a, _ in hole_offsets):
        reached += 1
    if current_offset is None:
        expected = reached or None
    elif current_offset < 0:
        expected = current_offset
    else:
        expected = max(reached, current_offset)
    result = earliest_hole_watermark(since, until, shift_min, holes, current)
    assert result == (None if expected is None else since + timedelta(seconds=expected))


# -- examples worked out by hand --------------------------------------------------------------------------------------


def test_the_old_installation() -> None:
    """Steps of 10 minutes, a shift of -300, an overlap of 5 and a grid of 5, as in the old system's settings."""
    rules = SlicingRules(step_min=10, shift_min=-300, overlap_min=5, lag_min=2, initial_slice_min=5)
    plan = plan_slices(at("2025-08-08T04:55"), at("2025-08-08T05:15"), rules, LATER)
    assert plan.slices == (
        PlannedSlice(window("07T23:50", "07T23:55"), 20250807, 0),  # the overlap
        PlannedSlice(window("07T23:55", "08T00:00"), 20250807, 0),
        PlannedSlice(window("08T00:00", "08T00:05"), 20250808, 0),
        PlannedSlice(window("08T00:05", "08T00:10"), 20250808, 1),
        PlannedSlice(window("08T00:10", "08T00:15"), 20250808, 1),
    )
    assert plan.partitions == (20250807, 20250808)
    assert plan.steps == 2
    assert plan.source_windows == (window("07T23:50", "08T00:15"),)
    assert plan.notices == ()


def test_the_lag_clips_until_and_says_so() -> None:
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:30"), RULES, at("2025-08-08T10:20:30.999999"))
    assert plan.until == at("2025-08-08T10:18:30")
    assert edges(plan)[-1] == "08 10:15:00 08 10:18:30"
    assert plan.steps == 2
    [notice] = plan.notices
    assert "clipped from 2025-08-08T10:30:00Z to 2025-08-08T10:18:30Z" in notice
    assert "PHX_QUERY_LAG_MINUTES=2" in notice


def test_with_a_shift_the_clip_is_told_in_business_time() -> None:
    rules = replace(RULES, shift_min=-300)
    now = at("2025-08-08T05:20:30")  # 10:20:30 by the business clock
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:30"), rules, now)
    assert plan.until == at("2025-08-08T10:18:30") == schedule_until(rules, now)
    assert edges(plan)[-1] == "08 05:15:00 08 05:18:30"


def test_the_lag_never_cuts_the_end_off_history() -> None:
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:10"), RULES, at("2025-08-08T10:12"))
    assert plan.until == at("2025-08-08T10:10")
    assert plan.notices == ()


def test_nothing_is_left_of_the_lag() -> None:
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:10"), RULES, at("2025-08-08T10:02"))
    assert (plan.slices, plan.partitions, plan.steps, plan.source_windows) == ((), (), 0, ())
    assert plan.until == plan.since == at("2025-08-08T10:00")
    [notice] = plan.notices
    assert "nothing to read yet" in notice
    one_second_later = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:10"), RULES, at("2025-08-08T10:02:01"))
    assert edges(one_second_later) == ["08 09:55:00 08 10:00:00", "08 10:00:00 08 10:00:01"]


def test_until_not_after_since_is_an_empty_plan() -> None:
    for until in ("2025-08-08T10:00", "2025-08-08T09:00"):
        plan = plan_slices(at("2025-08-08T10:00"), at(until), RULES, LATER)
        assert plan.slices == ()
        assert plan.until == at("2025-08-08T10:00")
        assert "not after since" in plan.notices[0]


def test_the_schedule_reads_only_the_hole_and_the_new_with_their_overlaps() -> None:
    loaded = [window("08T09:00", "08T10:00"), window("08T10:20", "08T11:00")]
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T11:10"), RULES, LATER, loaded)
    assert plan.source_windows == (window("08T09:55", "08T10:20"), window("08T10:55", "08T11:10"))
    assert [planned.step for planned in plan.slices] == [0, 0, 0, 1, 1, 5, 6, 6]


def test_a_loaded_window_no_wider_than_the_overlap_is_read_again_in_one_piece() -> None:
    interval = at("2025-08-08T10:00"), at("2025-08-08T10:30")
    loaded = [window("08T10:12", "08T10:17")]
    plan = plan_slices(*interval, RULES, LATER, loaded)
    assert plan.source_windows == (window("08T09:55", "08T10:30"),)
    # The second piece's overlap joins the first: cut at the steps' edges, as if nothing had been loaded.
    steps = plan_slices(*interval, replace(RULES, initial_slice_min=0), LATER, loaded)
    assert edges(steps) == ["08 09:55:00 08 10:10:00", "08 10:10:00 08 10:20:00", "08 10:20:00 08 10:30:00"]


def test_all_loaded() -> None:
    plan = plan_slices(at("2025-08-08T10:00"), at("2025-08-08T10:10"), RULES, LATER, [window("08T09:00", "08T11:00")])
    assert plan.slices == ()
    assert plan.until == at("2025-08-08T10:10")  # all of it is covered, so the watermark may move
    assert "loaded already" in plan.notices[0]


def test_without_a_grid_steps_and_midnights_cut() -> None:
    rules = replace(RULES, initial_slice_min=0)
    plan = plan_slices(at("2025-08-08T23:45"), at("2025-08-09T00:10"), rules, LATER)
    assert edges(plan) == [
        "08 23:40:00 08 23:55:00",  # the first step and its overlap are one window
        "08 23:55:00 09 00:00:00",
        "09 00:00:00 09 00:05:00",
        "09 00:05:00 09 00:10:00",
    ]
    assert [planned.step for planned in plan.slices] == [0, 1, 1, 2]


def test_an_overlap_on_every_step_reads_the_same() -> None:
    interval = at("2025-08-08T10:00"), at("2025-08-08T11:00")
    every = plan_slices(*interval, replace(RULES, overlap_only_first=False), LATER)
    assert every == plan_slices(*interval, RULES, LATER)


def test_fractions_of_a_second_are_floored() -> None:
    plan = plan_slices(at("2025-08-08T10:00:00.900"), at("2025-08-08T10:10:00.900"), RULES, LATER)
    assert (plan.since, plan.until) == (at("2025-08-08T10:00"), at("2025-08-08T10:10"))


def test_aware_times_of_any_zone_are_understood_and_naive_ones_refused() -> None:
    almaty = ZoneInfo("Asia/Almaty")
    plan = plan_slices(
        datetime(2025, 8, 8, 15, tzinfo=almaty),
        datetime(2025, 8, 8, 15, 10, tzinfo=almaty),
        RULES,
        LATER.astimezone(almaty),
    )
    assert (plan.since, plan.since.tzinfo) == (at("2025-08-08T10:00"), UTC)
    with pytest.raises(ValueError, match="aware"):
        plan_slices(datetime(2025, 8, 8), MIDNIGHT, RULES, LATER)


@pytest.mark.parametrize(("zone", "warned"), [("Asia/Almaty", True), ("UTC", False), ("", False), (None, False)])
def test_a_shift_beside_a_zone_is_warned_about(zone: str | None, warned: bool) -> None:
    rules = replace(RULES, shift_min=-300, business_tz=zone)
    plan = plan_slices(MIDNIGHT, MIDNIGHT + timedelta(hours=1), rules, LATER)
    assert any("PHX_QUERY_SHIFT_MINUTES=-300" in notice for notice in plan.notices) == warned
    assert not plan_slices(MIDNIGHT, MIDNIGHT + timedelta(hours=1), replace(rules, shift_min=0), LATER).notices


def test_exactly_as_many_slices_as_allowed() -> None:
    rules = replace(RULES, overlap_min=0, max_slices=12)
    assert len(plan_slices(MIDNIGHT, MIDNIGHT + timedelta(hours=1), rules, LATER).slices) == 12
    with pytest.raises(UsageError) as caught:
        plan_slices(MIDNIGHT, MIDNIGHT + timedelta(hours=1, seconds=1), rules, LATER)
    assert "13 slices" in str(caught.value)
    assert "MAX_SLICES_PER_RUN=12" in str(caught.value)
    assert "PHX_INITIAL_SLICE_MIN (now 5 minutes)" in str(caught.value)


def test_exactly_as_many_slices_as_allowed_without_a_grid() -> None:
    # 10-minute steps over 25 hours from 00:05: 150 steps, and a midnight inside one of them.
    start, rules = at("2025-08-08T00:05"), replace(RULES, initial_slice_min=0, max_slices=151)
    assert len(plan_slices(start, start + timedelta(hours=25), rules, LATER).slices) == 151
    with pytest.raises(UsageError, match=r"151 slices.*MAX_SLICES_PER_RUN=150: raise STEP_MIN \(now 10 minutes\)"):
        plan_slices(start, start + timedelta(hours=25), replace(rules, max_slices=150), LATER)


@pytest.mark.parametrize("grid", [0, 1])
def test_millions_of_slices_are_refused_without_making_them(grid: int) -> None:
    started = time.process_time()
    with pytest.raises(UsageError, match="MAX_SLICES_PER_RUN"):
        plan_slices(at("1970-01-01"), at("9990-01-01"), SlicingRules(1, initial_slice_min=grid), at("9999-01-01"))
    assert time.process_time() - started < 0.1


def test_a_month_of_five_minute_slices_plans_quickly() -> None:
    spans = []
    for _ in range(3):
        started = time.process_time()
        plan = plan_slices(at("2025-08-01"), at("2025-08-31"), replace(RULES, overlap_min=0), LATER)
        spans.append(time.process_time() - started)
    assert len(plan.slices) == 8640
    assert len(plan.partitions) == 30
    # Processor time: what else the machine does is no fault of the planner.
    assert min(spans) < 0.3


@pytest.mark.parametrize(
    ("since", "until", "shift"), [("0001-01-01", "0001-01-02", 0), ("9999-12-30", "9999-12-31T23:59", 5)]
)
def test_times_outside_the_calendar_are_a_usage_error(since: str, until: str, shift: int) -> None:
    with pytest.raises(UsageError, match="years 1 to 9999"):
        plan_slices(at(since), at(until), replace(RULES, shift_min=shift), LATER)


def test_rules_that_cannot_be_meant_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SlicingRules(step_min=0, overlap_min=-1, lag_min=-2, initial_slice_min=-3, max_slices=0)
    for name in (
        "STEP_MIN",
        "PHX_QUERY_OVERLAP_MINUTES",
        "PHX_QUERY_LAG_MINUTES",
        "PHX_INITIAL_SLICE_MIN",
        "MAX_SLICES_PER_RUN",
    ):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("holes", "current", "expected"),
    [
        ([], None, "12:00"),
        ([], "10:00", "12:00"),
        ([], "13:00", "13:00"),  # never backwards
        ([], "09:59", "09:59"),  # 09:59 .. 10:00 was loaded by nobody
        ([("11:00", "11:05")], "10:00", "11:00"),
        ([("11:00", "11:05"), ("10:30", "10:31")], "10:00", "10:30"),
        ([("11:00", "11:05")], "11:30", "11:30"),
        ([("09:55", "10:05")], "10:00", "10:00"),
        ([("10:00", "10:05")], None, None),
        ([("09:55", "10:00")], None, None),
        ([("12:00", "12:05")], None, "12:00"),
    ],
)
def test_watermark(holes: list[tuple[str, str]], current: str | None, expected: str | None) -> None:
    def clock(text: str | None) -> datetime | None:
        return None if text is None else at(f"2025-08-08T{text}")

    windows = [window(f"08T{start}", f"08T{end}") for start, end in holes]
    result = earliest_hole_watermark(at("2025-08-08T10:00"), at("2025-08-08T12:00"), 0, windows, clock(current))
    assert result == clock(expected)


def test_watermark_is_business_time() -> None:
    hole = window("08T06:00", "08T06:05")  # 11:00 by the business clock
    assert earliest_hole_watermark(at("2025-08-08T10:00"), at("2025-08-08T12:00"), -300, [hole], None) == at(
        "2025-08-08T11:00"
    )
