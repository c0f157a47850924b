"""Throughput, time left and headline of one run, on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.cli.headline import Expectations
from etl_tasks.cli.run_headline import eta_words, run_headline
from etl_tasks.core.run_report import Pace, RunReport, eta_of, overall_rate, recent_rate
from etl_tasks.core.status import OpenWork, PartitionProgress, RunProgress, RunView, SliceGroup

NOW = datetime(2025, 8, 8, 12, tzinfo=UTC)
NORMAL = Expectations(step_s=600, lag_s=120)
HOUR_S = 3600.0
# Twenty minutes: 60 of 100 windows of an hour, 15 of them in the last five minutes.
PACE = Pace(
    first_start=NOW - timedelta(minutes=20),
    last_done=NOW - timedelta(seconds=5),
    done=60,
    rows=120_000,
    recent_s=300.0,
    recent_done=15,
    recent_rows=45_000,
    recent_window_s=15 * HOUR_S,
    open_slices=40,
    open_window_s=40 * HOUR_S,
)


def partition(number: int, **changes: Any) -> PartitionProgress:
    """A partition that loads."""
    base = PartitionProgress(
        partition=number,
        state="loading",
        slices=50,
        open_slices=20,
        failed_slices=0,
        loaded=True,
        published=False,
        publish_failed=False,
        publish_state="idle",
        publish_waits=False,
        publish_ms=None,
        publish_error=None,
        clean_rows=None,
        loading_s=61.0,
        running=1,
    )
    return replace(base, **changes)


def run(**changes: Any) -> RunView:
    """A run under way, of twenty minutes."""
    base = RunView(7, "codes", "running", PACE.first_start or NOW, None, NOW, NOW, NOW, NOW, {}, NOW)
    return replace(base, **changes)


def report(*partitions: PartitionProgress, run_changes: dict[str, Any] | None = None, **changes: Any) -> RunReport:
    """A run over two partitions that load."""
    found = partitions or (partition(20250807), partition(20250808))
    base = RunReport(
        now=NOW,
        clean_table="stg.codes",
        shift_min=0,
        progress=RunProgress(run(**(run_changes or {})), found),
        groups=[SliceGroup(7, "done", None, 60, 120_000, 0, 0, None, None)],
        work=OpenWork(due=38, running=2, workers=1),
        slowest=[],
        most_split=[],
        rejected_rows=0,
        rejects=[],
        unloaded=0,
        pace=PACE,
    )
    return replace(base, **changes)


def ended(status: str, **changes: Any) -> dict[str, Any]:
    """A run that took twenty minutes."""
    return {"status": status, "ended_at": NOW, **changes}


def done(number: int, **changes: Any) -> PartitionProgress:
    """A partition that took 30 s to publish."""
    what: dict[str, Any] = {"state": "done", "open_slices": 0, "published": True, "publish_ms": 30_000, "running": 0}
    return partition(number, **{**what, **changes})


def test_rates() -> None:
    overall, recent = overall_rate(report()), recent_rate(report())
    # 120,000 rows and 60 slices in 20 min; 45,000 rows and 15 slices in 5 min.
    assert overall is not None
    assert (overall.rows_per_s, overall.slices_per_min) == (100.0, 3.0)
    assert recent is not None
    assert (recent.rows_per_s, recent.slices_per_min) == (150.0, 3.0)


def test_a_young_run_is_measured_over_its_own_life() -> None:
    young = report(pace=replace(PACE, first_start=NOW - timedelta(seconds=100)))
    recent = recent_rate(young)
    assert recent is not None
    assert recent.rows_per_s == 450.0


def test_an_ended_run_is_measured_to_its_last_slice() -> None:
    pace = replace(PACE, open_slices=0, last_done=NOW - timedelta(minutes=10))
    rate = overall_rate(report(run_changes=ended("ok"), pace=pace))
    assert rate is not None
    assert rate.rows_per_s == 200.0
    assert recent_rate(report(run_changes=ended("ok"), pace=pace)) is None


def test_time_left_is_from_source_time_at_the_recent_pace() -> None:
    # 15 hours of the source in 300 s: 40 hours take 800 s, however many slices they are cut into.
    assert eta_of(report()).left == timedelta(seconds=800)
    assert eta_of(report(pace=replace(PACE, open_slices=4000))).left == timedelta(seconds=800)
    assert eta_words(report()) == "about 13 min left, until 12:13 UTC"
    # A publish of 30 s follows the last slice.
    assert eta_of(report(done(20250807), partition(20250808))).left == timedelta(seconds=830)


def test_publishes_may_take_longer_than_loading() -> None:
    slow = done(20250801, publish_ms=600_000)
    waiting = [partition(number) for number in (20250802, 20250803, 20250804)]
    assert eta_of(report(slow, *waiting)).left == timedelta(seconds=1800)


def test_time_left_is_unknown_when_nothing_moves() -> None:
    nothing = replace(PACE, recent_done=0, recent_rows=0, recent_window_s=0.0)
    assert (eta_of(report(pace=nothing)).left, eta_of(report(pace=nothing)).reason) == (
        None,
        "nothing was loaded in the last 5 min",
    )
    resting = report(
        partition(20250808, running=0), pace=replace(PACE, last_done=NOW - timedelta(minutes=2)), work=OpenWork(due=40)
    )
    assert eta_of(resting).reason == "no worker has anything of it in hand"
    assert recent_rate(resting) is None
    loaded = report(
        partition(20250808, open_slices=0, state="publishing"),
        pace=replace(PACE, open_slices=0, open_window_s=0),
        work=OpenWork(),
    )
    assert eta_of(loaded).reason == "all is loaded, and how long a publish takes is not known yet"
    assert eta_of(report(run_changes=ended("ok"))).left is None


@pytest.mark.parametrize(
    ("found", "level", "words", "command"),
    [
        (
            report(),
            "ok",
            "running: 60 of 100 slices; 150 rows/s; about 13 min left, until 12:13 UTC",
            "",
        ),
        (
            report(
                partition(20250808, running=0),
                run_changes={"heartbeat_at": NOW - timedelta(minutes=9), "progress_at": NOW - timedelta(minutes=9)},
            ),
            "stopped",
            "STOPPED at 30 of 50 slices: no sign of a worker for 9 min",
            "celery -A etl_tasks worker",
        ),
        (
            report(
                partition(20250808, running=0),
                run_changes={"progress_at": NOW - timedelta(minutes=20)},
                work=OpenWork(due=20),
            ),
            "stopped",
            "STUCK at 30 of 50 slices: a worker lives, but nothing has moved for 20 min",
            "python -m etl_tasks doctor",
        ),
        (
            report(run_changes=ended("ok"), progress=RunProgress(run(**ended("ok")), [done(20250808)])),
            "ok",
            "ok: 120,000 rows, 50 slices, 20 min 0 s",
            "",
        ),
        (
            report(
                progress=RunProgress(
                    run(**ended("error", details={"error": "2 slices failed"})), [done(20250808, failed_slices=2)]
                ),
                groups=[SliceGroup(7, "error", "RowRejected", 2, 0, 0, 0, None, "row x")],
                rejected_rows=1,
                unloaded=2,
            ),
            "failed",
            "ended in error: 2 slices failed (0 rows, 50 slices, 20 min 0 s); 1 row REJECTED; "
            "2 windows are NOT LOADED (RowRejected)",
            "python -m etl_tasks resume 7",
        ),
        (
            report(
                progress=RunProgress(run(**ended("error")), [done(20250808, failed_slices=2)]),
                groups=[SliceGroup(7, "error", "RowRejected", 2, 0, 0, 0, None, "row x")],
            ),
            "attention",
            "ended in error (0 rows, 50 slices, 20 min 0 s); 2 slices in error (RowRejected), "
            "all loaded by another run since",
            "",
        ),
        (
            report(
                progress=RunProgress(run(**ended("error")), [done(20250808, published=False, publish_failed=True)]),
            ),
            "failed",
            "ended in error (120,000 rows, 50 slices, 20 min 0 s); 1 partition NOT PUBLISHED",
            "python -m etl_tasks publish --partition 20250808",
        ),
        (
            report(progress=RunProgress(run(**ended("skipped", details={"reason": "run 6 is active"})), [])),
            "attention",
            "skipped: run 6 is active",
            "",
        ),
    ],
)
def test_the_headline_of_a_run(found: RunReport, level: str, words: str, command: str) -> None:
    said = run_headline(found, NORMAL)
    assert (said.level.value, said.text, said.command) == (level, words, command)
