"""The schedule's reconcile in a real journal: which repairs it begins, looks at, and does not try again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from etl_tasks.core.records import SanitizeRules
from etl_tasks.core.slice_sizing import SizingRules
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.core.windows import Window
from etl_tasks.errors import Unreachable
from etl_tasks.pipeline.plan import PlanContext
from etl_tasks.pipeline.reconciliation import ReconciliationContext
from etl_tasks.pipeline.scheduled_reconcile import ScheduledReconcileContext, reconcile_on_schedule
from etl_tasks.pipeline.sizing import SizingContext
from tests.integration.journal.world import CLEAN, DAY, LANE, MANUAL_LANE, World, hours
from tests.unit.test_reconciling import Source, Target, clean, context, row

pytestmark = pytest.mark.integration

# Rows of the source, ten seconds apart from noon on; windows of half an hour.
EARLY, LATE = hours(12, 12.5), hours(12.5, 13)
ROWS = [row(1), row(2), row(200)]


class NoStatistics:
    """A source that knows nothing of sizes."""

    def estimate(self, window: Window) -> None: ...


class Nobody:
    """Takes every message; there is no worker."""

    def send_partition(self, partition: int, slice_ids: Sequence[int], manual: bool) -> None: ...
    def send_publish(self, partition: int) -> None: ...


def look(world: World, target: Target, *, source: Source | None = None) -> int | None:
    """One reconcile of the schedule, over the hour up to the watermark."""
    world.await_unlocked()  # by the one before
    reconciling = ReconciliationContext(
        journal=world.journal,
        open_sides=lambda: nullcontext(context(source or Source(ROWS), target)),
        clean_table=CLEAN,
        raw_ttl_s=3600.0,
        worker="t",
    )
    dispatcher: Any = Nobody()
    planning = PlanContext(
        journal=world.journal,
        dispatcher=dispatcher,
        rules=SlicingRules(step_min=30, initial_slice_min=30),
        sanitize=SanitizeRules(),
        process_name=LANE,
        clean_table=CLEAN,
        publish_at_end=True,
        partitions_in_flight=2,
        check_services=lambda plan, now: [],
        sizing=SizingContext(SizingRules(), 30, lambda: world.journal.sizing, lambda: nullcontext(NoStatistics())),
    )
    return reconcile_on_schedule(
        ScheduledReconcileContext(
            reconciling=reconciling,
            planning=planning,
            last=timedelta(hours=1),
            by_hash=True,
            repair=True,
            budget_s=60.0,
            check_stop=lambda: None,
        )
    )


def repair_runs(world: World) -> list[int]:
    """The runs that repairs have begun; those that were skipped are none."""
    rows = world.rows(
        "SELECT id FROM public.inc_processing WHERE details ? 'repairs_reconcile' AND status <> 'skipped' ORDER BY id"
    )
    return [each.id for each in rows]


def loads(world: World, run_id: int) -> list[Window]:
    rows = world.rows(
        "SELECT window_from, window_to FROM public.inc_processing_slices WHERE run_id = %s ORDER BY 1", run_id
    )
    return [Window(each.window_from, each.window_to) for each in rows]


def checks(world: World) -> list[tuple[int, str]]:
    """Which reconciles were looked at again, and how that ended."""
    rows = world.rows(
        "SELECT repairs, status FROM public.inc_processing_reconciles WHERE repairs IS NOT NULL ORDER BY id"
    )
    return [(each.repairs, each.status) for each in rows]


def work_off(world: World, run_id: int, fail: Sequence[Window] = ()) -> str | None:
    """Load the run, but for the windows in ``fail``, publish it and end it."""
    for slice_id in world.slices(run_id, "planned"):
        slice_ = world.slice_row(slice_id)
        if Window(slice_.window_from, slice_.window_to) in fail:
            world.journal.slices.fail(world.must_claim(slice_id), ValueError("no"), "no")
        else:
            world.load(slice_id)
    world.publish()
    return world.journal.runs.finalize(run_id)


def test_what_a_repair_did_not_come_to_load_is_tried_by_the_next_one(world: World) -> None:
    world.load_publish_end([EARLY, LATE])
    # Another run by hand has loaded the late window anew, and is still there: a repair can only have it published.
    busy = world.plan([LATE], process=MANUAL_LANE, manual=True).run_id
    world.load_all(busy)

    first = look(world, Target([]))

    (noted,) = world.rows("SELECT details -> 'repair' AS repair FROM public.inc_processing_reconciles")
    assert noted.repair == {"run": None, "windows": 0, "publishes": [DAY]}
    assert repair_runs(world) == []
    world.publish()
    assert world.journal.runs.finalize(busy) == "ok"

    look(world, Target([]))

    assert checks(world) == [(first, "different")]
    (run_id,) = repair_runs(world)
    assert loads(world, run_id) == [EARLY, LATE], "neither was loaded by the first repair"


def test_what_a_repair_loaded_in_vain_is_not_tried_again_and_what_failed_is(world: World) -> None:
    world.load_publish_end([EARLY, LATE])
    first = look(world, Target([]))
    (run_id,) = repair_runs(world)
    assert work_off(world, run_id, fail=[LATE]) == "error"

    look(world, Target([]))

    assert checks(world) == [(first, "different")]
    _, again = repair_runs(world)
    assert loads(world, again) == [LATE], "the early one was loaded, and differs all the same"

    assert work_off(world, again) == "ok"
    look(world, Target([]))
    assert len(repair_runs(world)) == 2, "for a day"
    world.rows("UPDATE public.inc_processing_reconciles SET started_at = started_at - interval '25 hours'")
    look(world, Target([]))
    assert loads(world, repair_runs(world)[2]) == [EARLY, LATE]


def test_no_repair_is_begun_beside_one_and_none_is_forgotten(world: World) -> None:
    world.load_publish_end([EARLY, LATE])
    first = look(world, Target(clean(ROWS[2])))
    (run_id,) = repair_runs(world)
    assert loads(world, run_id) == [EARLY]

    second = look(world, Target([]))  # now the late window differs too

    assert second is not None
    assert repair_runs(world) == [run_id]
    skipped = world.rows("SELECT 1 FROM public.inc_processing WHERE status = 'skipped'")
    assert skipped == [], "it was not even tried"
    # Somebody's repair by hand, which had only to publish, is newer.
    world.journal.reconciles.note(second, {"repair": {"run": None, "windows": 0, "publishes": [DAY]}})
    look(world, Target([]))
    assert checks(world) == [(second, "different")]

    assert work_off(world, run_id) == "ok"
    look(world, Target(clean(*ROWS)))

    assert checks(world) == [(second, "different"), (first, "exact")]


def test_a_repair_that_could_not_be_looked_at_is_looked_at_again_but_not_for_ever(world: World) -> None:
    world.load_publish_end([EARLY, LATE])
    first = look(world, Target([]))
    assert work_off(world, repair_runs(world)[0]) == "ok"
    away = Source([], faults=[Unreachable("nobody at home")] * 20)

    for failed in range(1, 4):
        with pytest.raises(Unreachable):
            look(world, Target([]), source=away)
        assert checks(world) == [(first, "error")] * failed

    look(world, Target(clean(*ROWS)))

    assert checks(world) == [(first, "error")] * 3, "the hour itself is compared"
    (newest,) = world.rows("SELECT status FROM public.inc_processing_reconciles ORDER BY id DESC LIMIT 1")
    assert newest.status == "exact"
