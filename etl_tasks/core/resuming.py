"""What is left to do of an ended run, and the plan that does just that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from etl_tasks.core.slicing import PlannedSlice, SlicePlan
from etl_tasks.core.states import ACTIVE_RUN_STATUSES, DEDUP_SUFFIX
from etl_tasks.core.windows import Window, merge, subtract
from etl_tasks.errors import UsageError


@dataclass(frozen=True, slots=True)
class RunRemains:
    """A run as the journal has it, and what it left behind.

    ``undone`` are its windows that were not loaded, as they were last cut (halves of a split, not the whole);
    ``loaded_since`` is what runs planned after it have loaded and what is loaded still; ``owed`` are partitions of
    which it loaded something that is not published. ``slices`` counts all it ever had.
    """

    run_id: int
    process_name: str
    status: str
    reason: str
    clean_table: str | None
    shift_min: int
    slices: int
    undone: Sequence[PlannedSlice]
    loaded_since: Sequence[Window]
    owed: Sequence[int]


def check_resumable(remains: RunRemains, clean_table: str) -> None:
    """Raise UsageError, saying what to do instead, for a run that cannot be resumed: active, no load, of another table,
    without slices.
    """
    run = f"run {remains.run_id} of {remains.process_name}"
    if remains.process_name.endswith(DEDUP_SUFFIX):
        raise UsageError(f"{run} is a publish: name the run that loaded, see python -m etl_tasks status")
    if remains.status in ACTIVE_RUN_STATUSES:
        raise UsageError(f"{run} is {remains.status}: wait for its end, only an ended run can be resumed")
    if remains.clean_table is not None and remains.clean_table != clean_table:
        raise UsageError(f"{run} loaded {remains.clean_table}, and CH_CLEAN_TABLE is {clean_table}: set it to resume")
    if not remains.slices:
        why = f" ({remains.reason})" if remains.reason else ""
        raise UsageError(
            f"{run} ended {remains.status} without any slice{why}: there is nothing to resume, plan the interval with "
            "python -m etl_tasks run --manual --since … --until …"
        )


def resume_plan(remains: RunRemains) -> SlicePlan | None:
    """The undone windows, cut as they were, less those that a later run has loaded whole; None if none is left.

    The interval of business time is from the first to the last of them.
    """
    loaded = merge(remains.loaded_since)
    slices = tuple(
        sorted((each for each in remains.undone if subtract([each.window], loaded)), key=lambda each: each.window)
    )
    if not slices:
        return None
    notices = []
    if skipped := len(remains.undone) - len(slices):
        count = "1 window" if skipped == 1 else f"{skipped} windows"
        notices.append(f"{count} of run {remains.run_id} left out: later runs have loaded what it had not")
    return exact_plan(slices, remains.shift_min, notices)


def exact_plan(slices: Sequence[PlannedSlice], shift_min: int, notices: Sequence[str] = ()) -> SlicePlan:
    """The plan of just these slices, at least one, in order of time; its interval is from the first to the last."""
    windows = merge(each.window for each in slices)
    shift = timedelta(minutes=shift_min)
    return SlicePlan(
        since=windows[0].start - shift,
        until=windows[-1].end - shift,
        slices=tuple(slices),
        partitions=tuple(sorted({each.partition for each in slices})),
        steps=len({each.step for each in slices}),
        notices=tuple(notices),
        source_windows=tuple(windows),
    )
