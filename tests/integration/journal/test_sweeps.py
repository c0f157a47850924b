"""What the sweeper sends again, and what it must leave alone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import pytest

from etl_tasks.adapters.journal import Journal
from etl_tasks.adapters.journal.lock import SWEEP_LOCK_IDLE_S, SweepLock
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.records import SanitizeRules
from etl_tasks.core.windows import halve
from etl_tasks.errors import Overloaded, Unreachable
from etl_tasks.pipeline.sweep import SweepContext, SweepReport, SweepRules, sweep
from etl_tasks.pipeline.tell import dispatch_run, tell
from tests.integration.journal.world import (
    AT_END,
    ATTEMPTS,
    CLEAN,
    DAY,
    MANUAL_LANE,
    NEXT_DAY,
    World,
    even_windows,
    hours,
)

pytestmark = pytest.mark.integration


class Letters:
    """A dispatcher that keeps what it was told; ``held`` is what Redis is said to hold."""

    def __init__(self, held: int = 0, away: bool = False) -> None:
        self.held = held
        self.away = away
        self.sent: list[tuple[Any, ...]] = []

    def _send(self, *what: Any) -> None:
        if self.away:
            raise Unreachable("Redis is away")
        self.sent.append(what)

    def send_partition(self, partition: int, slice_ids: Sequence[int], manual: bool) -> None:
        self._send("chord", partition, list(slice_ids), manual)

    def send_slices(self, slice_ids: Sequence[int], manual: bool) -> None:
        self._send("slices", list(slice_ids), manual)

    def send_publish(self, partition: int) -> None:
        self._send("publish", partition)

    def send_finalize(self, run_id: int) -> None:
        self._send("finalize", run_id)

    def messages_held(self) -> int:
        if self.away:
            raise Unreachable("Redis is away")
        return self.held


def due(world: World, *, queue_empty: bool = False, grace_s: float = 0, most: int = 100) -> list[int]:
    found = world.journal.sweeps.due_slices(
        grace_s=grace_s, resend_after_s=120, queue_empty=queue_empty, max_attempts=ATTEMPTS, most=most
    )
    return [each.slice_id for each in found]


def sent_ago(world: World, slice_id: int, seconds: float) -> None:
    world.rows(
        "UPDATE public.inc_processing_slices SET enqueued_at = clock_timestamp() - make_interval(secs => %s) "
        "WHERE id = %s",
        seconds,
        slice_id,
    )


def swept(world: World, letters: Letters, **changes: Any) -> SweepReport:
    """A sweep beside nobody's."""
    world.await_unlocked()  # by the one before
    return swept_beside_others(world, letters, **changes)


def swept_beside_others(world: World, letters: Letters, **changes: Any) -> SweepReport:
    rules = SweepRules(CLEAN, 10, 120, ATTEMPTS, 3, 3600, 30, SanitizeRules())
    return sweep(SweepContext(world.journal, letters, dataclasses.replace(rules, **changes)))


def test_what_was_never_sent_is_sent_after_a_grace(world: World) -> None:
    run_id = world.plan(even_windows(3, days=3), in_flight=1).run_id
    released = world.slices(run_id)[:3]
    assert due(world, grace_s=10) == [], "the planner is about to send them"
    assert due(world) == released, "not those of partitions that are not released"
    world.journal.slices.mark_sent(released)
    assert due(world) == []
    assert {world.slice_row(each).sends for each in released} == {1}


def test_what_was_sent_is_sent_again_ever_more_rarely(world: World) -> None:
    (slice_id,) = world.slices(world.plan(even_windows(1)).run_id)
    for sends, wait in ((1, 120), (2, 240), (3, 480), (7, 7680), (50, 7680)):
        world.rows("UPDATE public.inc_processing_slices SET sends = %s", sends)
        sent_ago(world, slice_id, wait - 5)
        assert due(world) == []
        sent_ago(world, slice_id, wait + 5)
        assert due(world) == [slice_id]
    sent_ago(world, slice_id, 11)
    assert due(world, grace_s=10) == []
    assert due(world, grace_s=10, queue_empty=True) == [slice_id], "Redis holds nothing: it was lost"


def test_an_expired_lease_is_sent_once_and_then_again_after_the_resend(world: World) -> None:
    (slice_id,) = world.slices(world.plan(even_windows(1)).run_id)
    world.journal.slices.mark_sent([slice_id])
    world.must_claim(slice_id)
    sent_ago(world, slice_id, 1000)
    assert due(world, queue_empty=True) == [], "a live holder"
    world.expire_leases()
    assert due(world) == [slice_id]
    world.journal.slices.mark_sent([slice_id])
    assert due(world) == []
    sent_ago(world, slice_id, 121)
    world.rows("UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() - interval '5 min'")
    assert due(world) == [slice_id]


def test_an_expired_lease_whose_message_came_to_nothing_is_sent_again_while_nothing_waits(world: World) -> None:
    """As when a worker took it that is cut off from the journal."""
    (slice_id,) = world.slices(world.plan(even_windows(1)).run_id)
    world.journal.slices.mark_sent([slice_id])
    world.must_claim(slice_id)
    world.rows("UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() - interval '5 min'")
    sent_ago(world, slice_id, 11)
    assert due(world, grace_s=10) == [], "it may be one of those that wait"
    assert due(world, grace_s=10, queue_empty=True) == [slice_id]
    sent_ago(world, slice_id, 9)
    assert due(world, grace_s=10, queue_empty=True) == [], "somebody is about to claim it"


def test_nothing_is_sent_of_ended_runs_spent_slices_and_back_offs(world: World) -> None:
    run_id = world.plan(even_windows(3)).run_id
    waiting, spent, fine = world.slices(run_id)
    world.journal.slices.give_back(world.must_claim(waiting), Unreachable("x"), "x", delay_s=60, refund=True)
    world.rows("UPDATE public.inc_processing_slices SET spent = %s WHERE id = %s", ATTEMPTS, spent)
    assert due(world) == [fine]
    world.make_due()
    assert due(world) == [waiting, fine]
    assert due(world, most=1) == [waiting]
    world.journal.runs.abort(run_id, "cancelled")
    assert due(world) == []


def test_beliefs_are_what_redis_ought_to_hold(world: World) -> None:
    ids = world.slices(world.plan(even_windows(4)).run_id)
    world.journal.slices.mark_sent(ids[:3])
    world.must_claim(ids[0])
    assert world.journal.sweeps.queue_beliefs() == (2, 1)
    other = world.plan([hours(24, 25)], process=MANUAL_LANE, manual=True).run_id
    world.load_all(other)
    world.must_claim_publish(NEXT_DAY)
    assert world.journal.sweeps.queue_beliefs() == (2, 2), "a publish holds a message too"
    world.expire_leases()
    assert world.journal.sweeps.queue_beliefs() == (2, 0)


def test_only_the_shortfall_is_sent_again_and_the_lane_chooses_the_queue(world: World) -> None:
    scheduled = world.slices(world.plan(even_windows(6)).run_id)
    by_hand = world.slices(world.plan([hours(30, 31)], process=MANUAL_LANE, manual=True).run_id)
    world.journal.slices.mark_sent(scheduled)
    for index, slice_id in enumerate(scheduled):
        sent_ago(world, slice_id, 1000 - index)
    world.rows("UPDATE public.inc_processing_slices SET released_at = clock_timestamp() - interval '1 min'")
    letters = Letters(held=4)
    report = swept(world, letters)
    assert letters.sent == [("slices", scheduled[:2], False), ("slices", by_hand, True)]
    assert report.slices_sent == 3
    assert world.slice_row(scheduled[0]).sends == 2


def test_a_sweep_without_redis_still_ends_runs(world: World) -> None:
    done = world.plan([hours(0, 1)], publish_at_end=False).run_id
    world.load_all(done)
    poison = world.plan([hours(2, 3)], process=MANUAL_LANE, manual=True).run_id
    world.rows("UPDATE public.inc_processing_slices SET spent = %s WHERE id = %s", ATTEMPTS, world.slices(poison)[0])
    report = swept(world, Letters(away=True))
    assert report.slices_failed == 1
    world.make_due()
    world.publish()
    ended = sorted(report.runs_ended + swept(world, Letters(away=True)).runs_ended)
    assert ended == [done, poison]
    assert [world.run_row(run_id).status for run_id in (done, poison)] == ["ok", "error"]


def test_a_sweep_offers_what_is_owed_and_tells_of_what_is_due(world: World) -> None:
    world.journal = world.another(CadenceRules(every_minutes=60, every_slices=0, always_at_end=False))
    world.load_all(world.plan(even_windows(2), publish_at_end=False).run_id)
    world.rows(
        "UPDATE public.inc_processing_partitions SET first_unpublished_at = first_unpublished_at - interval '1 h'"
    )
    letters = Letters()
    assert swept(world, letters).publishes_sent == 1
    assert letters.sent == [("publish", DAY)]
    assert swept(world, letters).publishes_sent == 0, "told of lately"


def test_one_sweep_at_a_time(world: World) -> None:
    with world.another().sweeps.try_lock() as held:
        assert held
        assert not swept_beside_others(world, Letters()).held
    assert swept(world, Letters()).held


def test_the_lock_of_a_sweep_that_has_gone_silent_is_another_ones_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SWEEP_LOCK_IDLE_S <= 20
    monkeypatch.setattr(SweepLock, "most_idle_s", 1.0)
    with world.another().sweeps.try_lock() as held:
        assert held
        until = time.monotonic() + 20
        while not (again := swept_beside_others(world, Letters()).held) and time.monotonic() < until:
            time.sleep(0.1)
        assert again
    # Whoever was silent comes back, and finds nothing broken.
    assert swept(world, Letters()).held


def test_the_locks_sessions_are_direct_where_a_pooler_stands_before_the_journal(world: World) -> None:
    """Behind a pooler a session's lock would stay with a session that others use: no sweep would ever run again."""
    behind_a_pooler = dataclasses.replace(world.config, dsn="postgresql://127.0.0.1:1/none", lock_dsn=world.config.dsn)
    journal = Journal(behind_a_pooler, CLEAN, AT_END)
    with journal.sweeps.try_lock() as held, journal.publish_lock(f"{world.schema}.codes") as lock:
        assert held
        assert lock.acquired
    with pytest.raises(Unreachable):
        journal.now()


def test_a_partition_that_nobody_settled_is_settled_by_the_sweep(world: World) -> None:
    """As in a journal that was restored, or written by an older version."""
    run_id = world.plan([hours(0, 1)]).run_id
    world.load_all(run_id)
    world.rows("UPDATE public.inc_processing_partitions SET publish_state = 'idle'")
    swept(world, Letters())
    assert world.partition_row().publish_state == "due"
    world.rows("UPDATE public.inc_processing_partitions SET published_gen = loaded_gen, publish_state = 'idle'")
    assert swept(world, Letters()).runs_ended == [run_id]


def test_what_is_told_after_a_transition(world: World) -> None:
    run_id = world.plan(even_windows(1, days=2), process=MANUAL_LANE, manual=True, in_flight=1).run_id
    letters = Letters()
    assert dispatch_run(world.journal, letters, run_id, True) == 1
    first, second = world.slices(run_id)
    assert letters.sent == [("chord", DAY, [first], True)]
    assert dispatch_run(world.journal, letters, run_id, True) == 0, "nothing twice"
    letters.sent.clear()
    claim = world.must_claim(first)
    split = world.journal.slices.split(claim, halve(claim.window), Overloaded("x"), "x")
    tell(world.journal, letters, [split])
    assert letters.sent == [("slices", list(split.children), True)]
    letters.sent.clear()
    transitions = [world.load(child) for child in split.children]
    tell(world.journal, letters, transitions)
    assert letters.sent == [("publish", DAY)]
    letters.sent.clear()
    tell(world.journal, letters, world.publish())
    assert letters.sent == [("chord", NEXT_DAY, [second], True)], "to the queue of runs by hand"
    letters.sent.clear()
    tell(world.journal, letters, [world.load(second)])
    tell(world.journal, letters, world.publish(NEXT_DAY))
    assert letters.sent == [("publish", NEXT_DAY), ("finalize", run_id)]
    tell(world.journal, Letters(away=True), [split])  # Costs time only: the sweeper tells again.
