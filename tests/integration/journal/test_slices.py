"""A slice from claim to its end: guards, leases, fences, splits, refunds, poison, rejects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from etl_tasks.adapters.journal import Journal
from etl_tasks.core.records import Reject, SliceClaim
from etl_tasks.core.windows import halve
from etl_tasks.errors import LostOwnership, Overloaded, TransientError, Unreachable
from tests.integration.journal.world import (
    AT_END,
    ATTEMPTS,
    CLEAN,
    DAY,
    LANE,
    MANUAL_LANE,
    World,
    at,
    even_windows,
    hours,
    result,
)

pytestmark = pytest.mark.integration


def everything(world: World) -> list[Any]:
    """All that a transition could change."""
    return [
        world.rows(f"SELECT * FROM public.inc_processing{name} ORDER BY 1, 2, 3")
        for name in ("", "_slices", "_run_partitions", "_partitions")
    ]


def test_a_claim_is_for_one_and_marks_the_run_as_running(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    slice_id = world.slices(run_id)[0]
    claim = world.must_claim(slice_id)
    assert (claim.attempt, claim.spent, claim.window, claim.partition) == (1, 1, hours(0, 12), DAY)
    assert world.run_row(run_id).status == "running"
    assert world.claim(slice_id) is None, "a duplicate message"
    assert world.slice_row(slice_id).attempt == 1


def test_a_claim_needs_the_moment_the_run_and_attempts_left(world: World) -> None:
    run_id = world.plan(even_windows(4)).run_id
    later, spent, first, _ = world.slices(run_id)
    world.rows(
        "UPDATE public.inc_processing_slices SET not_before = clock_timestamp() + interval '1 h' WHERE id = %s", later
    )
    world.rows("UPDATE public.inc_processing_slices SET spent = %s WHERE id = %s", ATTEMPTS, spent)
    assert world.claim(later) is None
    assert world.claim(spent) is None
    assert world.claim(10**9) is None, "no such slice"
    assert world.journal.runs.abort(run_id, "cancelled") == "error"
    assert world.claim(first) is None


def test_a_worker_of_another_clean_table_claims_nothing_of_ours(world: World) -> None:
    """Two tables may share a journal, and their workers by mistake a Redis."""
    run_id = world.plan([hours(0, 1)]).run_id
    (slice_id,) = world.slices(run_id)
    stranger = Journal(world.config, "stg.another", AT_END)
    try:
        assert stranger.slices.claim(slice_id, worker="w", lease_s=30, max_attempts=5) is None
    finally:
        stranger.close()
    assert world.run_row(run_id).status == "planned"
    # It is offered again in a moment, to whoever takes it then.
    (left,) = world.rows("SELECT state, attempt, enqueued_at, not_before FROM public.inc_processing_slices")
    assert (left.state, left.attempt, left.enqueued_at) == ("planned", 0, None)
    assert left.not_before is not None
    world.rows("UPDATE public.inc_processing_slices SET not_before = NULL")
    assert world.must_claim(slice_id).clean_table == CLEAN


def test_a_finished_slice_is_claimed_by_nobody(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    slice_id = world.slices(run_id)[0]
    world.load(slice_id)
    assert world.claim(slice_id) is None
    row = world.slice_row(slice_id)
    assert (row.state, row.rows_inserted, row.generation, row.lease_until) == ("done", 10, 1, None)


def test_an_expired_lease_is_taken_over_and_the_first_holder_changes_nothing(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    slice_id = world.slices(run_id)[0]
    zombie = world.must_claim(slice_id)
    assert world.claim(slice_id) is None
    assert world.journal.slices.renew(zombie, 60)
    world.expire_leases()
    heir = world.must_claim(slice_id, world.another())
    assert (heir.attempt, heir.spent) == (2, 2)
    before = everything(world)
    slices = world.journal.slices
    assert not slices.renew(zombie, 60)
    works: list[Callable[[], Any]] = [
        lambda: slices.finish(zombie, result(999)),
        lambda: slices.split(zombie, halve(zombie.window), Overloaded("busy"), "split"),
        lambda: slices.fail(zombie, ValueError("no"), "failed"),
        lambda: slices.give_back(zombie, Unreachable("gone"), "gone", delay_s=1, refund=True),
        lambda: slices.note_overload(zombie, Overloaded("busy")),
    ]
    for work in works:
        with pytest.raises(LostOwnership):
            work()
    assert everything(world) == before, "LostOwnership rolls everything back"
    assert slices.finish(heir, result()).open_slices == 1


def test_an_ended_run_takes_its_slices_from_their_holders(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    claim = world.must_claim(world.slices(run_id)[0])
    world.journal.runs.abort(run_id, "cancelled by hand")
    before = everything(world)
    slices = world.journal.slices
    assert not slices.renew(claim, 60)
    for work in (
        lambda: slices.finish(claim, result()),
        lambda: slices.split(claim, halve(claim.window), Overloaded("busy"), "split"),
        lambda: slices.fail(claim, ValueError("no"), "failed"),
        lambda: slices.give_back(claim, Unreachable("gone"), "gone", delay_s=1, refund=True),
    ):
        with pytest.raises(LostOwnership):
            work()
    assert everything(world) == before
    assert world.slices(run_id, "error") == world.slices(run_id)


def test_two_lanes_do_not_read_the_same_instants_at_once(world: World) -> None:
    mine = world.slices(world.plan([hours(0, 2), hours(2, 4)]).run_id)
    other = world.slices(world.plan([hours(1, 2), hours(4, 5)], process=MANUAL_LANE, manual=True).run_id)
    holder = world.must_claim(mine[0])
    assert world.claim(other[0]) is None
    deferred = world.slice_row(other[0])
    assert (deferred.state, deferred.attempt, deferred.spent, deferred.enqueued_at) == ("planned", 0, 0, None)
    assert deferred.not_before is not None, "offered again soon, without spending an attempt"
    world.must_claim(mine[1])  # Touching edges do not overlap.
    world.must_claim(other[1])
    world.make_due()
    world.rows(
        "UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() - interval '1 s' WHERE id = %s",
        mine[0],
    )
    world.must_claim(other[0])
    assert world.claim(mine[0]) is None, "now the heir's lane waits for the other"
    with pytest.raises(AssertionError):
        world.must_claim(mine[0])
    assert world.journal.slices.finish(holder, result()).open_slices == 1, "nobody took it over meanwhile"


def test_a_split_is_two_halves_that_are_due_at_once(world: World) -> None:
    run_id = world.plan(even_windows(1)).run_id
    (parent,) = world.slices(run_id)
    claim = world.must_claim(parent)
    transition = world.journal.slices.split(claim, halve(claim.window), Overloaded("queue is full"), "too wide")
    assert (transition.open_slices, transition.publish_due, len(transition.children)) == (2, False, 2)
    rows = [world.slice_row(child) for child in transition.children]
    assert [(row.window_from, row.window_to) for row in rows] == [(at(0), at(12)), (at(12), at(24))]
    assert {(row.parent_id, row.depth, row.state, row.spent, row.step) for row in rows} == {
        (parent, 1, "planned", 0, 0)
    }
    first, second = transition.children
    assert world.load(first).publish_due is False
    deeper = world.must_claim(second)
    grandchildren = world.journal.slices.split(deeper, halve(deeper.window), Overloaded("full"), "too wide").children
    assert [world.load(child).publish_due for child in grandchildren] == [False, True]
    counts = world.run_partition(run_id)
    assert (counts.open_slices, counts.slices, counts.state) == (0, 5, "publishing")
    loaded = world.one(
        "SELECT loaded = tstzmultirange(tstzrange(%s, %s)) AS whole, loaded_gen FROM public.inc_processing_partitions",
        at(0),
        at(24),
    )
    assert loaded == (True, 3)


def test_what_is_not_the_slices_fault_spends_nothing(world: World) -> None:
    run_id = world.plan(even_windows(1)).run_id
    (slice_id,) = world.slices(run_id)
    for attempt in range(1, ATTEMPTS * 2):
        claim = world.must_claim(slice_id)
        assert (claim.attempt, claim.spent) == (attempt, 1)
        world.journal.slices.give_back(claim, Unreachable("no route"), "no route", delay_s=30, refund=True)
        row = world.slice_row(slice_id)
        assert (row.state, row.spent, row.enqueued_at, row.error_kind) == ("planned", 0, None, "Unreachable")
        assert world.claim(slice_id) is None, "not before its time"
        world.make_due()
    assert world.run_partition(run_id).open_slices == 1


def test_a_failed_attempt_is_charged(world: World) -> None:
    (slice_id,) = world.slices(world.plan(even_windows(1)).run_id)
    claim = world.must_claim(slice_id)
    world.journal.slices.give_back(claim, TransientError("lost a frame"), "lost a frame", delay_s=0, refund=False)
    assert world.slice_row(slice_id).spent == 1
    assert world.must_claim(slice_id).spent == 2


def test_poison_ends_as_an_error_and_the_rest_goes_on(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2), hours(2, 3)]).run_id
    poison, *others = world.slices(run_id)
    for _ in range(ATTEMPTS):
        assert world.journal.slices.fail_spent(CLEAN, ATTEMPTS) == []
        world.must_claim(poison)  # Its child is killed: not a word.
        world.expire_leases()
    assert world.claim(poison) is None
    assert [world.load(slice_id).publish_due for slice_id in others] == [False, False], "one slice is open still"
    (transition,) = world.journal.slices.fail_spent(CLEAN, ATTEMPTS)
    assert (transition.publish_due, transition.open_slices) == (True, 0)
    assert world.journal.slices.fail_spent(CLEAN, ATTEMPTS) == []
    row = world.slice_row(poison)
    assert (row.state, row.error_kind) == ("error", "AttemptLost")
    assert f"attempt {ATTEMPTS} ended without a word on test" in row.last_error
    (settled,) = world.publish()
    assert settled.finalize_due
    assert world.partition_row().incomplete
    assert world.journal.runs.finalize(run_id) == "error"
    run = world.run_row(run_id)
    assert (run.watermark, run.details["failed_slices"]) == (None, 1)
    assert run.details["incomplete_partitions"] == [DAY]


def test_a_spent_slice_with_a_live_holder_is_left_alone(world: World) -> None:
    (slice_id,) = world.slices(world.plan(even_windows(1)).run_id)
    world.rows("UPDATE public.inc_processing_slices SET spent = %s", ATTEMPTS - 1)
    last = world.must_claim(slice_id)
    assert world.journal.slices.fail_spent(CLEAN, ATTEMPTS, slice_id) == []
    assert world.journal.slices.finish(last, result()).publish_due


def test_rejects_count_a_row_once_a_run(world: World) -> None:
    first, second = (world.must_claim(each) for each in world.slices(world.plan(even_windows(2)).run_id))
    slices = world.journal.slices

    def reject(claim: SliceClaim, *keys: str, column: str = "st") -> int:
        return slices.record_rejects(claim, [Reject(key, column, "300", "does not fit UInt8") for key in keys])

    assert reject(first, "a", "b") == 2
    assert reject(first, "a", "b") == 2, "the same slice, tried again"
    assert reject(first, "a", column="pg") == 2, "one row with two bad columns is one row"
    assert reject(second, "c") == 3
    other = world.must_claim(world.slices(world.plan([hours(30, 31)], process=MANUAL_LANE).run_id)[0])
    assert reject(other, "a") == 1, "another run counts for itself"


def test_rejects_of_long_and_strange_keys(world: World) -> None:
    """A B-tree entry holds 2,704 bytes; a key may be longer, and what cannot be stored is made visible."""
    claim = world.must_claim(world.slices(world.plan(even_windows(1)).run_id)[0])
    long = "".join(chr(0x400 + (index * index + index * 7919) % 255) for index in range(9000))
    keys = [long + "x", long + "y", "a\x00b", "\ud800"]
    rejects = [Reject(key, "c", "v\x00", "r\x00") for key in keys]
    assert world.journal.slices.record_rejects(claim, rejects) == 4
    assert world.journal.slices.record_rejects(claim, rejects) == 4
    stored = world.rows("SELECT row_key, value FROM public.inc_processing_rejects ORDER BY length(row_key)")
    assert [row.row_key for row in stored[:2]] == ["a\\0b", "\\ud800"]
    assert {row.value for row in stored} == {"v\\0"}


def test_versions_only_grow(world: World) -> None:
    now_ms = int(world.journal.now().timestamp() * 1000)
    versions = [world.journal.slices.next_version(CLEAN) for _ in range(50)]
    assert versions == sorted(set(versions))
    assert 0 <= versions[0] - now_ms < 60_000, "milliseconds of PostgreSQL's clock"
    world.rows("UPDATE public.inc_processing_fences SET version_ms = version_ms + 1000000")
    assert world.journal.slices.next_version(CLEAN) >= versions[-1] + 1_000_001, "also when the clock is behind"


def test_overloads_are_counted_and_do_not_end_the_attempt(world: World) -> None:
    claim = world.must_claim(world.slices(world.plan(even_windows(1)).run_id)[0])
    for _ in range(3):
        world.journal.slices.note_overload(claim, Overloaded("rejected"))
    row = world.slice_row(claim.slice_id)
    assert (row.overloads, row.state, row.last_error) == (3, "running", "rejected")


def test_claims_and_transitions_keep_the_run_alive(world: World) -> None:
    run_id = world.plan(even_windows(2), process=LANE).run_id
    world.age_run(run_id, 30)
    old = world.run_row(run_id)
    claim = world.must_claim(world.slices(run_id)[0])
    claimed = world.run_row(run_id)
    assert claimed.heartbeat_at > old.heartbeat_at
    assert claimed.progress_at == old.progress_at, "a claim moves nothing"
    world.claim(world.slices(run_id)[1])
    assert world.run_row(run_id).heartbeat_at == claimed.heartbeat_at, "at most one write in 10 s"
    world.journal.slices.finish(claim, result())
    assert world.run_row(run_id).progress_at > old.progress_at
