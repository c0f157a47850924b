"""What the journal knows of an ended run's remains: windows by state, what later runs loaded, what is owed."""

from __future__ import annotations

import pytest

from etl_tasks.adapters.journal.asking import AskJournal
from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.core.gaps import find_gaps
from etl_tasks.core.resuming import RunRemains, resume_plan
from etl_tasks.core.windows import Window, halve
from etl_tasks.errors import CountMismatch, Overloaded, RowRejected
from tests.integration.journal.world import (
    AT_END,
    CLEAN,
    DAY,
    LANE,
    MANUAL_LANE,
    NEXT_DAY,
    World,
    even_windows,
    hours,
)

pytestmark = pytest.mark.integration


def remains(world: World, run_id: int) -> RunRemains:
    found = world.journal.resuming.remains(run_id)
    assert found is not None
    return found


def left(world: World, run_id: int) -> list[Window]:
    return [each.window for each in remains(world, run_id).undone]


def fail(world: World, slice_id: int) -> None:
    world.journal.slices.fail(world.must_claim(slice_id), RowRejected("a misfit"), "a misfit")


def test_no_such_run(world: World) -> None:
    assert world.journal.resuming.remains(99) is None


def test_windows_in_error_are_left_and_done_ones_are_not(world: World) -> None:
    run_id = world.plan(even_windows(4), process=LANE).run_id
    first, second, third, fourth = world.slices(run_id)
    for slice_id in (first, third, fourth):
        world.load(slice_id)
    fail(world, second)
    world.publish()
    assert world.journal.runs.finalize(run_id) == "error"

    found = remains(world, run_id)

    assert [each.window for each in found.undone] == [hours(6, 12)]
    assert (found.undone[0].partition, found.undone[0].step) == (DAY, 1)
    assert (found.process_name, found.status, found.clean_table, found.slices) == (LANE, "error", CLEAN, 4)
    assert (found.loaded_since, found.owed) == ([], [])


def test_what_was_planned_or_running_at_the_end_of_an_aborted_run_is_left(world: World) -> None:
    run_id = world.plan(even_windows(2, days=3), in_flight=2).run_id
    first, second, *_ = world.slices(run_id)
    world.load(first)
    world.must_claim(second)
    assert world.journal.runs.abort(run_id, "cancelled") == "error"

    found = remains(world, run_id)

    assert [each.window for each in found.undone] == even_windows(2, days=3)[1:]
    assert found.reason == "cancelled"
    assert found.owed == [DAY], "what it had loaded is owed"


def test_of_a_split_the_halves_are_left_and_not_the_whole(world: World) -> None:
    run_id = world.plan([hours(0, 4)]).run_id
    (whole,) = world.slices(run_id)
    early, late = halve(hours(0, 4))
    world.journal.slices.split(world.must_claim(whole), (early, late), Overloaded("too much"), "too much")
    loaded, failed = world.slices(run_id, "planned")
    world.load(loaded)
    fail(world, failed)
    world.publish()
    world.journal.runs.finalize(run_id)

    assert left(world, run_id) == [late]


def test_what_later_runs_of_any_lane_loaded_is_told_and_what_earlier_ones_did_is_not(world: World) -> None:
    world.load_publish_end(even_windows(4), process=MANUAL_LANE, manual=True)
    run_id = world.plan(even_windows(4)).run_id
    world.journal.runs.abort(run_id, "cancelled")
    assert remains(world, run_id).loaded_since == [], "the run was to read again what an earlier one had read"

    world.load_publish_end([hours(0, 6)], process=MANUAL_LANE, manual=True)
    world.load_publish_end([hours(24, 30)], process=MANUAL_LANE, manual=True)

    found = remains(world, run_id)
    assert found.loaded_since == [hours(0, 6)], "of its own partitions only"
    assert [each.window for each in found.undone] == even_windows(4)


def test_a_publish_in_error_is_owed_and_becomes_due_again(world: World) -> None:
    run_id = world.plan(even_windows(2, days=2)).run_id
    for slice_id in world.slices(run_id):
        world.load(slice_id)
    world.publish(NEXT_DAY)
    world.journal.publishes.fail(world.must_claim_publish(DAY), CountMismatch("fewer rows"))
    assert world.journal.runs.finalize(run_id) == "error"
    assert world.claim_publish(DAY) is None
    found = remains(world, run_id)
    assert (found.undone, found.owed) == ([], [DAY])

    assert world.journal.resuming.owe_publishes(run_id) == [DAY]
    assert world.journal.resuming.owe_publishes(run_id) == [DAY], "again and again without harm"

    assert world.partition_row(DAY).publish_state == "due"
    world.publish(DAY)
    assert remains(world, run_id).owed == []
    assert world.journal.resuming.owe_publishes(run_id) == []


def test_a_run_that_ended_before_it_had_slices(world: World) -> None:
    planned = world.journal.runs.refuse(LANE, CLEAN, False, "no watermark yet")
    found = remains(world, planned.run_id)
    assert (found.status, found.slices, found.undone, found.reason) == ("skipped", 0, [], "no watermark yet")


def test_what_a_rebuild_lost_again_is_left_and_gaps_tells_to_resume_what_resume_takes(world: World) -> None:
    failed = world.plan([hours(0, 1), hours(1, 2)], process=LANE).run_id
    first, second = world.slices(failed)
    fail(world, first)
    world.load(second)
    world.publish()
    assert world.journal.runs.finalize(failed) == "error"
    world.load_publish_end([hours(0, 1)], process=MANUAL_LANE, manual=True)
    assert resume_plan(remains(world, failed)) is None

    AskJournal(world.journal.database, CLEAN).ask(DAY, rebuild=True, least_rows=1, lost=[hours(0, 0.5)])
    world.publish()

    found = find_gaps(hours(0, 2), GapJournal(world.journal.database, CLEAN, AT_END).facts(hours(0, 2)))
    assert [run.run_id for run in found.runs.values()] == [failed]
    plan = resume_plan(remains(world, failed))
    assert plan is not None
    assert [each.window for each in plan.slices] == [hours(0, 1)]
