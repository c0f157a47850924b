"""Turns to read the source on a real PostgreSQL: never more than the limit, never stuck, and the limit that follows."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest

from etl_tasks.adapters.journal import Journal
from etl_tasks.adapters.journal.read_turns import ReadTurns, source_reads
from etl_tasks.core.read_limit import ReadEnd, ReadLimit, SourceReads
from etl_tasks.core.records import SliceClaim
from etl_tasks.core.windows import halve
from etl_tasks.errors import LostOwnership, Overloaded
from tests.integration.journal.world import MANUAL_LANE, World, even_windows, hours, result, side_by_side

pytestmark = pytest.mark.integration

SOURCE = "pqs.example:8765"


def turns_of(journal: Journal, most: int = 64, source: str = SOURCE) -> ReadTurns:
    return ReadTurns(journal.database, source, most)


def claims_of(world: World, count: int, *, manual: bool = False, first_hour: float = 0) -> list[SliceClaim]:
    """Slices of a run of their own, each claimed."""
    process = MANUAL_LANE if manual else "codes"
    run_id = world.plan(even_windows(24, first_hour=first_hour)[:count], process=process, manual=manual).run_id
    return [world.must_claim(each) for each in world.slices(run_id)]


def reads_now(world: World) -> SourceReads:
    with world.journal.database.transaction() as transaction:
        (reads,) = source_reads(transaction)
    return reads


def set_limit(world: World, reads: int, round: int = 0) -> None:
    world.rows(
        "INSERT INTO public.inc_processing_read_limits (source, reads, round) VALUES (%s, %s, %s) "
        "ON CONFLICT (source) DO UPDATE SET reads = excluded.reads, round = excluded.round",
        SOURCE,
        reads,
        round,
    )


def test_a_turn_is_taken_up_to_the_limit_and_the_next_one_waits(world: World) -> None:
    claims, turns = claims_of(world, 6), turns_of(world.journal)
    assert [turns.take(claim) for claim in claims] == [True, True, True, True, False, False]
    assert reads_now(world) == SourceReads(SOURCE, limit=4, in_use=4, waiting=2, halvings=0)
    assert turns.take(claims[4]) is False, "asked again it waits on, once"
    assert reads_now(world).waiting == 2
    # Given back after a fault that says nothing about the load: the limit stays, one of the two gets the turn.
    assert turns.give_back(claims[0], ReadEnd.OTHER) == (ReadLimit(4), ReadLimit(4))
    assert turns.take(claims[5]) is True
    assert turns.take(claims[4]) is False
    assert reads_now(world) == SourceReads(SOURCE, limit=4, in_use=4, waiting=1, halvings=0)


def test_turns_that_could_not_be_given_back_keep_nobody_waiting(world: World) -> None:
    """The journal was away when the reads ended, and the limit is lower when the same attempts ask again."""
    claims, turns = claims_of(world, 3), turns_of(world.journal)
    assert [turns.take(claim) for claim in claims] == [True, True, True]
    set_limit(world, 1)
    assert [turns.take(claim) for claim in claims] == [False, False, True], "each that waits counts as a reader no more"
    assert turns.give_back(claims[2], ReadEnd.OTHER) is not None
    assert turns.take(claims[0]) is True


def test_a_limit_that_is_deleted_begins_anew(world: World) -> None:
    claims, turns = claims_of(world, 2), turns_of(world.journal)
    assert turns.take(claims[0])
    world.rows("DELETE FROM public.inc_processing_read_limits")
    assert turns.give_back(claims[0], ReadEnd.GOOD) is None
    assert turns.take(claims[1]) is True
    assert reads_now(world).limit == 4


def test_waiting_is_no_progress_and_spends_nothing(world: World) -> None:
    claims, turns = claims_of(world, 2), turns_of(world.journal, most=1)
    assert turns.take(claims[0])
    before = world.slice_row(claims[1].slice_id), world.run_row(claims[1].run_id)
    for _ in range(5):
        assert not turns.take(claims[1])
    assert (world.slice_row(claims[1].slice_id), world.run_row(claims[1].run_id)) == before


def test_the_limit_follows_the_source(world: World) -> None:
    claims, turns = claims_of(world, 7), turns_of(world.journal)
    assert all(turns.take(claim) for claim in claims[:4])
    # In full use and good, before the source ever objected: one more each time.
    assert turns.give_back(claims[0], ReadEnd.GOOD) == (ReadLimit(4), ReadLimit(5))
    assert all(turns.take(claim) for claim in claims[4:6])
    # Five read, the limit is five; three of them are rejected together: it halves once, from five.
    halved = ReadLimit(2, 0, round=1, objected_at=5)
    assert turns.give_back(claims[1], ReadEnd.OVERLOADED) == (ReadLimit(5), halved)
    assert turns.give_back(claims[2], ReadEnd.OVERLOADED) == (halved, halved)
    assert turns.give_back(claims[3], ReadEnd.OVERLOADED) == (halved, halved)
    # What began before and ends well now says nothing about the new round.
    assert turns.give_back(claims[4], ReadEnd.GOOD) == (halved, halved)
    assert turns.take(claims[6]) is True
    assert turns.take(claims[4]) is False, "two read: the limit"
    grown = ReadLimit(2, 1, round=1, objected_at=5)
    assert turns.give_back(claims[6], ReadEnd.GOOD) == (halved, grown)
    assert reads_now(world) == SourceReads(SOURCE, limit=2, in_use=1, waiting=1, halvings=1)


def test_a_turn_given_back_twice_or_never_taken_changes_nothing(world: World) -> None:
    claims, turns = claims_of(world, 2), turns_of(world.journal, most=1)
    assert turns.take(claims[0])
    assert turns.give_back(claims[0], ReadEnd.GOOD) is not None
    assert turns.give_back(claims[0], ReadEnd.OVERLOADED) is None
    assert turns.give_back(claims[1], ReadEnd.OVERLOADED) is None
    assert reads_now(world) == SourceReads(SOURCE, limit=1, in_use=0, waiting=0, halvings=0)


def test_the_turn_of_a_dead_holder_is_free_when_its_lease_is_over(world: World) -> None:
    turns = turns_of(world.journal, most=1)
    run_id = world.plan(even_windows(24)[:2]).run_id
    dying, living = world.slices(run_id)
    dead = world.must_claim(dying)
    assert turns.take(dead)
    claim = world.must_claim(living)
    assert not turns.take(claim)
    world.rows(
        "UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() - interval '1 s' WHERE id = %s", dying
    )
    assert turns.take(claim), "the turn of a dead holder is never free"
    # Nobody gave it back, and its row is gone with it; the next attempt on that slice waits like any other.
    assert world.one("SELECT count(*) AS n FROM public.inc_processing_read_turns").n == 1
    again = world.must_claim(dying)
    assert not turns.take(again)
    with pytest.raises(LostOwnership, match="attempt 1"):
        turns.take(dead)


def test_whatever_ends_the_attempt_ends_its_turn(world: World) -> None:
    turns = turns_of(world.journal, most=1)
    done, split, failed, given_back, cancelled = claims_of(world, 5)
    overloaded = Overloaded("rejected")
    slices = world.journal.slices
    ends: list[Any] = [
        (done, lambda: slices.finish(done, result())),
        (split, lambda: slices.split(split, halve(split.window), overloaded, "too wide")),
        (failed, lambda: slices.fail(failed, overloaded, "spent")),
        (given_back, lambda: slices.give_back(given_back, overloaded, "later", delay_s=60, refund=True)),
    ]
    for claim, end in ends:
        assert turns.take(claim), claim
        assert not turns.take(cancelled)
        end()
    assert turns.take(cancelled)


def test_a_stale_attempt_takes_no_turn(world: World) -> None:
    turns = turns_of(world.journal)
    (claim,) = claims_of(world, 1)
    world.journal.slices.give_back(claim, TimeoutError("hung"), "later", delay_s=0, refund=True)
    with pytest.raises(LostOwnership, match=f"slice {claim.slice_id} attempt 1"):
        turns.take(claim)
    world.must_claim(claim.slice_id)
    with pytest.raises(LostOwnership):
        turns.take(claim)


def test_the_schedule_goes_before_runs_by_hand(world: World) -> None:
    turns = turns_of(world.journal, most=2)
    by_hand = claims_of(world, 4, manual=True)
    (scheduled,) = claims_of(world, 1, first_hour=24)
    assert turns.take(by_hand[0])
    assert turns.take(by_hand[1])
    assert not turns.take(by_hand[2])
    assert not turns.take(scheduled), "both are in use"
    turns.give_back(by_hand[0], ReadEnd.GOOD)
    assert not turns.take(by_hand[2]), "it asks first and is in the queue for longer, but the schedule waits"
    assert turns.take(scheduled)
    turns.give_back(by_hand[1], ReadEnd.GOOD)
    assert turns.take(by_hand[3])


def test_who_has_waited_for_long_goes_first_in_its_lane(world: World) -> None:
    turns = turns_of(world.journal, most=1)
    reading, patient, fresh = claims_of(world, 3)
    assert turns.take(reading)
    assert not turns.take(patient)
    world.rows(
        "UPDATE public.inc_processing_read_turns SET asked_at = asked_at - interval '40 s' WHERE slice_id = %s",
        patient.slice_id,
    )
    turns.give_back(reading, ReadEnd.GOOD)
    assert not turns.take(fresh)
    assert turns.take(patient)


def test_each_source_has_a_limit_of_its_own(world: World) -> None:
    one, other = claims_of(world, 2)
    assert turns_of(world.journal, most=1).take(one)
    assert turns_of(world.journal, most=1, source="other.example:8765").take(other)


def test_a_lowered_setting_holds_at_once(world: World) -> None:
    set_limit(world, 40)
    claims = claims_of(world, 3)
    assert [turns_of(world.journal, most=2).take(claim) for claim in claims] == [True, True, False]


@pytest.mark.parametrize("limit", [1, 3])
def test_however_many_race_no_more_read_than_the_limit_and_all_get_their_turn(world: World, limit: int) -> None:
    """Twelve connections, each with slices of its own; the journal is asked all the while how many read."""
    workers, each = 12, 8
    run_id = world.plan(even_windows(workers * each)).run_id
    ids = world.slices(run_id)
    reading = 0
    most_reading = 0
    guard = threading.Lock()

    def work(journal: Journal, slice_ids: list[int]) -> int:
        nonlocal reading, most_reading
        turns = turns_of(journal, most=limit)
        for slice_id in slice_ids:
            claim = world.must_claim(slice_id, journal)
            deadline = time.monotonic() + 120
            while not turns.take(claim):
                assert time.monotonic() < deadline, "no turn in two minutes"
                time.sleep(0.002)
            with guard:
                reading += 1
                most_reading = max(most_reading, reading)
            time.sleep(0.02)
            with guard:
                reading -= 1
            turns.give_back(claim, ReadEnd.GOOD)
            journal.slices.finish(claim, result())
        return len(slice_ids)

    works = [partial(work, world.another(), ids[index::workers]) for index in range(workers)]
    assert side_by_side(works) == [each] * workers
    assert 1 <= most_reading <= limit
    assert world.rows("SELECT * FROM public.inc_processing_read_turns") == []


def test_a_first_read_by_many_at_once_makes_one_limit(world: World) -> None:
    claims = claims_of(world, 8)
    taken = side_by_side([partial(turns_of(world.another(), most=3).take, claim) for claim in claims])
    assert sorted(taken) == [False] * 5 + [True] * 3
    assert world.one("SELECT count(*) AS n, min(reads) AS reads FROM public.inc_processing_read_limits") == (1, 3)


def test_a_slice_in_two_lanes_waits_by_its_own_attempt(world: World) -> None:
    """A later attempt does not inherit the turn of the one before, nor how long that had waited."""
    turns = turns_of(world.journal, most=1)
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    first, second = world.slices(run_id)
    reading, waiting = world.must_claim(first), world.must_claim(second)
    assert turns.take(reading)
    assert not turns.take(waiting)
    world.journal.slices.give_back(waiting, TimeoutError("busy"), "busy", delay_s=0, refund=True)
    assert reads_now(world).waiting == 0
    assert not turns.take(world.must_claim(second))
    assert reads_now(world).waiting == 1
