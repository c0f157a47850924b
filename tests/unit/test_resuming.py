"""What is left of an ended run, and the plan of just that: no service, no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.core.resuming import RunRemains, check_resumable, resume_plan
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.windows import Window, partition_of
from etl_tasks.errors import UsageError

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
CLEAN = "stg.codes"


def minutes(start: int, end: int) -> Window:
    """A window in minutes after midnight."""
    return Window(MIDNIGHT + timedelta(minutes=start), MIDNIGHT + timedelta(minutes=end))


def undone(*windows: Window) -> list[PlannedSlice]:
    """Slices of these windows, a step each."""
    return [PlannedSlice(window, partition_of(window.start), step) for step, window in enumerate(windows)]


LEFT = RunRemains(
    run_id=7,
    process_name="codes",
    status="error",
    reason="",
    clean_table=CLEAN,
    shift_min=0,
    slices=48,
    undone=undone(minutes(0, 30), minutes(30, 45), minutes(90, 120), minutes(1440, 1470)),
    loaded_since=[],
    owed=[],
)


def windows(remains: RunRemains) -> list[Window]:
    plan = resume_plan(remains)
    return [each.window for each in plan.slices] if plan else []


def test_the_slices_are_the_windows_left_cut_as_they_were() -> None:
    plan = resume_plan(LEFT)
    assert plan is not None
    assert list(plan.slices) == LEFT.undone
    assert plan.source_windows == (minutes(0, 45), minutes(90, 120), minutes(1440, 1470)), "adjacent ones merged"
    assert plan.partitions == (20250808, 20250809)
    assert (plan.since, plan.until) == (MIDNIGHT, MIDNIGHT + timedelta(minutes=1470))
    assert (plan.steps, plan.notices) == (4, ())


def test_order_of_time_whatever_the_order_of_the_journal() -> None:
    assert windows(replace(LEFT, undone=LEFT.undone[::-1])) == [each.window for each in LEFT.undone]


@pytest.mark.parametrize(
    ("loaded", "left"),
    [
        ([minutes(0, 30)], [1, 2, 3]),
        ([minutes(0, 20), minutes(15, 45)], [2, 3]),
        ([minutes(0, 29)], [0, 1, 2, 3]),  # not whole: read again, as it was cut
        ([minutes(95, 1500)], [0, 1, 2]),
        ([minutes(0, 1500)], []),
    ],
    ids=["one", "by two together", "not quite", "the last", "all"],
)
def test_a_window_that_a_later_run_loaded_whole_is_not_read_again(loaded: list[Window], left: list[int]) -> None:
    remains = replace(LEFT, loaded_since=loaded)
    assert windows(remains) == [LEFT.undone[index].window for index in left]
    plan = resume_plan(remains)
    if plan and len(left) < 4:
        assert plan.notices[0].startswith(f"{4 - len(left)} window")
        assert "run 7" in plan.notices[0]


def test_the_interval_is_in_the_business_time_of_the_run() -> None:
    plan = resume_plan(replace(LEFT, shift_min=-300))
    assert plan is not None
    assert plan.since == MIDNIGHT + timedelta(minutes=300)
    assert plan.slices[0].window == minutes(0, 30), "windows are in the source's time, shifted already"


def test_nothing_left_is_no_plan() -> None:
    assert resume_plan(replace(LEFT, undone=[])) is None


@pytest.mark.parametrize("status", ["ok", "error", "skipped"])
def test_every_ended_run_with_slices_can_be_resumed(status: str) -> None:
    check_resumable(replace(LEFT, status=status), CLEAN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "running"}, "run 7 of codes is running: wait for its end"),
        ({"status": "planned"}, "is planned"),
        ({"process_name": "codes:dedup"}, "is a publish"),
        ({"clean_table": "stg.others"}, "stg.others, and CH_CLEAN_TABLE is stg.codes"),
        ({"slices": 0, "status": "skipped", "reason": "no watermark"}, r"ended skipped .* \(no watermark\)"),
        ({"slices": 0, "clean_table": None}, "without any slice: there is nothing to resume"),
    ],
)
def test_what_cannot_be_resumed_is_told_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_resumable(replace(LEFT, **changes), CLEAN)
