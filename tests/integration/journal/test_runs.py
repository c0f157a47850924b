"""The end of runs: status, watermark and holes in one transaction; stale and stuck runs; retention."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from etl_tasks.core.records import EndedRun, SanitizeRules
from etl_tasks.core.windows import Window
from etl_tasks.errors import Unreachable
from tests.integration.journal.world import (
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

RULES = SanitizeRules(planned_ttl_min=60, heartbeat_ttl_min=15)


def fail(world: World, slice_id: int) -> None:
    world.journal.slices.fail(world.must_claim(slice_id), ValueError("no"), "no")


def watermark(world: World, process: str = LANE) -> datetime | None:
    return world.journal.runs.watermark(process)


def test_the_watermark_moves_with_the_end_of_the_run_and_not_before(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    assert world.journal.runs.finalize(run_id) is None
    world.load_all(run_id)
    assert world.journal.runs.finalize(run_id) is None, "loaded, not published"
    world.publish()
    assert watermark(world) is None
    assert world.journal.runs.finalize(run_id) == "ok"
    assert world.journal.runs.finalize(run_id) is None
    row = world.run_row(run_id)
    assert (row.watermark, row.status, row.details["slices"]) == (at(2), "ok", 2)
    assert row.ts_end is not None
    assert watermark(world) == at(2)
    assert watermark(world, MANUAL_LANE) is None


def test_the_watermark_moves_only_forward_and_never_over_a_gap(world: World) -> None:
    world.load_publish_end([hours(4, 6)])
    world.load_publish_end([hours(1, 2)])
    assert watermark(world) == at(6), "an older interval does not take it back"
    world.load_publish_end([hours(7, 8)])
    assert watermark(world) == at(6), "since lies after it"
    world.load_publish_end([hours(5, 7)])
    assert watermark(world) == at(7)


def test_the_watermark_stays_at_the_earliest_hole_in_business_time(world: World) -> None:
    """Source windows are shifted by −300 minutes against the business interval."""
    windows = [hours(0, 1), hours(1, 2), hours(2, 3)]
    run_id = world.plan(windows, since=at(5), until=at(8), shift_min=-300).run_id
    first, second, third = world.slices(run_id)
    world.load(first)
    fail(world, third)
    fail(world, second)
    world.publish()
    assert world.journal.runs.finalize(run_id) == "error"
    assert watermark(world) == at(6)
    assert world.run_row(run_id).details["failed_slices"] == 2


def test_a_hole_that_another_lane_has_loaded_is_none(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    first, second = world.slices(run_id)
    fail(world, first)
    world.load(second)
    world.publish()
    world.load_publish_end([hours(0, 1)], process=MANUAL_LANE, manual=True)
    assert world.journal.runs.finalize(run_id) == "error", "it did not load it itself"
    assert watermark(world) == at(2)


def test_the_schedule_passes_a_hole_and_the_watermark_catches_up_when_it_is_mended(world: World) -> None:
    world.load_publish_end([hours(0, 1)])
    run_id = world.plan([hours(1, 2), hours(2, 3)]).run_id
    fail(world, world.slices(run_id)[0])
    world.load_all(run_id)
    world.publish()
    world.journal.runs.finalize(run_id)
    assert watermark(world) == at(1)
    loaded = world.journal.runs.loaded_windows(CLEAN, hours(1, 4))
    assert loaded == [hours(2, 3)], "not to be read again"
    world.load_publish_end([hours(1, 2), hours(3, 4)])
    assert watermark(world) == at(4)
    assert world.journal.runs.loaded_windows(CLEAN, hours(-5, 30)) == [hours(0, 4)]


def test_loaded_windows_of_several_days_are_cut_to_what_was_asked(world: World) -> None:
    world.load_publish_end([*even_windows(2, days=2), hours(60, 61)])
    asked = Window(at(6) + timedelta(seconds=1), at(60.5))
    assert world.journal.runs.loaded_windows(CLEAN, asked) == [
        Window(asked.start, at(24)),
        hours(24, 48),
        Window(at(60), asked.end),
    ]
    assert world.journal.runs.loaded_windows("stg.other", asked) == []


def test_an_aborted_run_keeps_what_it_reached(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2), hours(2, 3)]).run_id
    first, second, _ = world.slices(run_id)
    world.load(first)
    world.must_claim(second)
    assert world.journal.runs.abort(run_id, "cancelled by ann\x00") == "error"
    assert world.journal.runs.abort(run_id, "again") is None
    assert watermark(world) == at(1)
    row = world.run_row(run_id)
    assert (row.status, row.details["error"], row.details["failed_slices"]) == ("error", "cancelled by ann\\0", 2)
    assert {world.slice_row(each).error_kind for each in world.slices(run_id, "error")} == {"RunEnded"}
    assert world.plan([hours(1, 2)]).status == "planned", "the process is free"


def test_ok_without_a_publish_at_the_end_says_loaded_and_leaves_it_owed(world: World) -> None:
    run_id = world.plan([hours(0, 1)], publish_at_end=False).run_id
    (transition,) = world.load_all(run_id)
    assert transition.finalize_due
    assert world.journal.runs.finalize(run_id) == "ok"
    row = world.partition_row()
    assert (row.loaded_gen, row.published_gen) == (1, 0)
    assert row.first_unpublished_at is not None


def sanitized(world: World, process: str | None = None) -> list[tuple[int, str]]:
    ended: list[EndedRun] = world.journal.sweeps.sanitize_stale(RULES, process)
    return [(run.run_id, run.status) for run in ended]


def test_a_planned_run_nobody_took_up_is_skipped(world: World) -> None:
    run_id = world.plan([hours(0, 1)]).run_id
    world.age_run(run_id, 59)
    assert sanitized(world) == []
    world.age_run(run_id, 2)
    assert sanitized(world, MANUAL_LANE) == [], "of the other process"
    assert sanitized(world, LANE) == [(run_id, "skipped")]
    assert watermark(world) is None
    assert world.claim(world.slices(run_id)[0]) is None


def test_a_running_run_with_a_dead_heartbeat_and_no_live_lease_is_an_error(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    claim = world.must_claim(world.slices(run_id)[0])
    world.age_run(run_id, 16)
    assert sanitized(world) == [], "a live lease"
    world.expire_leases()
    world.journal.runs.heartbeat(run_id, progress=False)
    assert sanitized(world) == [], "a live heartbeat"
    world.age_run(run_id, 16)
    assert world.journal.sweeps.heartbeat_active_runs() == [run_id]
    assert sanitized(world) == [], "the sweeper takes care of it"
    world.age_run(run_id, 16)
    assert sanitized(world) == [(run_id, "error")]
    assert world.slice_row(claim.slice_id).state == "error"


def test_a_run_whose_publish_lives_is_not_stale(world: World) -> None:
    run_id = world.plan([hours(0, 1)]).run_id
    world.load_all(run_id)
    claim = world.must_claim_publish()
    for each in (run_id, claim.publish_run_id):
        world.age_run(each, 60)
    assert sanitized(world) == []
    world.expire_leases()
    assert sanitized(world) == [(run_id, "error"), (claim.publish_run_id, "error")]


def test_the_hard_ttl_ends_also_what_lives(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    world.must_claim(world.slices(run_id)[0])
    world.age_run(run_id, 121)
    world.journal.runs.heartbeat(run_id, progress=True)
    rules = SanitizeRules(hard_ttl_min=120)
    assert [run.run_id for run in world.journal.sweeps.sanitize_stale(rules)] == [run_id]


def test_a_run_that_comes_to_life_meanwhile_is_not_ended(world: World) -> None:
    """Between the question and the end of a stale run a worker may take it up: it is asked again under its lock."""
    run_id = world.plan([hours(0, 1)]).run_id
    world.age_run(run_id, 61)
    worker, sweeper = world.another(), world.another()
    transaction_of = sweeper.database.transaction
    calls: list[int] = []

    def late(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            world.must_claim(world.slices(run_id)[0], worker)
        return transaction_of(*arguments)

    sweeper.database.transaction = late  # type: ignore[method-assign]
    assert sweeper.sweeps.sanitize_stale(RULES) == []
    assert len(calls) > 2
    assert world.run_row(run_id).status == "running"


def stuck(world: World) -> list[int]:
    return [run.run_id for run in world.journal.sweeps.end_runs_without_progress(3600)]


def test_a_run_without_progress_ends_and_says_how_to_go_on(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    (first, second) = world.slices(run_id)
    world.load(first)
    world.age_run(run_id, 59)
    assert stuck(world) == []
    world.age_run(run_id, 2)
    world.journal.sweeps.heartbeat_active_runs()
    claim = world.must_claim(second)
    world.journal.slices.give_back(claim, Unreachable("no route"), "no route", delay_s=0, refund=True)
    (ended,) = world.journal.sweeps.end_runs_without_progress(3600)
    assert (ended.run_id, ended.status) == (run_id, "error"), "heartbeats, claims and refunds are no progress"
    assert "run --manual" in ended.reason
    assert "no route" in world.slice_row(second).last_error
    assert world.partition_row().publish_state == "due"


def test_waiting_for_a_publishs_turn_is_not_being_stuck(world: World) -> None:
    waiting = world.plan([hours(0, 1)]).run_id
    world.load_all(waiting)
    world.load_all(world.plan([hours(24, 25)], process=MANUAL_LANE, manual=True).run_id)
    other = world.must_claim_publish(20250809)
    world.age_run(waiting, 61)
    assert stuck(world) == [], "publishes are one at a time, and one goes on"
    world.finish_publish(other)
    world.rows(
        "UPDATE public.inc_processing_partitions SET not_before = clock_timestamp() + interval '1 min' "
        "WHERE partition = %s",
        DAY,
    )
    assert stuck(world) == [], "it rests as the cadence says"
    world.make_due()
    claim = world.must_claim_publish()
    assert stuck(world) == [], "it is being published"
    world.expire_leases()
    assert stuck(world) == [waiting]
    with pytest.raises(AssertionError):
        world.must_claim_publish(20250809)
    assert world.finish_publish(claim) == [], "the publish itself goes on, for nobody"


def test_retention_keeps_what_is_needed(world: World) -> None:
    old_ok = world.load_publish_end([hours(0, 1)])
    bearer = world.load_publish_end([hours(1, 4)])
    no_bearer = world.load_publish_end([hours(1, 2)])
    unpublished = world.plan([hours(30, 31)], publish_at_end=False).run_id
    world.load_all(unpublished)
    assert world.journal.runs.finalize(unpublished) == "ok"
    last_ok = world.load_publish_end([hours(0, 0.5)])
    failed = world.plan([hours(90, 91)], process=MANUAL_LANE, manual=True).run_id
    world.journal.runs.abort(failed, "cancelled")
    young = world.plan([hours(5, 6)]).run_id
    world.journal.runs.abort(young, "cancelled")
    active = world.plan([hours(6, 7)]).run_id
    coverage = world.rows("SELECT partition, loaded, published FROM public.inc_processing_partitions ORDER BY 1")
    world.rows("UPDATE public.inc_processing SET ts_end = ts_end - interval '8 d' WHERE id <> %s", young)
    assert world.journal.sweeps.prune(0) == 0, "0 keeps all"
    assert world.journal.sweeps.prune(30) == 0
    world.journal.sweeps.prune(7)
    kept = {row.id for row in world.rows("SELECT id FROM public.inc_processing WHERE process_name NOT LIKE '%:dedup'")}
    # bearer, no_bearer and last_ok all carry at(4): equal watermarks are kept until a later one supersedes them.
    assert kept == {bearer, no_bearer, unpublished, last_ok, young, active}, (old_ok, failed)
    assert watermark(world) == at(4)
    for name in ("_slices", "_run_partitions", "_rejects"):
        orphans = (
            f"SELECT run_id FROM public.inc_processing{name} WHERE run_id NOT IN (SELECT id FROM public.inc_processing)"
        )
        assert world.rows(orphans) == []
    assert coverage == world.rows(
        "SELECT partition, loaded, published FROM public.inc_processing_partitions ORDER BY 1"
    )
    dedup = world.rows("SELECT id FROM public.inc_processing WHERE process_name LIKE '%:dedup'")
    assert len(dedup) == 1, "the last ok one"
    # A later watermark lets the old bearers go.
    world.journal.runs.abort(active, "cancelled")
    world.load_publish_end([hours(4, 5)])
    world.journal.sweeps.prune(7)
    assert bearer not in {row.id for row in world.rows("SELECT id FROM public.inc_processing")}
    assert watermark(world) == at(5)


def test_retention_goes_on_past_its_batch(world: World) -> None:
    for _ in range(250):
        world.journal.runs.refuse(LANE, CLEAN, False, "no watermark")
    world.rows("UPDATE public.inc_processing SET ts_end = ts_end - interval '2 d'")
    assert world.journal.sweeps.prune(1) == 250


def test_a_finished_attempt_of_a_run_that_goes_on_is_progress(world: World) -> None:
    run_id = world.plan(even_windows(2)).run_id
    claim = world.must_claim(world.slices(run_id)[0])
    world.age_run(run_id, 61)
    world.journal.slices.finish(claim, result())
    assert stuck(world) == []
