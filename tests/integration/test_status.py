"""What ``status`` and ``run`` read of a real journal, and every number worked out by hand."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.reconciles import ReconcileJournal
from etl_tasks.adapters.journal.status import StatusJournal
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.publishing import StageMetric
from etl_tasks.core.records import NewRun, Reject, SliceResult
from etl_tasks.core.slicing import SlicingRules, plan_slices
from etl_tasks.core.status import DifferingWindow, Holes, RejectedRows, RunProgress, StatusReport, slices_by_state
from etl_tasks.core.windows import Window, halve
from etl_tasks.errors import CountMismatch, Overloaded, RowRejected, Unreachable, UsageError

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
CLEAN = "stg.status_test"
CADENCE = CadenceRules(every_minutes=0, every_slices=0, always_at_end=True, raw_ttl_s=5 * 86400)
RULES = SlicingRules(step_min=60, initial_slice_min=60)


def hour(number: int) -> Window:
    """An hour of the day, counted from 0."""
    return Window(MIDNIGHT + timedelta(hours=number), MIDNIGHT + timedelta(hours=number + 1))


class World:
    """A journal of the test's own."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn, self.schema = dsn, schema
        self.table = f"{schema}.inc_processing"
        self.journal = Journal(JournalConfig(dsn=dsn, table=self.table), CLEAN, CADENCE)
        self.journal.ensure()
        self.status = StatusJournal(self.journal.database)

    def plan(self, hours: int, process: str = "codes", start: datetime = MIDNIGHT) -> int:
        """A run of so many slices of one hour."""
        until = start + timedelta(hours=hours)
        plan = plan_slices(start, until, RULES, now=datetime(2030, 1, 1, tzinfo=UTC))
        new = NewRun(process, CLEAN, process.startswith("manual_"), True, 0, plan, until)
        return self.journal.runs.plan(new, 2).run_id

    def claim(self, run_id: int) -> list[int]:
        """Ids of its released slices that nobody has sent, in order of time."""
        return [each for ids in self.journal.slices.unsent(run_id).values() for each in ids]

    def load(self, slice_id: int, rows: int) -> None:
        """One slice, loaded."""
        claim = self.journal.slices.claim(slice_id, worker="w", lease_s=60, max_attempts=5)
        assert claim is not None
        self.journal.slices.finish(claim, SliceResult(rows, rows, rows, rows, 0, {"fetch": 1}))

    def report(self) -> StatusReport:
        return self.status.report(CLEAN, "codes")

    def progress(self, run_id: int) -> RunProgress:
        return self.status.progress(run_id)


@pytest.fixture
def world(stack_env: dict[str, str]) -> Iterator[World]:
    world = World(stack_env["PG_DSN"], f"test_status_{uuid.uuid4().hex[:12]}")
    try:
        yield world
    finally:
        world.journal.close()
        with psycopg2.connect(world.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {world.schema} CASCADE")
        connection.close()


def test_an_empty_journal(world: World) -> None:
    report = world.report()
    assert (report.processes, report.slices, report.owed, report.oldest_heartbeat) == ([], [], [], None)
    with pytest.raises(UsageError, match="no run 99"):
        world.progress(99)


def test_a_run_from_its_plan_to_its_end(world: World) -> None:
    run_id = world.plan(5)
    slices = world.journal.slices
    first, second, third, fourth, fifth = world.claim(run_id)
    assert (world.progress(run_id).done, world.progress(run_id).total) == (0, 5)
    assert not world.progress(run_id).at_work

    world.load(first, 100)
    splitting = slices.claim(second, worker="w", lease_s=60, max_attempts=5)
    assert splitting is not None
    assert world.progress(run_id).at_work
    slices.note_overload(splitting, Overloaded("too much"))
    slices.note_overload(splitting, Overloaded("too much again"))
    slices.split(splitting, halve(splitting.window), Overloaded("too much"), "rejected twice\nin detail")
    failing = slices.claim(third, worker="w", lease_s=60, max_attempts=5)
    assert failing is not None
    slices.record_rejects(failing, [Reject("('a',)", "st", "300", "no"), Reject("('a',)", "pt", "400", "no")])
    slices.fail(failing, RowRejected("row a"), "row a: st holds 300")
    waiting = slices.claim(fourth, worker="w", lease_s=60, max_attempts=5)
    assert waiting is not None
    slices.give_back(waiting, Unreachable("away"), "the source is away", delay_s=600, refund=True)
    running = slices.claim(fifth, worker="w", lease_s=60, max_attempts=5)
    assert running is not None

    report = world.report()
    (process,) = report.processes
    assert [run.run_id for run in process.runs] == [run_id]
    assert slices_by_state(report.slices, run_id) == {"planned": 3, "running": 1, "done": 1, "split": 1, "error": 1}
    by_kind = {(group.state, group.error_kind): group for group in report.slices}
    assert by_kind["split", "Overloaded"].overloads == 2
    assert by_kind["split", "Overloaded"].last_error == "rejected twice\nin detail"
    assert by_kind["split", "Overloaded"].window == splitting.window
    assert by_kind["error", "RowRejected"].last_error == "row a: st holds 300"
    assert by_kind["planned", "Unreachable"].slices == 1
    assert by_kind["planned", None].deepest == 1
    assert by_kind["done", None].rows == 100
    assert report.rejected == {run_id: 1}
    # Of the three planned: one waits, the two halves of the split are due.
    work = report.work
    assert (work.due, work.lost, work.waiting, work.held_back, work.running, work.workers) == (2, 0, 1, 0, 1, 1)
    assert work.next_try_at is not None
    assert timedelta(minutes=9) < work.next_try_at - report.now <= timedelta(minutes=10)
    assert work.oldest_start is not None
    (missing,) = report.unloaded
    assert (missing.run_id, missing.error_kind, missing.windows) == (run_id, "RowRejected", 1)
    assert (missing.window, missing.last_error) == (failing.window, "row a: st holds 300")
    # One row with two columns that do not fit.
    assert [(each.column, each.rows, each.row_key) for each in report.rejects] == [
        ("pt", 1, "('a',)"),
        ("st", 1, "('a',)"),
    ]
    assert report.last_progress is not None
    assert report.last_sign is not None
    assert report.now - timedelta(minutes=1) < report.last_progress <= report.last_sign <= report.now
    assert [owed.partition for owed in report.owed] == [20250808]
    assert report.oldest_heartbeat is not None
    assert abs(report.now - report.oldest_heartbeat) < timedelta(minutes=1)

    progress = world.progress(run_id)
    (partition,) = progress.partitions
    # Five and two halves; loaded, split and failed are done.
    assert (progress.total, progress.done) == (7, 3)
    assert (partition.rows, partition.splits, partition.running, partition.waiting) == (100, 1, 1, 1)
    assert progress.waiting is not None
    assert (progress.waiting.window, progress.waiting.error_kind) == (waiting.window, "Unreachable")
    assert progress.bides_its_time
    assert [each.first_line for each in world.status.failed_slices(run_id, 10)] == ["row a: st holds 300"]

    assert world.journal.runs.abort(run_id, "enough") == "error"
    ended = world.progress(run_id)
    assert (ended.run.status, ended.run.reason, ended.done, ended.total) == ("error", "enough", 7, 7)
    assert len(world.status.failed_slices(run_id, 10)) == 5
    assert len(world.status.failed_slices(run_id, 2)) == 2


def test_publishes_owed_under_way_failed_and_done(world: World) -> None:
    run_id = world.plan(2)
    for slice_id in world.claim(run_id):
        world.load(slice_id, 10)
    publishes = world.journal.publishes
    (owed,) = world.report().owed
    assert (owed.partition, owed.state, owed.generations) == (20250808, "due", 2)

    claim = publishes.claim(CLEAN, 20250808, dedup_process="codes:dedup", worker="w", lease_s=60, max_attempts=10)
    assert claim is not None
    publishes.record_stage(claim, StageMetric("drop_buf", 20250808, 5))
    assert world.progress(run_id).publishing
    assert [process.process for process in world.report().processes] == ["codes", "codes:dedup"]
    assert [run.is_publish for run in world.report().active] == [False, True]
    publishes.give_back(claim, CountMismatch("three keys fewer"), delay_s=0, refund=False)
    (owed,) = world.report().owed
    assert (owed.state, owed.error_kind, owed.last_error) == ("due", "CountMismatch", "three keys fewer")

    claim = publishes.claim(CLEAN, 20250808, dedup_process="codes:dedup", worker="w", lease_s=60, max_attempts=10)
    assert claim is not None
    publishes.finish(claim, duration_ms=1234, pinned=["a:1"], details={"rows": 20})
    assert world.report().owed == []
    assert world.journal.runs.finalize(run_id) == "ok"
    (partition,) = world.progress(run_id).partitions
    assert (partition.published, partition.publish_ms, partition.clean_rows) == (True, 1234, 20)
    assert world.report().processes[0].watermark == MIDNIGHT + timedelta(hours=2)


def test_settled_partitions_are_not_counted_again(world: World) -> None:
    run_id = world.plan(2, start=MIDNIGHT - timedelta(hours=1))
    for slice_id in world.claim(run_id):
        world.load(slice_id, 7)
    assert [each.rows for each in world.progress(run_id).partitions] == [7, 7]
    assert [each.rows for each in world.status.progress(run_id, {20250807}).partitions] == [0, 7]


def test_one_run_whole(world: World) -> None:
    run_id = world.plan(4)
    slices = world.journal.slices
    first, second, third, fourth = world.claim(run_id)
    world.load(first, 100)

    def split(slice_id: int, times: int) -> None:
        """Split a slice, its first half again, and so on; load all that comes of it."""
        claim = slices.claim(slice_id, worker="w", lease_s=60, max_attempts=5)
        assert claim is not None
        halves = slices.split(claim, halve(claim.window), Overloaded("x"), f"refused at depth {claim.depth}").children
        if times > 1:
            split(halves[0], times - 1)
        else:
            world.load(halves[0], 10)
        world.load(halves[1], 10)

    split(second, 3)
    split(third, 1)
    before = world.status.run_report(run_id)
    failing = slices.claim(fourth, worker="w2", lease_s=60, max_attempts=5)
    assert failing is not None
    slices.record_rejects(
        failing,
        [
            Reject("('a',)", "st", "300", "300 is outside 0 .. 255 of UInt8"),
            Reject("('b',)", "st", "-1", "-1 is outside 0 .. 255 of UInt8"),
            Reject("('b',)", "ch", "[1e9]", "element 3: 1e+09 is outside 0 .. 255 of UInt8"),
        ],
    )
    working = world.status.run_report(run_id)
    slices.fail(failing, RowRejected("row a"), "row a: st holds 300")
    report = world.status.run_report(run_id)

    assert (report.clean_table, report.run.run_id, report.failed_slices, report.unloaded) == (CLEAN, run_id, 1, 1)
    assert slices_by_state(report.groups, run_id) == {"planned": 0, "running": 0, "done": 7, "split": 4, "error": 1}
    # Three splits below one another make six parts, of which four are loaded.
    assert [
        (each.window, each.descendants, each.deepest, each.done, each.failed, each.open, each.last_error)
        for each in report.most_split
    ] == [
        (hour(1), 6, 3, 4, 0, 0, "refused at depth 0"),
        (hour(2), 2, 1, 2, 0, 0, "refused at depth 0"),
    ]
    assert report.rejected_rows == 2
    assert [(each.column, each.reason, each.rows) for each in report.rejects] == [
        ("st", "N is outside 0 .. 255 of UInt8", 2),
        ("ch", "element N: N is outside 0 .. 255 of UInt8", 1),
    ]
    assert (before.pace.open_slices, before.pace.open_window_s) == (1, 3600.0)
    # 100 rows in an hour of the source, six halves of ten in two hours; all of it in these last minutes.
    pace = report.pace
    assert (pace.done, pace.rows, pace.recent_done, pace.recent_rows) == (7, 160, 7, 160)
    assert (pace.recent_window_s, pace.open_slices, pace.open_window_s) == (3 * 3600.0, 0, 0.0)
    assert len(report.slowest) == 10
    assert [each.took_s for each in report.slowest] == sorted((each.took_s for each in report.slowest), reverse=True)
    assert {each.state for each in report.slowest} <= {"done", "split", "error"}
    (under_way,) = [each for each in working.slowest if each.state == "running"]
    assert (under_way.window, under_way.worker, under_way.attempts) == (hour(3), "w2", 1)
    assert (working.work.running, report.work.running) == (1, 0)
    with pytest.raises(UsageError, match="no run 99"):
        world.status.run_report(99)


def test_what_another_run_has_loaded_is_not_missing_any_more(world: World) -> None:
    first = world.plan(2)
    for slice_id in world.claim(first):
        claim = world.journal.slices.claim(slice_id, worker="w", lease_s=60, max_attempts=5)
        assert claim is not None
        world.journal.slices.fail(claim, RowRejected("x"), f"no row of {claim.window}")
    assert world.journal.runs.abort(first, "enough") == "error"
    assert [(each.run_id, each.windows) for each in world.report().unloaded] == [(first, 2)]

    second = world.plan(2, process="manual_codes")
    loaded, failed = world.claim(second)
    world.load(loaded, 10)
    claim = world.journal.slices.claim(failed, worker="w", lease_s=60, max_attempts=5)
    assert claim is not None
    world.journal.slices.fail(claim, Unreachable("x"), "away")
    # What both failed on is told once, by the later one.
    (missing,) = world.report().unloaded
    assert (missing.run_id, missing.windows, missing.window) == (second, 1, hour(1))
    assert (world.status.run_report(first).unloaded, world.status.run_report(first).failed_slices) == (1, 2)


def test_a_window_that_was_loaded_and_could_not_be_read_again_is_missing_too(world: World) -> None:
    first = world.plan(1)
    world.load(*world.claim(first), 10)
    again = world.plan(1, process="manual_codes")
    (reread,) = world.claim(again)
    claim = world.journal.slices.claim(reread, worker="w", lease_s=60, max_attempts=5)
    assert claim is not None
    world.journal.slices.fail(claim, RowRejected("x"), "what has changed does not fit")

    # The older values are in the coverage; that the newer ones are not loaded is told all the same.
    assert [(each.run_id, each.windows, each.error_kind) for each in world.report().unloaded] == [
        (again, 1, "RowRejected")
    ]

    third = world.plan(1, process="codes_by_hand")
    world.load(*world.claim(third), 10)
    assert world.report().unloaded == []


def test_reconciles_and_what_still_differs(world: World) -> None:
    def reconciled(
        start: int,
        end: int,
        *differing: int,
        by_hash: bool = True,
        status: str | None = None,
        compared: Sequence[int] = (),
        beyond: Sequence[int] = (),
    ) -> None:
        """A comparison of some hours, some of which differ; ``compared``: of these alone, and of none between."""

        def ranges(numbers: Sequence[int]) -> str:
            return ", ".join(f"tstzrange('{hour(each).start}', '{hour(each).end}')" for each in numbers)

        with psycopg2.connect(world.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {world.table}_reconciles (clean_table, since, until, by_hash, status, ended_at, windows, "
                "differing, compared, missing, details) VALUES (%s, %s, %s, %s, %s, clock_timestamp(), %s, "
                f"tstzmultirange({ranges(differing)}), tstzmultirange({ranges(compared)}), %s, %s)",
                (
                    CLEAN,
                    hour(start).start,
                    hour(end).start,
                    by_hash,
                    status or ("different" if differing else "exact"),
                    end - start,
                    len(differing),
                    json.dumps({"beyond": [[str(hour(each).start), str(hour(each).end)] for each in beyond]}),
                ),
            )
        connection.close()

    def differing() -> list[DifferingWindow]:
        return [*world.report().differing]

    assert (list(world.report().reconciles), differing()) == ([], [])
    reconciled(0, 10, 2, 5)
    reconciled(12, 14)
    report = world.report()
    assert [(each.status, each.windows) for each in report.reconciles] == [("exact", 2), ("different", 10)]
    assert [*report.reconciles[1].differing] == [hour(2), hour(5)]
    assert differing() == [DifferingWindow(hour(2), by_hash=True), DifferingWindow(hour(5), by_hash=True)]
    # The fifth hour was repaired. To count the second again does not settle what was found by its content.
    reconciled(5, 6)
    reconciled(0, 10, by_hash=False)
    # One that ended in error has compared nothing.
    reconciled(0, 10, status="error")
    assert differing() == [DifferingWindow(hour(2), by_hash=True)]
    # A look at what was repaired compares the first and the last of its hours, and none between.
    reconciled(0, 10, compared=[0, 9])
    assert differing() == [DifferingWindow(hour(2), by_hash=True)]
    # By count an hour differs where the content of another was found to differ, and one by rows only in CLEAN.
    reconciled(3, 8, 4, 7, by_hash=False, beyond=[7])
    assert differing() == [
        DifferingWindow(hour(2), by_hash=True),
        DifferingWindow(hour(4)),
        DifferingWindow(hour(7), mendable=False),
    ]
    # What is exact since need not be looked at again by content.
    reconciled(3, 5, by_hash=False)
    # Hundreds that looked elsewhere hide nothing.
    execute(
        world,
        "INSERT INTO {}_reconciles (clean_table, since, until, by_hash, status, ended_at) "
        "SELECT %s, %s, %s, true, 'exact', clock_timestamp() FROM generate_series(1, 220)",
        CLEAN,
        hour(12).start,
        hour(14).start,
    )
    assert differing() == [DifferingWindow(hour(2), by_hash=True), DifferingWindow(hour(7), mendable=False)]
    # An old hole that was found by content is mendable until it is looked at by content again.
    reconciled(2, 3, 2, by_hash=False, beyond=[2])
    assert differing()[0] == DifferingWindow(hour(2), by_hash=True)
    reconciled(2, 3, 2, beyond=[2])
    assert differing()[0] == DifferingWindow(hour(2), by_hash=True, mendable=False)
    reconciled(0, 10)
    assert differing() == []
    assert world.status.report("stg.another", "codes").reconciles == []


def execute(world: World, sql: str, *parameters: object) -> None:
    """A statement behind the journal's back, in which {} is its main table."""
    with psycopg2.connect(world.dsn) as connection, connection.cursor() as cursor:
        cursor.execute(sql.format(world.table), parameters)
    connection.close()


def publish(world: World, partition: int) -> None:
    claim = world.journal.publishes.claim(
        CLEAN, partition, dedup_process="codes:dedup", worker="w", lease_s=60, max_attempts=10
    )
    assert claim is not None
    world.journal.publishes.finish(claim, duration_ms=1, pinned=[], details={})


def fail(world: World, slice_id: int) -> None:
    claim = world.journal.slices.claim(slice_id, worker="w", lease_s=60, max_attempts=5)
    assert claim is not None
    world.journal.slices.fail(claim, RowRejected("x"), "row x")


def test_a_cancelled_run_is_told_apart_and_no_hole_of_a_publish(world: World) -> None:
    run_id = world.plan(4)
    first, second, *_ = world.claim(run_id)
    world.load(first, 10)
    fail(world, second)
    assert world.journal.runs.abort(run_id, "cancelled by ann") == "error"
    found = {(each.error_kind, each.cancelled): each.windows for each in world.report().unloaded}
    assert found == {("RowRejected", False): 1, ("RunEnded", True): 2}
    publish(world, 20250808)
    assert world.report().incomplete == [20250808], "the window that failed before it was cancelled"

    # The failed one and one of the others are loaded; what is left was given up by whoever cancelled.
    again = world.plan(3, process="manual_codes")
    for slice_id in world.claim(again):
        world.load(slice_id, 10)
    publish(world, 20250808)
    report = world.report()
    assert [(each.windows, each.cancelled, each.window) for each in report.unloaded] == [(1, True, hour(3))]
    assert (report.incomplete, report.holes) == ([], None)


def test_what_an_active_run_is_to_load_is_not_missing(world: World) -> None:
    run_id = world.plan(4)
    first, second, third, fourth = world.claim(run_id)
    world.load(first, 10)
    fail(world, second)
    fail(world, third)
    world.load(fourth, 10)
    publish(world, 20250808)
    assert world.journal.runs.finalize(run_id) == "error"
    assert [(each.windows, each.window) for each in world.report().unloaded] == [(2, hour(1))]
    assert (world.report().incomplete, world.report().holes) == ([20250808], None)

    resumed = world.plan(1, process="manual_codes", start=hour(1).start)
    report = world.report()
    assert [(each.windows, each.window) for each in report.unloaded] == [(1, hour(2))]
    assert report.incomplete == [], "its publish is still to come"
    # Of the run itself it is missing none the less.
    assert world.status.run_report(run_id).unloaded == 2
    (slice_id,) = world.claim(resumed)
    fail(world, slice_id)
    assert {each.run_id: each.windows for each in world.report().unloaded} == {run_id: 1, resumed: 1}


def test_a_hole_outlives_the_retention_of_runs(world: World) -> None:
    failed, again = world.plan(3), 0
    first, second, third = world.claim(failed)
    world.load(first, 10)
    fail(world, second)
    world.load(third, 10)
    publish(world, 20250808)
    assert world.journal.runs.finalize(failed) == "error"
    for _ in range(2):
        again = world.plan(1, process="manual_codes", start=hour(1).start)
        (slice_id,) = world.claim(again)
        fail(world, slice_id)
        assert world.journal.runs.finalize(again) == "error"
    execute(world, "UPDATE {} SET ts_end = ts_end - interval '9 d' WHERE ts_end IS NOT NULL")
    # Of the two that failed on it again the first goes; the run before them bears the watermark.
    assert world.journal.sweeps.prune(7) == 1
    assert [(each.run_id, each.windows) for each in world.report().unloaded] == [(again, 1)]
    # The next publish knows of the hole.
    loaded = world.plan(1, process="codes", start=hour(5).start)
    (slice_id,) = world.claim(loaded)
    world.load(slice_id, 10)
    publish(world, 20250808)
    assert world.journal.runs.finalize(loaded) == "ok"
    assert world.report().incomplete == [20250808]


def test_holes_come_from_the_coverage(world: World) -> None:
    for start in (2, 4, 7):
        run_id = world.plan(1, process="manual_codes", start=hour(start).start)
        (slice_id,) = world.claim(run_id)
        world.load(slice_id, 10)
        publish(world, 20250808)
        assert world.journal.runs.finalize(run_id) == "ok"
    # Without a schedule up to the last hour loaded.
    assert world.report().holes == Holes(2, 3 * 3600.0, hour(3).start, hour(6).end)
    # A rebuild has lost what was published first.
    lost = "UPDATE {}_partitions SET loaded = loaded - tstzmultirange(tstzrange(%s, %s))"
    execute(world, lost, hour(2).start, hour(2).end)
    assert world.report().holes == Holes(2, 4 * 3600.0, hour(2).start, hour(6).end)
    # What is being loaded is none; nor what the schedule has still before it.
    active = world.plan(2, process="manual_codes", start=hour(2).start)
    assert world.report().holes == Holes(1, 2 * 3600.0, hour(5).start, hour(6).end)
    execute(
        world,
        "INSERT INTO {} (process_name, status, ts_end, clean_table, watermark) "
        "VALUES ('codes', 'ok', clock_timestamp(), %s, %s)",
        CLEAN,
        hour(5).end,
    )
    assert world.report().holes == Holes(1, 3600.0, hour(5).start, hour(5).end)
    assert world.status.report(CLEAN, "codes", -60).holes is None, "the watermark is business time"
    assert world.journal.runs.abort(active, "cancelled") == "error"
    assert world.report().holes == Holes(1, 3600.0, hour(5).start, hour(5).end), "told by the run that was cancelled"


def test_rows_that_were_rejected_of_loaded_windows(world: World) -> None:
    run_id = world.plan(2)
    loaded, failed = world.claim(run_id)
    for slice_id in (loaded, failed):
        claim = world.journal.slices.claim(slice_id, worker="w", lease_s=60, max_attempts=5)
        assert claim is not None
        rejects = [Reject(f"('{slice_id}',)", "st", "300", "no"), Reject(f"('{slice_id}',)", "pt", "400", "no")]
        world.journal.slices.record_rejects(claim, rejects)
        if slice_id == loaded:
            world.journal.slices.finish(claim, SliceResult(9, 9, 9, 9, 1, {}))
        else:
            world.journal.slices.fail(claim, RowRejected("x"), "too many")
    # Two columns of one row; the window that failed is told as such.
    assert world.report().rejected_rows == RejectedRows(1, run_id)


def test_a_reconcile_whose_process_was_killed(world: World) -> None:
    reconciles = ReconcileJournal(world.journal.database, CLEAN)
    with reconciles.try_lock() as acquired:
        assert acquired
        reconciles.begin(hour(0), by_hash=True, repairs=None, repair_run_id=None, details={})
        (running,) = world.report().reconciles
        assert (running.status, running.died) == ("running", False)
    # PostgreSQL frees a session's locks a moment after its client has gone.
    deadline = time.monotonic() + 30
    while not (left := world.report().reconciles[0]).died and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (left.status, left.died) == ("running", True)


def test_rows_without_a_table_count_only_for_our_own_lanes(world: World) -> None:
    world.plan(1)
    for name in ("another_job", "manual_codes", "codes:dedup", "manual_codes:dedup"):
        execute(world, "INSERT INTO {} (process_name, status, ts_end) VALUES (%s, 'ok', clock_timestamp())", name)
    names = {process.process for process in world.report().processes}
    assert names == {"codes", "manual_codes", "codes:dedup", "manual_codes:dedup"}


def test_other_tables_are_left_out(world: World) -> None:
    world.plan(1)
    world.plan(1, process="manual_codes")
    assert [process.process for process in world.report().processes] == ["codes", "manual_codes"]
    assert world.status.report("stg.another", "codes").processes == []


def test_the_columns_of_the_journal(world: World) -> None:
    columns = world.status.columns()
    assert set(columns) == {
        world.table + suffix
        for suffix in (
            "",
            "_slices",
            "_run_partitions",
            "_partitions",
            "_rejects",
            "_fences",
            "_reconciles",
            "_totals",
            "_read_limits",
            "_read_turns",
        )
    }
    assert columns[world.table + "_fences"] == 3
    nowhere = Journal(JournalConfig(dsn=world.dsn, table="nowhere.inc_processing"), CLEAN, CADENCE)
    try:
        assert set(StatusJournal(nowhere.database).columns().values()) == {None}
    finally:
        nowhere.close()
