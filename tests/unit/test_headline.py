"""The headline of ``status``: what it says of states worked out by hand, and which command it names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.cli.headline import Expectations, Level, headline_of, why_owed
from etl_tasks.core.status import (
    DifferingWindow,
    Holes,
    OpenWork,
    OwedPublish,
    ProcessView,
    RejectedRows,
    RunView,
    SliceGroup,
    StatusReport,
    UnloadedWindows,
)
from etl_tasks.core.windows import Window

NOW = datetime(2025, 8, 8, 12, tzinfo=UTC)
# Steps of ten minutes that stay two behind: normal is up to 22 min.
NORMAL = Expectations(step_s=600, lag_s=120)
WINDOW = Window(NOW - timedelta(hours=2), NOW - timedelta(hours=1))


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def run(run_id: int = 7, **changes: Any) -> RunView:
    """A run under way that gave signs of life half a minute ago."""
    base = RunView(run_id, "codes", "running", ago(5), None, ago(20), ago(3), ago(3), ago(0.5), {}, ago(0.5))
    return replace(base, **changes)


def ended(run_id: int = 7, status: str = "ok", minutes: float = 8, **changes: Any) -> RunView:
    """A run that ended so long ago."""
    moment = ago(minutes)
    return run(
        run_id, status=status, started_at=moment, ended_at=moment, heartbeat_at=moment, progress_at=moment, **changes
    )


def owed(**changes: Any) -> OwedPublish:
    """A publish that is due since a minute."""
    return replace(OwedPublish(20250808, "due", 3, ago(4), ago(1), 0, None, None), **changes)


THREE_MIN_AGO = ago(3)


def report(*runs: RunView, watermark: datetime | None = THREE_MIN_AGO, **changes: Any) -> StatusReport:
    """The journal of one schedule, three minutes behind."""
    base = StatusReport(NOW, [ProcessView("codes", runs, watermark)], [], [], [], {})
    return replace(base, **changes)


def said(found: StatusReport, expected: Expectations = NORMAL) -> tuple[str, str, str]:
    answer = headline_of(found, expected)
    return answer.level.value, answer.text, answer.command


def test_all_is_well() -> None:
    assert said(report(run(), work=OpenWork(due=3, running=2, workers=1))) == (
        "ok",
        "running; 3 min behind; nothing failed",
        "",
    )
    assert said(report(ended())) == ("ok", "idle, the last work ended 8 min ago; 3 min behind; nothing failed", "")


def test_an_empty_journal_says_how_to_begin() -> None:
    empty = StatusReport(NOW, [], [], [], [], {})
    assert said(empty) == ("attention", "nothing has run yet", "python -m etl_tasks run --since … --until …")


def test_no_worker_lives() -> None:
    silent = run(heartbeat_at=ago(42), progress_at=ago(45))
    assert said(report(silent, work=OpenWork(due=119, lost=1), owed=[owed()])) == (
        "stopped",
        "STOPPED: no sign of a worker for 42 min while 120 slices and 1 publish are due; 3 min behind; nothing failed",
        "celery -A etl_tasks worker",
    )
    # Nothing is due, for a slice waits to be tried again; but nobody would.
    assert said(report(silent, work=OpenWork(waiting=1)))[1].startswith(
        "STOPPED: no sign of a worker for 42 min while a run is active;"
    )
    # That something else ended a minute ago does not help the one that is active: its heartbeat is what counts.
    assert said(report(silent, ended(6, minutes=1), work=OpenWork(due=1)))[1].startswith("STOPPED")
    # A lease that lives is a worker that lives, whatever the run's row says.
    assert said(report(silent, work=OpenWork(due=119, running=1)))[0] == "ok"


def test_a_run_that_was_just_planned() -> None:
    planned = report(run(status="planned"), work=OpenWork(due=12))
    assert said(planned)[1] == "planned, no worker has begun yet; 3 min behind; nothing failed"


def test_a_publish_that_nobody_takes() -> None:
    # The last run ended three hours ago; the publish may be taken for twenty minutes only.
    assert said(report(ended(minutes=180), owed=[owed(not_before=ago(20))]))[1].startswith(
        "STOPPED: no sign of a worker for 20 min while 1 publish is due;"
    )
    assert said(report(ended(minutes=180), owed=[owed(not_before=ago(1))]))[1].startswith("idle, 1 publish is due;")


def test_workers_live_and_nothing_moves() -> None:
    level, words, command = said(report(run(heartbeat_at=ago(0.1), progress_at=ago(12)), work=OpenWork(due=1)))
    assert (level, command) == ("stopped", "python -m etl_tasks doctor")
    assert words.startswith("STUCK: a worker lives, but nothing has moved for 12 min while 1 slice is due;")
    # A long read under a live lease is work.
    working = report(run(progress_at=ago(12)), work=OpenWork(due=1, running=1))
    assert said(working)[1].startswith("running, last progress 12 min ago;")


def test_a_source_that_is_away() -> None:
    groups = [SliceGroup(7, "planned", "Unreachable", 12, 0, 0, 0, WINDOW, "the Query Server does not answer")]
    found = report(run(), work=OpenWork(waiting=12, next_try_at=NOW + timedelta(seconds=30)), slices=groups)
    assert said(found) == (
        "attention",
        "WAITING: 12 slices will be tried again (Unreachable), the first at 2025-08-08T12:00:30Z; 3 min behind; "
        "nothing failed",
        "python -m etl_tasks status 7",
    )
    # Some of them are due again and one is being tried at this moment: the source is away all the same.
    trying = report(
        run(heartbeat_at=ago(0.1), progress_at=ago(1)), work=OpenWork(waiting=4, due=7, running=1), slices=groups
    )
    assert said(trying)[1].startswith("WAITING: 12 slices will be tried again (Unreachable)")


@pytest.mark.parametrize(
    ("runs", "command"),
    [
        # Nobody has planned for longer than two steps: beat, or a worker on the plan queue.
        ((ended(minutes=41),), "python -m etl_tasks doctor beat queues"),
        # Plans come, and end without effect.
        ((ended(8, "skipped", 5), ended(7, "ok", 41)), "python -m etl_tasks status 8"),
        ((run(9),), "python -m etl_tasks status 9"),
    ],
)
def test_behind(runs: tuple[RunView, ...], command: str) -> None:
    level, words, typed = said(report(*runs, watermark=ago(41)))
    assert (level, typed) == ("attention", command)
    assert "; BEHIND by 41 min; nothing failed" in words
    assert said(report(*runs, watermark=ago(22)))[0] == "ok"


def test_the_lag_is_in_business_time() -> None:
    # At 12:00 of the source it is 17:00 in the business; 16:50 is ten minutes behind.
    business = replace(NORMAL, shift_min=-300)
    watermark = datetime(2025, 8, 8, 16, 50, tzinfo=UTC)
    assert "; 10 min behind; " in said(report(ended(), watermark=watermark), business)[1]


def test_only_the_lane_of_the_settings_is_the_schedule() -> None:
    # PROCESS_NAME was another one once; nobody runs that lane any more.
    before = ProcessView("codes_old", [ended(3, process="codes_old", minutes=129_600)], ago(129_600))
    now = ProcessView("codes", [ended()], ago(3))
    assert said(report(processes=[before, now]), replace(NORMAL, process="codes")) == (
        "ok",
        "idle, the last work ended 8 min ago; 3 min behind; nothing failed",
        "",
    )


def test_a_run_that_somebody_cancelled_is_no_failure() -> None:
    left = UnloadedWindows(7, "RunEnded", 12, WINDOW.start, WINDOW.end, WINDOW, "cancelled by ann", cancelled=True)
    cancelled = ended(7, "error", details={"error": "cancelled by ann", "cancelled": True})
    assert said(report(cancelled, unloaded=[left])) == (
        "attention",
        "idle, the last work ended 8 min ago; 3 min behind; nothing failed; run 7 was cancelled, 12 windows not loaded",
        "python -m etl_tasks resume 7",
    )
    failed = UnloadedWindows(7, "RowRejected", 1, WINDOW.start, WINDOW.end, WINDOW, "row x")
    level, words, command = said(report(cancelled, unloaded=[failed, left]))
    assert (level, command) == ("failed", "python -m etl_tasks status 7")
    assert "; 1 window is NOT LOADED (RowRejected; run 7); run 7 was cancelled, 12 windows not loaded" in words


def test_holes_of_which_no_run_tells() -> None:
    holes = Holes(2, 10_800.0, WINDOW.start, WINDOW.end + timedelta(hours=9))
    assert said(report(ended(), holes=holes), replace(NORMAL, shift_min=-60, lag_s=7200)) == (
        "attention",
        # Between 10:00 and 20:00 of the source, an hour behind the business.
        "idle, the last work ended 8 min ago; 1 h 3 min behind; 2 intervals (3 h 0 min) between 2025-08-08T11:00:00Z "
        "and 2025-08-08T21:00:00Z were NEVER LOADED, or lost since",
        "python -m etl_tasks gaps",
    )
    level, words, command = said(report(ended(), incomplete=[20250801]))
    assert (level, command) == ("failed", "python -m etl_tasks gaps")
    assert words.endswith("; 3 min behind; 1 partition PUBLISHED WITH A HOLE (20250801)")


def test_rows_that_were_rejected() -> None:
    level, words, command = said(report(ended(), rejected_rows=RejectedRows(3, 7)))
    assert (level, command) == ("attention", "python -m etl_tasks status 7")
    assert words.endswith("; nothing failed; 3 rows REJECTED (last by run 7)")


def test_a_lane_by_hand_has_no_lag() -> None:
    by_hand = ProcessView("manual_codes", [ended(process="manual_codes")], ago(100_000))
    assert said(report(processes=[by_hand]))[1] == "idle, the last work ended 8 min ago; nothing failed"


def test_windows_that_nobody_has_loaded() -> None:
    missing = [
        UnloadedWindows(9, "RowRejected", 2, WINDOW.start, WINDOW.end, WINDOW, "row x"),
        UnloadedWindows(7, "QueryTimedOut", 1, WINDOW.start, WINDOW.end, WINDOW, "too slow"),
    ]
    assert said(report(ended(9, "error", details={"failed_slices": 2}), unloaded=missing)) == (
        "failed",
        "idle, the last work ended 8 min ago; 3 min behind; "
        "3 windows are NOT LOADED (RowRejected, QueryTimedOut; runs 9, 7)",
        "python -m etl_tasks status 9",
    )
    # Somebody else has loaded what the last run could not.
    assert said(report(ended(9, "error", details={"failed_slices": 2})))[0] == "ok"


def test_a_run_that_failed_as_a_whole() -> None:
    found = report(ended(9, "error", details={"error": "the source has no column opd"}), ended(7))
    assert said(found) == (
        "failed",
        "idle, the last work ended 8 min ago; 3 min behind; the last run of codes ended in error (9)",
        "python -m etl_tasks status 9",
    )


def test_a_publish_that_gave_up() -> None:
    gave_up = owed(state="error", attempts=10, error_kind="CountMismatch", last_error="three keys fewer")
    level, words, command = said(report(ended(), owed=[gave_up]))
    assert (level, command) == ("failed", "python -m etl_tasks publish --partition 20250808")
    assert words.endswith("; 1 publish GAVE UP (CountMismatch)")


def test_a_difference_to_the_source_names_its_repair_in_business_time() -> None:
    level, words, command = said(
        report(ended(), differing=[DifferingWindow(WINDOW)]), replace(NORMAL, shift_min=-60, lag_s=7200)
    )
    assert level == "failed"
    assert words.endswith("; 1 window DIFFERS from the source")
    # The window is 10:00 to 11:00 of the source, an hour behind the business.
    assert command == (
        "python -m etl_tasks reconcile --since 2025-08-08T11:00:00Z --until 2025-08-08T12:00:00Z --repair"
    )


def test_what_was_found_by_content_is_looked_for_by_content() -> None:
    # Half an hour apart, and three days: the near ones are one command, the far one is another.
    near = Window(WINDOW.end + timedelta(minutes=30), WINDOW.end + timedelta(minutes=40))
    far = Window(WINDOW.start + timedelta(days=3), WINDOW.end + timedelta(days=3))
    found = [DifferingWindow(WINDOW), DifferingWindow(near, by_hash=True), DifferingWindow(far)]
    level, words, command = said(report(ended(), differing=found))
    assert level == "failed"
    assert words.endswith("; 3 windows DIFFER from the source in 2 places, a command each")
    assert command == (
        "python -m etl_tasks reconcile --since 2025-08-08T10:00:00Z --until 2025-08-08T11:40:00Z --hash --repair"
    )
    # Once that is repaired only the count of the far one is to be compared.
    assert said(report(ended(), differing=found[2:]))[2] == (
        "python -m etl_tasks reconcile --since 2025-08-11T10:00:00Z --until 2025-08-11T11:00:00Z --repair"
    )


def test_a_difference_that_nobody_can_mend_is_no_failure() -> None:
    beyond = DifferingWindow(WINDOW, by_hash=True, mendable=False)
    assert said(report(ended(), differing=[beyond])) == (
        "attention",
        "idle, the last work ended 8 min ago; 3 min behind; nothing failed; 1 window DIFFERS from the source by rows "
        "deleted there, or rows that do not fit: no repair mends that",
        "",
    )


def test_the_worst_names_the_command() -> None:
    missing = [UnloadedWindows(7, "RowRejected", 1, WINDOW.start, WINDOW.end, WINDOW, "row x")]
    silent = run(heartbeat_at=ago(42), progress_at=ago(42))
    found = report(
        silent, watermark=ago(41), work=OpenWork(due=1), unloaded=missing, differing=[DifferingWindow(WINDOW)]
    )
    assert headline_of(found, NORMAL).level is Level.STOPPED
    assert headline_of(found, NORMAL).command == "celery -A etl_tasks worker"
    assert headline_of(replace(found, work=OpenWork(running=1)), NORMAL).command == "python -m etl_tasks status 7"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "due, no worker has taken it yet"),
        ({"not_before": NOW + timedelta(minutes=5)}, "rests until 2025-08-08T12:05:00Z"),
        (
            {"not_before": NOW + timedelta(minutes=5), "attempts": 2, "last_error": "away"},
            "tried again 2025-08-08T12:05:00Z, tried 2 times",
        ),
        ({"state": "running", "lease_until": NOW + timedelta(seconds=9)}, "is being published now"),
        ({"state": "running", "lease_until": ago(1)}, "its worker is gone, the next one takes over"),
        ({"state": "error", "attempts": 10}, "gave up, tried 10 times"),
        ({"state": "idle"}, "not due yet: it is at the end of its run, or by PUBLISH_EVERY_*"),
    ],
)
def test_why_a_publish_is_owed(changes: dict[str, Any], words: str) -> None:
    assert why_owed(owed(**changes), NOW) == words
