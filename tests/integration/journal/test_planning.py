"""Planning: one transaction, one active run a process, a plan delivered twice is one run."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial

import pytest

from etl_tasks.adapters.journal.runs import watermark_of
from etl_tasks.core.records import NewRun
from etl_tasks.core.states import RunStatus
from etl_tasks.core.windows import Window
from tests.integration.journal.world import (
    CLEAN,
    DAY,
    LANE,
    MANUAL_LANE,
    MIDNIGHT,
    NEXT_DAY,
    World,
    at,
    even_windows,
    hours,
    plan_of,
    side_by_side,
)

pytestmark = pytest.mark.integration


def test_a_plan_writes_everything_and_releases_the_first_partitions(world: World) -> None:
    planned = world.plan(even_windows(4, days=3), in_flight=2)
    assert planned.status == "planned"
    run = world.run_row(planned.run_id)
    assert (run.status, run.open_partitions, run.since, run.covered_until) == ("planned", 3, at(0), at(72))
    counts = world.rows(
        "SELECT partition, state, slices, open_slices FROM public.inc_processing_run_partitions ORDER BY partition"
    )
    assert counts == [(20250808, "loading", 4, 4), (20250809, "loading", 4, 4), (20250810, "waiting", 4, 4)]
    assert {day: len(ids) for day, ids in world.journal.slices.unsent(planned.run_id).items()} == {DAY: 4, NEXT_DAY: 4}


def test_partitions_are_released_one_by_one_in_order_of_time(world: World) -> None:
    run_id = world.plan(even_windows(1, days=4), in_flight=2).run_id
    ids = world.slices(run_id)
    assert world.claim(ids[2]) is None, "not released yet"
    world.load(ids[1])
    (transition,) = world.publish(NEXT_DAY)
    assert (transition.released_partitions, transition.finalize_due) == ([20250810], False)
    world.load(ids[2])
    (transition,) = world.publish(20250810)
    assert transition.released_partitions == [20250811]
    world.load(ids[3])
    world.load(ids[0])
    (transition,) = world.publish(20250811)
    assert (transition.released_partitions, transition.finalize_due) == ([], False)
    (transition,) = world.publish(DAY)
    assert transition.finalize_due
    assert world.journal.runs.finalize(run_id) == "ok"


def test_the_lane_goes_with_what_is_released(world: World) -> None:
    """A year of backfill goes to its own queue, also the partitions that a publish releases."""
    run_id = world.plan(even_windows(1, days=2), in_flight=1, process=MANUAL_LANE, manual=True).run_id
    assert world.load(world.slices(run_id)[0]).manual
    (transition,) = world.publish()
    assert (transition.released_partitions, transition.manual) == ([NEXT_DAY], True)


def test_two_planners_at_once_make_one_run_and_one_skipped(world: World) -> None:
    journals = [world.another() for _ in range(2)]
    for round_ in range(30):
        process = f"lane_{round_}"
        outcomes = side_by_side(
            [partial(world.plan, even_windows(4), process=process, journal=journal) for journal in journals]
        )
        assert sorted(outcome.status for outcome in outcomes) == ["planned", "skipped"], outcomes
        skipped = next(outcome for outcome in outcomes if outcome.status == "skipped")
        winner = next(outcome for outcome in outcomes if outcome.status == "planned")
        assert f"run {winner.run_id} is planned" in skipped.reason
        states = world.rows("SELECT status FROM public.inc_processing WHERE process_name = %s ORDER BY 1", process)
        assert states == [("planned",), ("skipped",)]
        assert len(world.slices(winner.run_id)) == 4


def test_the_index_alone_keeps_a_process_to_one_active_run(world: World) -> None:
    """Also a writer that knows nothing of the planners' lock, such as the old job."""
    world.plan(even_windows(1))
    outcomes = world.rows(
        "INSERT INTO public.inc_processing (process_name, status) VALUES (%s, 'running') "
        "ON CONFLICT DO NOTHING RETURNING id",
        LANE,
    )
    assert outcomes == []
    indexes = world.rows("SELECT indexname FROM pg_indexes WHERE schemaname = %s", world.schema)
    assert ("inc_processing_active_one_uq_idx",) in indexes


def test_a_plan_delivered_again_is_the_same_run_also_after_its_end(world: World) -> None:
    first = world.plan(even_windows(1), task_id="t-1")
    again = world.plan(even_windows(1), task_id="t-1")
    assert (again.run_id, again.redelivered) == (first.run_id, True)
    world.load_all(first.run_id)
    world.publish()
    world.journal.runs.finalize(first.run_id)
    late = world.journal.runs.planned_by("t-1")
    assert late is not None
    assert (late.run_id, late.status) == (first.run_id, "ok")
    assert world.plan(even_windows(1), task_id="t-1").run_id == first.run_id
    assert world.one("SELECT count(*) FROM public.inc_processing") == (1 + 1,), "the run and its publish"


def test_a_plan_delivered_twice_at_once_is_one_run(world: World) -> None:
    journals = [world.another() for _ in range(4)]
    for round_ in range(10):
        process, task = f"lane_{round_}", f"task_{round_}"
        outcomes = side_by_side(
            [
                partial(world.plan, even_windows(2), process=process, task_id=task, journal=journal)
                for journal in journals
            ]
        )
        assert len({outcome.run_id for outcome in outcomes}) == 1, outcomes
        assert sum(outcome.redelivered for outcome in outcomes) == 3


def test_a_refusal_delivered_twice_is_one_row(world: World) -> None:
    refusals = [world.journal.runs.refuse(LANE, CLEAN, False, "no watermark", task_id="t-2") for _ in range(2)]
    assert refusals[0].run_id == refusals[1].run_id
    assert world.run_row(refusals[0].run_id).status == "skipped"


def test_a_run_with_nothing_to_read_ends_where_it_is_planned_and_moves_the_watermark(world: World) -> None:
    world.load_publish_end([hours(0, 1)])
    plan = plan_of([hours(1, 2)])
    empty = type(plan)(at(1), at(2), (), (), 1, ("nothing to read: it is loaded already",), ())
    planned = world.journal.runs.plan(NewRun(LANE, CLEAN, False, True, 0, empty, at(2)), 2)
    assert planned.status == RunStatus.OK
    run = world.run_row(planned.run_id)
    assert (run.status, run.watermark) == ("ok", at(2))
    assert run.details["note"] == "nothing to read: it is loaded already"


def test_a_run_of_which_nothing_may_be_read_yet_is_skipped_and_says_so(world: World) -> None:
    world.load_publish_end([hours(0, 1)])
    plan = plan_of([hours(1, 2)])
    later = type(plan)(at(9), at(9), (), (), 0, ("nothing to read yet: since is in the future",), ())
    planned = world.journal.runs.plan(NewRun(LANE, CLEAN, False, True, 0, later, at(10), task_id="later"), 2)
    assert (planned.status, planned.reason) == ("skipped", "nothing to read yet: since is in the future")
    run = world.run_row(planned.run_id)
    assert (run.status, run.details["reason"]) == ("skipped", "nothing to read yet: since is in the future")
    with world.journal.database.transaction() as transaction:
        assert watermark_of(transaction, LANE) == at(1), "a skipped run moves no watermark"


def test_both_lanes_run_beside_each_other(world: World) -> None:
    assert world.plan([hours(0, 1)]).status == "planned"
    assert world.plan([hours(0, 1)], process=MANUAL_LANE, manual=True).status == "planned"


def test_text_that_postgresql_cannot_hold_is_made_visible(world: World) -> None:
    refused = world.journal.runs.refuse(LANE, CLEAN, False, "key 'a\x00b' \ud800", status=RunStatus.ERROR)
    assert world.run_row(refused.run_id).details == {"reason": "key 'a\\0b' \\ud800"}


def test_a_month_of_five_minute_slices_is_planned_in_under_three_seconds(world: World) -> None:
    five = timedelta(minutes=5)
    windows = [Window(MIDNIGHT + index * five, MIDNIGHT + (index + 1) * five) for index in range(8640)]
    began = time.monotonic()
    planned = world.plan(windows)
    took = time.monotonic() - began
    assert world.one("SELECT count(*) FROM public.inc_processing_slices WHERE run_id = %s", planned.run_id) == (8640,)
    assert took < 3, took
    print(f"8640 slices planned in {took:.2f} s")
