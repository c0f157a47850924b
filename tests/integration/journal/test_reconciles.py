"""Reconciles in a real journal: asked again before they accuse, kept whatever comes, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.core.reconcile_verdict import Cause
from etl_tasks.core.records import PublishProgress
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.windows import Window
from etl_tasks.errors import TransientError, Unreachable
from etl_tasks.pipeline.reconcile import ReconcileContext
from etl_tasks.pipeline.reconciliation import ReconcileRequest, ReconciliationContext, alone, reconcile
from tests.integration.journal.world import AT_END, CLEAN, DAY, MANUAL_LANE, World, hours
from tests.unit.test_reconciling import Row, Source, Target, clean, context, row

pytestmark = pytest.mark.integration

# Rows of the source, ten seconds apart from noon on; windows of half an hour.
EARLY, LATE = hours(12, 12.5), hours(12.5, 13)
SLICES = [PlannedSlice(EARLY, DAY, 0), PlannedSlice(LATE, DAY, 1)]
ROWS = [row(1), row(2), row(200)]


class Published(Target):
    """CLEAN that gets ``rows`` after it was asked ``questions`` times."""

    def __init__(self, before: Sequence[Row], rows: Sequence[Row], questions: int) -> None:
        super().__init__(clean(*before), rows)
        self._after = clean(*rows)
        self._left = questions

    def rows(self, table: str, window: Window, columns: Sequence[str]) -> Iterator[Row]:
        if table == "clean":
            self._left -= 1
            if self._left < 0:
                self.tables["clean"] = self._after
        return super().rows(table, window, columns)


def comparing(world: World, sides: ReconcileContext, **more: Any) -> ReconciliationContext:
    return ReconciliationContext(
        journal=world.journal, open_sides=lambda: nullcontext(sides), clean_table=CLEAN, raw_ttl_s=3600.0, worker="t",
        **more,
    )  # fmt: skip


def reconciles(world: World) -> list[Any]:
    return world.rows("SELECT * FROM public.inc_processing_reconciles ORDER BY id")


def windows_in(world: World, column: str) -> list[Window]:
    rows = world.rows(
        f"SELECT lower(d) AS f, upper(d) AS t FROM public.inc_processing_reconciles, unnest({column}) AS d ORDER BY 1"
    )
    return [Window(each.f, each.t) for each in rows]


def differing(world: World) -> list[Window]:
    return windows_in(world, "differing")


def compared(world: World) -> list[Window]:
    return windows_in(world, "compared")


@pytest.mark.parametrize("by_hash", [False, True])
def test_a_publish_in_between_is_no_difference(world: World, by_hash: bool) -> None:
    world.load_publish_end([EARLY, LATE])
    # Both windows are asked once; the early one lacks a row then.
    target = Published(before=[ROWS[0], ROWS[2]], rows=ROWS, questions=2)

    verdict = reconcile(ReconcileRequest(SLICES, by_hash), comparing(world, context(Source(ROWS), target)))

    assert (verdict.exact, verdict.settled) == (True, 1)
    assert [each.asked_again for each in verdict.findings] == [True, False]
    (kept,) = reconciles(world)
    assert (kept.status, kept.windows, kept.by_hash, kept.source_rows, kept.clean_rows) == ("exact", 2, by_hash, 3, 3)
    assert (kept.details["asked_again"], kept.details["settled"], kept.details["causes"]) == (1, 1, {})
    assert (kept.missing, kept.changed) == ((0, 0) if by_hash else (None, None))
    assert differing(world) == []


def test_what_still_differs_is_kept_with_its_cause(world: World) -> None:
    run_id = world.plan([EARLY, LATE]).run_id
    world.load_all(run_id)  # and not published

    verdict = reconcile(ReconcileRequest(SLICES, True), comparing(world, context(Source(ROWS), Target(clean(ROWS[2])))))

    assert [each.cause for each in verdict.findings] == [Cause.UNPUBLISHED, Cause.EQUAL]
    (kept,) = reconciles(world)
    assert (kept.status, kept.missing, kept.details["causes"]) == ("different", 2, {"unpublished": 1})
    assert (kept.since, kept.until) == (EARLY.start, LATE.end)
    assert differing(world) == [EARLY]
    assert compared(world) == [hours(12, 13)]
    assert kept.details["beyond"] == []


def test_what_no_repair_would_mend_is_kept_as_such(world: World) -> None:
    world.load_publish_end([EARLY, LATE])
    # The source has lost the two rows of the early window since.
    gone = [row for row in ROWS if row is ROWS[2]]
    verdict = reconcile(ReconcileRequest(SLICES, True), comparing(world, context(Source(gone), Target(clean(*ROWS)))))

    assert [each.cause for each in verdict.findings] == [Cause.EXTRA, Cause.EQUAL]
    (kept,) = reconciles(world)
    assert kept.details["beyond"] == [[EARLY.start.isoformat(), EARLY.end.isoformat()]]


def test_a_reconcile_that_cannot_end_says_how_far_it_came(world: World) -> None:
    source = Source(ROWS)

    def over() -> None:
        if len(source.asked) == 1:
            raise TransientError("the time is over")

    with pytest.raises(TransientError, match="the time is over"):
        reconcile(ReconcileRequest(SLICES, False), comparing(world, context(source, Target([])), check=over))

    (kept,) = reconciles(world)
    assert (kept.status, kept.windows, kept.source_rows) == ("error", 1, 2)
    assert kept.details["error"] == "TransientError: the time is over"
    assert kept.details["compared_until"] == EARLY.end.isoformat()
    assert (differing(world), compared(world)) == ([EARLY], [EARLY])
    assert kept.ended_at is not None


def test_what_lies_between_the_windows_was_not_compared(world: World) -> None:
    apart = [SLICES[0], PlannedSlice(hours(20, 20.5), DAY, 1)]
    reconcile(ReconcileRequest(apart, True), comparing(world, context(Source([]), Target([]))))
    (kept,) = reconciles(world)
    assert (kept.status, kept.since, kept.until) == ("exact", EARLY.start, hours(20, 20.5).end)
    assert compared(world) == [EARLY, hours(20, 20.5)]


def test_a_process_that_is_killed_leaves_what_it_has_compared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_tasks.pipeline.reconciliation.NOTE_EVERY_S", 0.0)
    source, seen = Source(ROWS), []

    def look() -> None:
        if len(source.asked) == 1:
            seen.append((reconciles(world)[0], compared(world), differing(world)))

    reconcile(ReconcileRequest(SLICES, True), comparing(world, context(source, Target(clean(ROWS[2]))), check=look))

    kept, so_far, so_far_different = seen[0]
    assert (kept.status, kept.windows, kept.details["compared_until"]) == ("running", 1, EARLY.end.isoformat())
    assert (so_far, so_far_different) == ([EARLY], [EARLY])


def test_a_service_that_is_away_is_kept(world: World) -> None:
    @contextmanager
    def away() -> Iterator[ReconcileContext]:
        raise Unreachable("nobody at home")
        yield

    asked = comparing(world, context(Source([]), Target([])))
    with pytest.raises(Unreachable):
        reconcile(ReconcileRequest(SLICES, False), replaced(asked, away))
    (kept,) = reconciles(world)
    assert (kept.status, kept.windows, kept.details["error"]) == ("error", 0, "Unreachable: nobody at home")
    assert compared(world) == []


def replaced(asked: ReconciliationContext, open_sides: Callable[[], Any]) -> ReconciliationContext:
    return ReconciliationContext(asked.journal, open_sides, asked.clean_table, asked.raw_ttl_s, asked.worker)


def test_only_one_at_a_time_and_the_next_closes_what_a_dead_one_left(world: World) -> None:
    asked = comparing(world, context(Source([]), Target([])))
    left = world.journal.reconciles.begin(EARLY, by_hash=False, repairs=None, repair_run_id=None, details={"a": 1})
    other = world.another()
    with other.reconciles.try_lock() as mine:
        assert mine
        with (
            pytest.raises(TransientError, match=f"another reconcile of {CLEAN} is under way, number {left}"),
            alone(asked),
        ):
            raise AssertionError("never alone")
    other.close()
    world.await_unlocked()
    assert reconciles(world)[0].status == "running", "only whoever is alone knows that it is dead"

    with alone(asked):
        (dead,) = reconciles(world)
    assert (dead.status, dead.details) == ("error", {"a": 1, "error": "ended without a word: its process died"})
    world.await_unlocked()
    with alone(asked):
        pass  # the lock is free again
    world.await_unlocked()

    # Reconciles of another table are none of its business.
    config = world.journal.config
    elsewhere = Journal(JournalConfig(config.dsn, config.table), "stg.other", AT_END)
    elsewhere.reconciles.begin(EARLY, by_hash=False, repairs=None, repair_run_id=None, details={})
    with alone(asked):
        assert reconciles(world)[-1].status == "running"
    elsewhere.close()


def test_owed_windows_are_those_loaded_since_the_last_publish(world: World) -> None:
    world.load_publish_end([EARLY])
    again = world.plan([LATE], process=MANUAL_LANE, manual=True).run_id
    world.load_all(again)
    coverage = world.journal.reconciles.coverage(hours(12, 14))
    assert (list(coverage.loaded), list(coverage.owed)) == ([Window(EARLY.start, LATE.end)], [LATE])
    assert world.journal.reconciles.coverage(hours(13, 14)).owed == []
    world.publish()
    assert world.journal.reconciles.coverage(hours(12, 14)).owed == []


def test_a_publish_in_error_or_put_off_becomes_due_now_and_none_that_is_not_owed(world: World) -> None:
    run_id = world.plan([EARLY, hours(30, 31)]).run_id
    world.load_all(run_id)
    world.publish(DAY + 1)
    world.rows(
        "UPDATE public.inc_processing_partitions SET publish_state = 'error', spent = 3, last_error = 'x' "
        "WHERE partition = %s RETURNING 1",
        DAY,
    )

    states = world.journal.reconciles.owe_publishes([DAY, DAY + 1])

    assert states == [
        PublishProgress(DAY, 1, 0, "due", False, "x"),
        PublishProgress(DAY + 1, 1, 1, "idle", False, None),
    ]
    assert world.partition_row().spent == 0


def test_a_repair_is_looked_at_once_when_its_run_has_ended(world: World) -> None:
    journal = world.journal.reconciles
    assert journal.repair_to_check() is None
    verdict = reconcile(ReconcileRequest(SLICES, True), comparing(world, context(Source(ROWS), Target(clean(ROWS[2])))))
    assert journal.repair_to_check() is None, "nothing was begun"
    run_id = world.plan([EARLY], process=MANUAL_LANE, manual=True).run_id
    journal.note(verdict.reconcile_id, {"repair": {"run": run_id, "publishes": []}})
    assert journal.repair_to_check() is None, "its run has not ended"
    world.load_all(run_id)
    world.publish()
    assert world.journal.runs.finalize(run_id) == "ok"

    found = journal.repair_to_check()

    assert found is not None
    assert (found.reconcile_id, found.run_id, found.by_hash) == (verdict.reconcile_id, run_id, True)
    assert list(found.windows) == [EARLY]
    assert journal.unmended() == []
    again = ReconcileRequest(SLICES[:1], True, repairs=found.reconcile_id, repair_run_id=run_id)
    reconcile(again, comparing(world, context(Source(ROWS), Target([]))))
    assert journal.repair_to_check() is None
    assert journal.unmended() == [EARLY], "for a day"
    world.rows("UPDATE public.inc_processing_reconciles SET started_at = started_at - interval '25 hours' RETURNING 1")
    assert journal.unmended() == []


def test_a_look_at_a_repair_that_failed_is_none(world: World) -> None:
    journal = world.journal.reconciles
    verdict = reconcile(ReconcileRequest(SLICES, True), comparing(world, context(Source(ROWS), Target(clean(ROWS[2])))))
    journal.note(verdict.reconcile_id, {"repair": {"run": None, "publishes": [20250808]}})
    for failures in range(3):
        assert journal.repair_to_check() is not None, failures
        looking = journal.begin(EARLY, by_hash=True, repairs=verdict.reconcile_id, repair_run_id=None, details={})
        journal.end(looking, "error", [], {"error": "the source is away"}, by_hash=True)
    assert journal.repair_to_check() is None, "enough"
