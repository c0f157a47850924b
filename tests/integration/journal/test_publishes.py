"""A partition's publish: when it is due, what it covers, who may finish it, what it opens again."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.publishing import StageMetric
from etl_tasks.errors import LostOwnership, ResourceExhausted, Unreachable
from tests.integration.journal.world import (
    AT_END,
    CLEAN,
    DAY,
    LANE,
    MANUAL_LANE,
    NEXT_DAY,
    World,
    at,
    even_windows,
    hours,
    side_by_side,
)

pytestmark = pytest.mark.integration

EVERY_TWO_STEPS = CadenceRules(every_minutes=0, every_slices=2, always_at_end=False)


def covered(world: World, column: str) -> list[tuple[object, object]]:
    return [
        (row.lower, row.upper)
        for row in world.rows(
            f"SELECT lower(r), upper(r) FROM public.inc_processing_partitions, unnest({column}) AS r ORDER BY 1"
        )
    ]


def test_a_publish_covers_what_was_loaded_when_it_began_and_is_due_again_for_the_rest(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2), hours(5, 6)]).run_id
    first, second, third = world.slices(run_id)
    world.load(first, rows=7)
    world.load(second, rows=8)
    assert world.claim_publish() is None, "not due before the end of the run"
    assert world.load(third, rows=9).publish_due
    claim = world.must_claim_publish()
    assert (claim.published_gen, claim.target_gen, claim.attempt) == (0, 3, 1)
    assert [(w.slice_id, w.window, w.distinct_rows) for w in claim.windows] == [
        (first, hours(0, 1), 7),
        (second, hours(1, 2), 8),
        (third, hours(5, 6), 9),
    ]
    assert world.claim_publish() is None, "one at a time"
    other = world.plan([hours(8, 9)], process=MANUAL_LANE, manual=True).run_id
    assert world.load_all(other)[0].publish_due is False, "a publish is under way"
    transitions = world.finish_publish(claim, duration_ms=1234)
    assert [(t.run_id, t.finalize_due) for t in transitions] == [(run_id, True), (other, False)]
    assert covered(world, "published") == [(at(0), at(2)), (at(5), at(6))]
    assert covered(world, "loaded") == [(at(0), at(2)), (at(5), at(6)), (at(8), at(9))]
    row = world.partition_row()
    assert (row.published_gen, row.loaded_gen, row.publish_state, row.last_duration_ms) == (3, 4, "due", 1234)
    again = world.must_claim_publish()
    assert [w.window for w in again.windows] == [hours(8, 9)]
    assert [(t.run_id, t.finalize_due) for t in world.finish_publish(again)] == [(other, True)]
    assert world.partition_row().publish_state == "idle"


def test_publishes_stand_in_the_journal_with_their_stages(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    claim = world.must_claim_publish()
    for stage, ms in (("drop_buf", 64), ("replace_clean", 380)):
        world.journal.publishes.record_stage(claim, StageMetric(stage, DAY, ms))
    world.finish_publish(claim, duration_ms=444)
    row = world.run_row(claim.publish_run_id)
    assert (row.process_name, row.status, row.since, row.until) == ("codes:dedup", "ok", at(0), at(1))
    assert row.details["stages"] == [
        {"stage": "drop_buf", "part": DAY, "ms": 64},
        {"stage": "replace_clean", "part": DAY, "ms": 380},
    ]
    assert {name: row.details[name] for name in ("stage", "part", "ms")} == row.details["stages"][-1]
    assert row.details["dedup_part_total_ms"] == {str(DAY): 444}


def test_the_newest_token_alone_may_renew_and_finish(world: World) -> None:
    world.load_all(world.plan(even_windows(1, days=2)).run_id)
    old = world.must_claim_publish()
    assert world.journal.publishes.renew(old, 60)
    world.expire_leases()
    heir = world.must_claim_publish(journal=world.another())
    assert heir.token > old.token
    assert heir.attempt == 2
    assert not world.journal.publishes.renew(old, 60)
    before = world.partition_row()
    with pytest.raises(LostOwnership):
        world.finish_publish(old)
    with pytest.raises(LostOwnership):
        world.journal.publishes.reopen(old, old.windows, "short")
    with pytest.raises(LostOwnership):
        world.journal.publishes.give_back(old, Unreachable("x"), delay_s=0, refund=True)
    with pytest.raises(LostOwnership):
        world.journal.publishes.fail(old, ValueError("x"))
    assert world.partition_row() == before
    assert world.run_row(old.publish_run_id).status == "error", "closed by the heir"
    assert world.run_row(heir.publish_run_id).status == "running"
    # A publish of another partition is newer too: only one may touch CLEAN.
    world.must_claim_publish(NEXT_DAY)
    assert not world.journal.publishes.renew(heir, 60)


def test_tokens_grow_past_what_a_restored_journal_would_repeat(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    now_ms = int(world.journal.now().timestamp() * 1000)
    claim = world.must_claim_publish()
    assert claim.token >= now_ms
    world.rows("UPDATE public.inc_processing_fences SET token = token + 100000000")
    world.expire_leases()
    assert world.must_claim_publish().token == claim.token + 100000001


def test_claims_of_two_partitions_without_the_lock_do_not_break_each_other(world: World) -> None:
    """A lock may be lost or shared by a pooler: then the fence decides, and the journal's rows stay one at a time."""
    journals = [world.another() for _ in range(2)]
    for round_ in range(15):
        world.load_all(world.plan(even_windows(1, days=2), process=f"lane_{round_}").run_id)
        first, second = side_by_side(
            [
                lambda: world.claim_publish(DAY, journals[0]),
                lambda: world.claim_publish(NEXT_DAY, journals[1]),
            ]
        )
        newest, older = (first, second) if first.token > second.token else (second, first)
        assert world.journal.publishes.renew(newest, 60)
        assert not world.journal.publishes.renew(older, 60)
        for claim in (newest, older):
            world.finish_publish(claim)


def test_a_failing_publish_backs_off_and_is_spent_in_the_end(world: World) -> None:
    run_id = world.plan([hours(0, 1)]).run_id
    world.load_all(run_id)
    for spent in (1, 2):
        claim = world.must_claim_publish()
        assert claim.spent == spent
        world.journal.publishes.give_back(claim, ResourceExhausted("memory"), delay_s=60, refund=False)
        assert world.claim_publish() is None
        assert world.journal.publishes.fail_spent(CLEAN, 3) == []
        world.make_due()
    world.must_claim_publish()
    assert world.journal.publishes.fail_spent(CLEAN, 3) == [], "somebody works on it"
    world.expire_leases()
    (transition,) = world.journal.publishes.fail_spent(CLEAN, 3)
    assert transition.finalize_due
    assert world.partition_row().publish_state == "error"
    assert world.journal.runs.finalize(run_id) == "error"
    run = world.run_row(run_id)
    assert run.watermark == at(1), "loaded without a gap; what is owed is shown as owed"
    assert run.details["incomplete_partitions"] == [DAY]
    # The next load tries it again, from the first attempt on.
    world.load_all(world.plan([hours(1, 2)]).run_id)
    assert world.must_claim_publish().spent == 1


def test_an_offer_does_not_shorten_the_back_off_after_a_failure(world: World) -> None:
    """Else two hundred slices that end while ClickHouse has no memory spend every attempt in seconds."""
    journal = world.another(dataclasses.replace(EVERY_TWO_STEPS, every_slices=1))
    ids = world.slices(world.plan(even_windows(6), publish_at_end=False).run_id)
    assert world.load(ids[0], journal).publish_due
    claim = world.must_claim_publish(journal=journal)
    journal.publishes.give_back(claim, ResourceExhausted("memory"), delay_s=60, refund=False)
    back = world.partition_row().not_before
    assert world.load(ids[1], journal).publish_due is False
    assert world.partition_row().not_before == back
    assert world.claim_publish(journal=journal) is None


def test_an_unreachable_clickhouse_spends_no_attempt(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    for _ in range(7):
        claim = world.must_claim_publish()
        world.journal.publishes.give_back(claim, Unreachable("no route"), delay_s=0, refund=True)
    assert world.partition_row().spent == 0


def test_the_cadence_counts_steps_across_runs(world: World) -> None:
    journal = world.another(EVERY_TWO_STEPS)
    first = world.plan([hours(0, 1)], publish_at_end=False, journal=journal).run_id
    (transition,) = world.load_all(first, journal)
    assert (transition.publish_due, transition.finalize_due) == (False, True), "loaded is enough for this run"
    assert journal.runs.finalize(first) == "ok"
    assert world.partition_row().publish_state == "idle"
    assert journal.publishes.offer_owed(CLEAN) == []
    second = world.plan([hours(1, 2)], publish_at_end=False, journal=journal).run_id
    assert world.load_all(second, journal)[0].publish_due
    assert [w.window for w in world.must_claim_publish(journal=journal).windows] == [hours(0, 1), hours(1, 2)]


def test_the_cadence_counts_minutes_across_runs(world: World) -> None:
    journal = world.another(CadenceRules(every_minutes=60, every_slices=0, always_at_end=False))
    run_id = world.plan([hours(0, 1)], publish_at_end=False, journal=journal).run_id
    world.load_all(run_id, journal)
    assert journal.publishes.offer_owed(CLEAN) == []
    world.rows(
        "UPDATE public.inc_processing_partitions SET first_unpublished_at = first_unpublished_at - interval '59 min'"
    )
    assert journal.publishes.offer_owed(CLEAN) == []
    world.rows(
        "UPDATE public.inc_processing_partitions SET first_unpublished_at = first_unpublished_at - interval '1 min'"
    )
    assert journal.publishes.offer_owed(CLEAN) == [(CLEAN, DAY)]


def test_the_schedule_rests_four_times_as_long_as_its_last_publish_took(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    world.finish_publish(world.must_claim_publish(), duration_ms=50_000)
    world.journal.runs.finalize(world.one("SELECT id FROM public.inc_processing WHERE ts_end IS NULL").id)
    published_at = world.partition_row().last_published_at
    second = world.plan([hours(1, 2)]).run_id
    assert world.load_all(second)[0].publish_due is False
    row = world.partition_row()
    assert row.publish_state == "due"
    assert row.not_before == published_at + timedelta(seconds=200)
    assert world.claim_publish() is None
    assert world.journal.sweeps.due_publishes(resend_after_s=0, max_attempts=3) == []
    # A run by hand does not wait, and takes the schedule's rows along.
    world.load_all(world.plan([hours(2, 3)], process=MANUAL_LANE, manual=True).run_id)
    assert len(world.must_claim_publish().windows) == 2


def test_a_run_by_hand_publishes_only_at_its_end(world: World) -> None:
    """Nor does the sweeper publish in between what it is still loading; what the schedule owes is another matter."""
    cadence = CadenceRules(every_minutes=0, every_slices=2, always_at_end=True)
    journal = world.another(cadence)
    run_id = world.plan(even_windows(6), process=MANUAL_LANE, manual=True, journal=journal).run_id
    *most, last = world.slices(run_id)
    for slice_id in most:
        assert world.load(slice_id, journal).publish_due is False
        assert journal.publishes.offer_owed(CLEAN) == []
    assert world.partition_row().publish_state == "idle"
    assert world.load(last, journal).publish_due


def test_raw_is_published_before_it_forgets(world: World) -> None:
    journal = world.another(CadenceRules(0, 1000, always_at_end=False, raw_ttl_s=7200))
    run_id = world.plan(even_windows(2), process=MANUAL_LANE, manual=True, publish_at_end=False).run_id
    world.load(world.slices(run_id)[0], journal)
    assert journal.publishes.offer_owed(CLEAN) == []
    world.rows(
        "UPDATE public.inc_processing_partitions SET first_unpublished_at = first_unpublished_at - interval '1 h'"
    )
    assert journal.publishes.offer_owed(CLEAN) == [(CLEAN, DAY)]


@pytest.mark.parametrize("planned_with", [True, False], ids=["then on, now off", "then off, now on"])
def test_a_run_keeps_to_the_end_it_was_planned_with(world: World, planned_with: bool) -> None:
    """ALWAYS_PUBLISH_AT_END was changed while the run loaded: it waits for a publish exactly if one comes."""
    now = EVERY_TWO_STEPS if planned_with else AT_END
    run_id = world.plan([hours(0, 1)], process=MANUAL_LANE, manual=True, publish_at_end=planned_with).run_id
    (transition,) = world.load_all(run_id, world.another(now))
    assert (transition.publish_due, transition.finalize_due) == (planned_with, not planned_with)


def test_what_an_aborted_run_had_loaded_is_owed(world: World) -> None:
    run_id = world.plan(even_windows(4)).run_id
    world.load(world.slices(run_id)[0])
    assert world.claim_publish() is None
    world.journal.runs.abort(run_id, "cancelled")
    assert [w.window for w in world.must_claim_publish().windows] == [hours(0, 6)]


def test_what_was_loaded_during_a_publish_is_owed_also_when_its_run_was_aborted(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    claim = world.must_claim_publish()
    aborted = world.plan([hours(1, 2), hours(2, 3)], process=MANUAL_LANE, manual=True).run_id
    world.load(world.slices(aborted)[0])
    world.journal.runs.abort(aborted, "cancelled")
    world.finish_publish(claim)
    row = world.partition_row()
    assert (row.publish_state, row.loaded_gen, row.published_gen) == ("due", 2, 1)


def test_lanes_share_one_publish(world: World) -> None:
    runs = [
        world.plan([hours(0, 1)]).run_id,
        world.plan([hours(1, 2)], process=MANUAL_LANE, manual=True).run_id,
    ]
    for run_id in runs:
        world.load_all(run_id)
    assert [(t.run_id, t.manual, t.finalize_due) for t in world.publish()] == [
        (runs[0], False, True),
        (runs[1], True, True),
    ]
    assert [world.journal.runs.finalize(run_id) for run_id in runs] == ["ok", "ok"]
    assert world.claim_publish() is None


def test_a_publish_is_told_of_once(world: World) -> None:
    """While it is due and told of, the slices that still end do not send a message each."""
    journal = world.another(dataclasses.replace(EVERY_TWO_STEPS, every_slices=1))
    ids = world.slices(world.plan(even_windows(12), publish_at_end=False).run_id)
    assert [world.load(slice_id, journal).publish_due for slice_id in ids] == [True] + [False] * 11


def test_the_lock_is_one_sessions_and_says_when_it_is_gone(world: World) -> None:
    clean = f"{world.schema}.codes"
    with world.journal.publish_lock(clean) as mine:
        assert mine.acquired
        mine.verify()
        with world.another().publish_lock(clean) as theirs:
            assert not theirs.acquired
            with pytest.raises(LostOwnership):
                theirs.verify()
        with world.another().publish_lock(f"{world.schema}.other") as other:
            assert other.acquired
        ended = world.rows(
            "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity JOIN pg_locks USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND application_name = %s",
            f"etl_tasks lock: publish {clean}"[:63],
        )
        assert ended == [(True,)]
        with pytest.raises(LostOwnership):
            mine.verify()
    with world.journal.publish_lock(clean) as again:
        assert again.acquired


def test_short_windows_are_loaded_again_and_the_run_waits(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)], process=LANE).run_id
    world.load_all(run_id)
    claim = world.must_claim_publish()
    short = claim.windows[0]
    assert world.journal.publishes.reopen(claim, [short], "RAW\x00 holds less") == [short.slice_id]
    row = world.slice_row(short.slice_id)
    assert (row.state, row.generation, row.last_error, row.spent) == ("planned", None, "RAW\\0 holds less", 1)
    assert covered(world, "loaded") == [(at(1), at(2))], "not loaded until it is loaded again"
    counts = world.run_partition(run_id)
    assert (counts.state, counts.open_slices) == ("loading", 1)
    assert world.partition_row().publish_state == "due"
    assert world.run_row(claim.publish_run_id).status == "error"
    assert [
        due.slice_id
        for due in world.journal.sweeps.due_slices(
            grace_s=0, resend_after_s=60, queue_empty=True, max_attempts=5, most=10
        )
    ] == [short.slice_id]
    world.load(short.slice_id, rows=3)
    world.make_due()
    assert [(w.window, w.distinct_rows) for w in world.must_claim_publish().windows] == [
        (hours(0, 1), 3),
        (hours(1, 2), 10),
    ]
    assert covered(world, "loaded") == [(at(0), at(2))]


def test_a_window_that_never_comes_back_is_a_hole(world: World) -> None:
    """Opened again too often, it ends as an error: the watermark stays before it, although it was loaded once."""
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    world.load_all(run_id)
    for _ in range(5):
        claim = world.must_claim_publish()
        world.journal.publishes.reopen(claim, [w for w in claim.windows if w.window == hours(1, 2)], "short")
        world.rows("UPDATE public.inc_processing_partitions SET spent = 0")
        world.make_due()
        if world.claim(world.slices(run_id)[1]) is not None:
            world.rows(
                "UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() WHERE state = 'running'"
            )
            world.rows("UPDATE public.inc_processing_slices SET state = 'planned' WHERE state = 'running'")
        if not world.slices(run_id, "planned"):
            break
    (transition,) = world.journal.slices.fail_spent(CLEAN, 5)
    assert transition.open_slices == 0
    world.make_due()
    world.publish()
    assert world.journal.runs.finalize(run_id) == "error"
    assert world.run_row(run_id).watermark == at(1)


@pytest.mark.parametrize("ended", [True, False], ids=["ended run", "run finished with the partition"])
def test_short_windows_of_a_run_that_waits_no_more_are_lost_and_said(world: World, ended: bool) -> None:
    journal = world.another(EVERY_TWO_STEPS)
    run_id = world.plan(even_windows(2, days=2), publish_at_end=False, journal=journal).run_id
    for slice_id in world.slices(run_id)[:2]:
        world.load(slice_id, journal)
    assert world.run_partition(run_id).state == "done"
    if ended:
        journal.runs.abort(run_id, "cancelled")
    claim = world.must_claim_publish(journal=journal)
    assert journal.publishes.reopen(claim, claim.windows[:1], "short") == []
    row = world.slice_row(claim.windows[0].slice_id)
    assert (row.state, row.generation, row.error_kind) == ("error", None, "CountMismatch")
    assert covered(world, "loaded") == [(at(12), at(24))]
    if not ended:
        world.load_all(run_id, journal)
        assert journal.runs.finalize(run_id) == "error"
        assert world.run_row(run_id).watermark is None, "the hole is at its very start"
