"""Windows against sets of whole seconds, which know nothing of edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.windows import (
    Window,
    count_grid_cells,
    from_seconds,
    grid_edges,
    halve,
    merge,
    partition_of,
    subtract,
    to_seconds,
)

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str) -> Window:
    return Window(at(start), at(end))


def offsets(windows: list[Window]) -> list[int]:
    """Every second of every window, counted from MIDNIGHT, repeats kept."""
    return [
        offset
        for one in windows
        for offset in range(
            int((one.start - MIDNIGHT).total_seconds()),
            int((one.end - MIDNIGHT).total_seconds()),
        )
    ]


@st.composite
def some_windows(draw: st.DrawFn, within_s: int = 40) -> list[Window]:
    pairs = draw(st.lists(st.tuples(st.integers(-within_s, within_s), st.integers(1, within_s // 2)), max_size=6))
    return [Window(MIDNIGHT + timedelta(seconds=a), MIDNIGHT + timedelta(seconds=a + n)) for a, n in pairs]


@given(some_windows())
def test_merge_keeps_the_instants_and_leaves_gaps_between(windows: list[Window]) -> None:
    merged = merge(windows)
    assert offsets(merged) == sorted(set(offsets(windows)))
    assert all(left.end < right.start for left, right in pairwise(merged))


def test_touching_windows_are_joined() -> None:
    assert merge([window("2025-08-08T01:00", "2025-08-08T02:00"), window("2025-08-08T00:00", "2025-08-08T01:00")]) == [
        window("2025-08-08T00:00", "2025-08-08T02:00")
    ]


@given(some_windows(), some_windows())
def test_subtract_is_the_difference_of_sets(windows: list[Window], holes: list[Window]) -> None:
    assert offsets(subtract(windows, holes)) == sorted(set(offsets(windows)) - set(offsets(holes)))


def test_partition_is_the_utc_day() -> None:
    assert partition_of(at("2025-08-08T23:59:59")) == 20250808
    assert partition_of(at("2025-08-09T00:00:00")) == 20250809
    assert partition_of(datetime(2025, 8, 9, 4, 59, tzinfo=timezone(timedelta(hours=5)))) == 20250808
    with pytest.raises(ValueError, match="aware"):
        partition_of(datetime(2025, 8, 8))


def test_seconds_are_floored_before_the_epoch_too() -> None:
    assert to_seconds(datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)) == -1
    assert to_seconds(datetime(1970, 1, 1, 0, 0, 1, 999_999, tzinfo=UTC)) == 1
    assert from_seconds(1_754_611_200) == MIDNIGHT
    with pytest.raises(ValueError, match="aware"):
        to_seconds(datetime(2025, 8, 8))


@given(st.integers(-200_000, 200_000), st.integers(1, 200_000), st.integers(1, 100_000))
def test_grid_edges_are_the_seconds_that_divide(start: int, length: int, grid_s: int) -> None:
    expected = [second for second in range(start + 1, start + length) if second % 86_400 % grid_s == 0]
    assert list(grid_edges(start, start + length, grid_s)) == expected
    assert count_grid_cells(start, start + length, grid_s) == len(expected) + 1


@pytest.mark.parametrize(
    ("whole", "middle"),
    [
        (("00:00:00", "00:10:00"), "00:05:00"),
        (("00:00:00", "00:05:00"), "00:02:00"),  # the middle 02:30 ties, the earlier minute wins
        (("00:00:00", "00:02:00"), "00:01:00"),
        (("00:00:50", "00:02:50"), "00:02:00"),  # the middle 01:50 is nearer to 02:00
        (("00:00:20", "00:02:20"), "00:01:00"),
        (("00:00:00", "00:01:59"), "00:00:59"),  # below two minutes: the middle second
        (("00:00:00", "00:00:02"), "00:00:01"),
    ],
)
def test_halves(whole: tuple[str, str], middle: str) -> None:
    start, end = (at(f"2025-08-08T{edge}") for edge in whole)
    assert halve(Window(start, end)) == (
        Window(start, at(f"2025-08-08T{middle}")),
        Window(at(f"2025-08-08T{middle}"), end),
    )


@given(st.integers(-5_000, 5_000), st.integers(2, 5_000))
def test_halves_meet_and_are_near_the_middle(start: int, length: int) -> None:
    whole = Window(MIDNIGHT + timedelta(seconds=start), MIDNIGHT + timedelta(seconds=start + length))
    left, right = halve(whole)
    assert (left.start, right.end) == (whole.start, whole.end)
    assert left.end == right.start
    if length >= 120:
        assert left.end.second == 0
        assert abs(left.duration - right.duration) <= timedelta(seconds=61)
        assert min(left.duration, right.duration) >= timedelta(seconds=30)
    else:
        assert abs(left.duration - right.duration) <= timedelta(seconds=1)


def test_one_second_has_no_halves() -> None:
    with pytest.raises(ValueError, match="one second"):
        halve(window("2025-08-08T00:00:00", "2025-08-08T00:00:01"))


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (datetime(2025, 8, 8), datetime(2025, 8, 9), "aware UTC"),
        (datetime(2025, 8, 8, tzinfo=timezone(timedelta(hours=5))), MIDNIGHT + timedelta(days=1), "aware UTC"),
        (MIDNIGHT, MIDNIGHT + timedelta(seconds=1, microseconds=1), "whole second"),
        (MIDNIGHT, MIDNIGHT, "empty"),
    ],
)
def test_a_window_that_is_none_is_refused(start: datetime, end: datetime, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Window(start, end)


def test_milliseconds_and_text() -> None:
    one = Window(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC))
    assert (one.start_ms, one.end_ms) == (-1000, 2000)
    assert str(one) == "[1969-12-31T23:59:59Z, 1970-01-01T00:00:02Z)"
