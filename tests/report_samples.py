"""Runs for the tests of ``report``: an eventful one, and one of any size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from etl_tasks.core.report import DayCoverage, ErrorGroup, RejectedValue, RunRecord
from etl_tasks.core.report_timeline import ReportSlice
from etl_tasks.core.status import PartitionProgress, RunProgress, RunView
from etl_tasks.core.windows import Window, halve, partition_of

DAY = datetime(2025, 8, 8, tzinfo=UTC)
BEGAN = datetime(2026, 11, 25, 10, tzinfo=UTC)
HOSTILE = "row ('</td><script>alert(1)</script>'): st holds \"300\" & <img src=x onerror=alert(2)>"


def window(index: int, minutes: int = 30) -> Window:
    """The ``index``-th window from the first midnight."""
    return Window(DAY + timedelta(minutes=index * minutes), DAY + timedelta(minutes=(index + 1) * minutes))


def made(
    slice_id: int,
    of: Window,
    state: str = "done",
    *,
    worker: str | None = "etl1.example:4711",
    began_s: float | None = 0,
    took_s: float | None = 5,
    rows: int = 0,
    depth: int = 0,
    parent_id: int | None = None,
    overloads: int = 0,
) -> ReportSlice:
    """A slice whose last attempt began ``began_s`` after the run."""
    began = None if began_s is None else BEGAN + timedelta(seconds=began_s)
    ended = None if began is None or took_s is None else began + timedelta(seconds=took_s)
    kind = {"error": "RowRejected", "split": "Overloaded"}.get(state)
    day = partition_of(of.start)
    return ReportSlice(slice_id, parent_id, day, of, state, depth, 1, overloads, rows, began, ended, worker, kind)


def progress(status: str = "error", days: int = 3, ended_s: float | None = 400, **details: str) -> RunProgress:
    """The run and its partitions; the last of several days has failed slices and is not published."""
    until = DAY + timedelta(days=days)
    ended = None if ended_s is None else BEGAN + timedelta(seconds=ended_s)
    run = RunView(7, "manual_codes", status, BEGAN, ended, DAY, until, until, BEGAN, details)
    partitions = [
        PartitionProgress(
            partition=partition_of(DAY + timedelta(days=index)),
            state="done",
            slices=48,
            open_slices=0,
            failed_slices=2 * (index == 2),
            loaded=True,
            published=index != 2,
            publish_failed=index == 2,
            publish_state="error" if index == 2 else "idle",
            publish_waits=False,
            publish_ms=2_345,
            publish_error="CountMismatch: RAW holds fewer keys than counted" if index == 2 else None,
            clean_rows=30_035,
            loading_s=75.2,
            rows=29_754,
            splits=3,
        )
        for index in range(days)
    ]
    return RunProgress(run, partitions)


def eventful() -> RunRecord:
    """Three days over four workers: splits two levels deep, errors, a slice that runs, some not begun; hostile text."""
    slices: list[ReportSlice] = []
    workers = [f"etl{1 + index // 2}.example:{4711 + index}" for index in range(4)]
    clock = [0.0] * 4
    next_id = 1

    def work(of: Window, state: str, lane: int, took_s: float, **more: int | None) -> ReportSlice:
        nonlocal next_id
        slices.append(
            made(next_id, of, state, worker=workers[lane], began_s=clock[lane], took_s=took_s, **more)  # type: ignore[arg-type]
        )
        next_id += 1
        clock[lane] += took_s + 0.4
        return slices[-1]

    for index in range(144):
        lane = index % 4
        of = window(index)
        if index % 17 == 5:
            whole = work(of, "split", lane, 6, overloads=4)
            first, second = halve(of)
            inner = work(first, "split", lane, 3, depth=1, parent_id=whole.slice_id, overloads=2)
            for half in halve(first):
                work(half, "done", lane, 4, depth=2, parent_id=inner.slice_id, rows=160)
            work(second, "done", (lane + 1) % 4, 5, depth=1, parent_id=whole.slice_id, rows=320)
        elif index in (100, 101):
            work(of, "error", lane, 14)
        else:
            work(of, "done", lane, 4 + index % 7, rows=500 + 37 * (index % 11))
    slices.append(made(next_id, window(150), "running", worker=workers[0], began_s=clock[0], took_s=None))
    slices += [made(next_id + more, window(150 + more), "planned", worker=None, began_s=None) for more in range(1, 5)]
    coverage = [
        DayCoverage(20250808, 86_400, 86_400, False),
        DayCoverage(20250809, 86_400, 43_200, False),
        DayCoverage(20250810, 79_200, 0, True),
    ]
    errors = [
        ErrorGroup("error", "RowRejected", 2, 0, Window(window(100).start, window(101).end), HOSTILE),
        ErrorGroup(
            "split", "Overloaded", 18, 54, Window(window(5).start, window(141).end), "rejected 4 times in a row"
        ),
    ]
    rejects = [RejectedValue("('010460043993125621', 1)", "st", "300", HOSTILE)]
    now = BEGAN + timedelta(seconds=max(clock) + 10)
    run = progress(error="2 slices are in error, 1 publish failed: see python -m etl_tasks status")
    return RunRecord(now, run, slices, coverage, errors, rejects, 1)


def large(slices: int, workers: int = 40, days: int = 35) -> RunRecord:
    """So many slices of ten seconds, one after the other on each worker."""
    each_s, lanes = 10, workers
    made_slices = [
        made(
            index + 1,
            window(index, 5),
            "error" if index % 997 == 13 else "done",
            worker=f"etl.example:{index % lanes}",
            began_s=index // lanes * each_s,
            took_s=each_s - 0.5,
            rows=100,
        )
        for index in range(slices)
    ]
    coverage = [DayCoverage(partition_of(DAY + timedelta(days=index)), 86_400, 86_400, False) for index in range(days)]
    return RunRecord(BEGAN + timedelta(hours=2), progress("ok", days, 3600), made_slices, coverage, [], [], 0)
