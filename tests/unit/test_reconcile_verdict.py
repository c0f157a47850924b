"""What a reconcile says of a window: the cause of a difference, what mends it, what RAW may have forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.reconcile_verdict import (
    Cause,
    Coverage,
    Finding,
    Verdict,
    grid_slices,
    judge,
    last_interval,
    repair_work,
    touches,
)
from etl_tasks.core.reconciling import WindowContent, WindowCounts
from etl_tasks.core.slicing import PlannedSlice, SlicingRules
from etl_tasks.core.windows import Window, merge, subtract
from etl_tasks.errors import UsageError

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
NOW = datetime(2025, 8, 20, tzinfo=UTC)
TTL_S = 5 * 86400.0


def hour(first: float, last: float | None = None) -> Window:
    return Window(NOON + timedelta(hours=first), NOON + timedelta(hours=first + 1 if last is None else last))


def counted(number: int, source: int, clean: int, raw: int | None = None) -> Finding:
    window = hour(number)
    counts = WindowCounts(window, source, source if raw is None else raw, clean)
    return Finding(PlannedSlice(window, 20250808, number), counts)


def compared(number: int, **found: int) -> Finding:
    window = hour(number)
    content = WindowContent(window, source_keys=10, clean_rows=10, **found)
    return Finding(PlannedSlice(window, 20250808, number), WindowCounts(window, 10, 10, 10), content)


ALL = Coverage(loaded=[hour(0, 10)], owed=[])


def causes(findings: list[Finding], coverage: Coverage = ALL) -> list[Cause]:
    return [each.cause for each in judge(findings, coverage, TTL_S, NOW)]


def test_a_count_tells_lacking_from_extra() -> None:
    assert causes([counted(0, 5, 5), counted(1, 5, 4), counted(2, 5, 6)]) == [Cause.EQUAL, Cause.BEHIND, Cause.EXTRA]


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ({}, Cause.EQUAL),
        ({"collisions": 1}, Cause.EQUAL),
        ({"missing": 1}, Cause.BEHIND),
        ({"differing": 1}, Cause.BEHIND),
        ({"repeated": 1}, Cause.BEHIND),
        ({"missing": 1, "extra": 1}, Cause.BEHIND),
        ({"extra": 1}, Cause.EXTRA),
        ({"unfit": 1}, Cause.UNFIT),
        ({"unfit": 1, "extra": 1}, Cause.EXTRA),
        ({"unfit": 1, "missing": 1}, Cause.BEHIND),
    ],
)
def test_the_rows_tell_more(found: dict[str, int], cause: Cause) -> None:
    assert causes([compared(0, **found)]) == [cause]


def test_coverage_tells_why_something_is_lacking_and_never_why_something_is_extra() -> None:
    coverage = Coverage(loaded=[hour(0, 2), hour(2.5, 4)], owed=[hour(1), hour(3)])
    findings = [counted(0, 5, 4), counted(1, 5, 4), counted(2, 5, 4), counted(3, 5, 6)]
    assert causes(findings, coverage) == [Cause.BEHIND, Cause.UNPUBLISHED, Cause.NOT_LOADED, Cause.EXTRA]


@pytest.mark.parametrize(
    ("raw", "ended_ago", "loaded", "forgot"),
    [
        (4, timedelta(days=5), True, True),
        (0, timedelta(days=9), True, True),
        (5, timedelta(days=5), True, False),
        (6, timedelta(days=5), True, False),
        (4, timedelta(days=5) - timedelta(seconds=1), True, False),
        (4, timedelta(days=5), False, False),
    ],
)
def test_raw_can_have_forgotten_only_what_is_loaded_and_older_than_its_ttl(
    raw: int, ended_ago: timedelta, loaded: bool, forgot: bool
) -> None:
    finding = counted(0, 5, 5, raw)
    coverage = Coverage([finding.window] if loaded else [], [])
    (judged,) = judge([finding], coverage, TTL_S, finding.window.end + ended_ago)
    assert judged.raw_forgot is forgot
    assert judged.cause is Cause.EQUAL


def test_a_repair_publishes_what_is_owed_and_loads_the_rest_that_lacks_something() -> None:
    coverage = Coverage(loaded=[hour(0, 4)], owed=[hour(1)])
    findings = judge([counted(n, 5, clean) for n, clean in enumerate((5, 4, 4, 6, 4))], coverage, TTL_S, NOW)

    work = repair_work(findings)

    assert work.publish == [20250808]
    assert [each.window for each in work.load] == [hour(2), hour(4)]
    assert [each.window for each in work.beyond] == [hour(3)]


def test_what_a_repair_did_not_mend_is_not_tried_again() -> None:
    findings = judge([counted(0, 5, 4), counted(1, 5, 4)], ALL, TTL_S, NOW)
    work = repair_work(findings, tried=[hour(0)])
    assert ([each.window for each in work.load], [each.window for each in work.beyond]) == ([hour(1)], [hour(0)])
    assert not repair_work(findings, tried=[hour(0, 2)])


def test_a_verdict_of_nothing_is_not_exact() -> None:
    assert not Verdict(1, False, []).exact
    assert Verdict(1, False, [counted(0, 5, 5)]).exact
    different = Verdict(1, False, judge([counted(0, 5, 5), counted(1, 5, 6), counted(2, 5, 4)], ALL, TTL_S, NOW))
    assert not different.exact
    assert different.causes == {Cause.BEHIND: 1, Cause.EXTRA: 1}
    assert [each.window for each in different.differing] == [hour(1), hour(2)]


edges = st.integers(0, 60)
spans = st.lists(st.tuples(edges, st.integers(1, 9)), max_size=8)


@given(st.tuples(edges, st.integers(1, 9)), spans)
def test_touching_is_sharing_an_instant(one: tuple[int, int], others: list[tuple[int, int]]) -> None:
    def window(start: int, length: int) -> Window:
        return Window(NOON + timedelta(seconds=start), NOON + timedelta(seconds=start + length))

    merged = merge(window(*each) for each in others)
    # Independently: nothing is taken away exactly where nothing is shared.
    assert touches(window(*one), merged) == (subtract([window(*one)], merged) != [window(*one)])


def test_windows_are_cut_again_on_the_grid_whatever_shift_lag_and_overlap_say() -> None:
    rules = SlicingRules(
        step_min=10, shift_min=-300, overlap_min=5, overlap_only_first=True, lag_min=60, initial_slice_min=60,
        max_slices=100, business_tz=None,
    )  # fmt: skip
    late = Window(NOON + timedelta(hours=11, minutes=30), NOON + timedelta(hours=13))
    found = grid_slices([hour(1), late], rules, NOON)
    assert [(each.window, each.partition) for each in found] == [
        (hour(1), 20250808),
        (hour(11.5, 12), 20250808),
        (hour(12), 20250809),
    ]


def test_the_last_interval_ends_at_the_watermark() -> None:
    assert last_interval(NOON, timedelta(hours=2), "codes") == (NOON - timedelta(hours=2), NOON)
    with pytest.raises(UsageError, match=r"codes has no watermark yet.*--since and --until"):
        last_interval(None, timedelta(hours=2), "codes")
