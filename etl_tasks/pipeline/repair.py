"""Mending what a reconcile found: publishes that are owed, and one run by hand of just the windows that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from etl_tasks.core.reconcile_verdict import RepairWork
from etl_tasks.core.records import PlannedRun, PublishProgress
from etl_tasks.core.resuming import exact_plan
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.states import RunStatus
from etl_tasks.pipeline.plan import PlanContext, Planning, end_stale_runs, submit_plan
from etl_tasks.pipeline.tell import send_publishes

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Repair:
    """What was begun: the publishes made due, as they stood then, and the run (None: no window is to be loaded)."""

    publishes: Sequence[PublishProgress]
    run: PlannedRun | None


def begin_repair(reconcile_id: int, work: RepairWork, context: PlanContext) -> Repair:
    """Make the owed publishes due and plan the run, and write both beside the reconcile. Nothing is waited for.

    The run publishes at its end whatever ALWAYS_PUBLISH_AT_END says. It is ``skipped`` where another run by hand is
    active. Raises Unreachable when the journal is away; what Redis could not take, the sweeper sends.
    """
    reconciles = context.journal.reconciles
    publishes = reconciles.owe_publishes(work.publish) if work.publish else []
    send_publishes(context.dispatcher, [each.partition for each in publishes])
    run = _plan_run(reconcile_id, work.load, context) if work.load else None
    begun = run if run is not None and run.status == RunStatus.PLANNED else None
    if begun or publishes:
        reconciles.note(
            reconcile_id,
            {
                "repair": {
                    "run": begun.run_id if begun else None,
                    "windows": len(work.load) if begun else 0,
                    "publishes": [each.partition for each in publishes],
                }
            },
        )
    log.info(
        "repair_begun",
        reconcile=reconcile_id,
        run=run.run_id if run else None,
        status=run.status if run else None,
        windows=len(work.load),
        publishes=list(work.publish),
    )
    return Repair(publishes, run)


def _plan_run(reconcile_id: int, slices: Sequence[PlannedSlice], context: PlanContext) -> PlannedRun:
    end_stale_runs(context)
    plan = exact_plan(slices, context.rules.shift_min)
    planning = Planning(
        plan=plan,
        asked_until=plan.until,
        manual=True,
        now=context.journal.now(),
        shift_min=context.rules.shift_min,
        details={"repairs_reconcile": reconcile_id},
    )
    return submit_plan(planning, replace(context, publish_at_end=True))
