"""The reconcile that beat starts: the last repair looked at, the last hours compared, a repair begun; never waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from etl_tasks.core.reconcile_verdict import Verdict, grid_slices, last_interval, repair_work
from etl_tasks.core.slicing import plan_slices
from etl_tasks.errors import TransientError
from etl_tasks.pipeline.plan import PlanContext
from etl_tasks.pipeline.reconciliation import ReconcileRequest, ReconciliationContext, alone, reconcile
from etl_tasks.pipeline.repair import begin_repair

log = structlog.get_logger(__name__)

BY_SCHEDULE = {"asked_by": "schedule"}


@dataclass(frozen=True, slots=True)
class ScheduledReconcileContext:
    """``last`` up to the watermark is compared; ``repair`` loads what differs. It stops between two windows once
    ``budget_s`` has passed, or when ``check_stop`` raises since its worker stops.
    """

    reconciling: ReconciliationContext
    planning: PlanContext
    last: timedelta
    by_hash: bool
    repair: bool
    budget_s: float
    check_stop: Callable[[], None]


def reconcile_on_schedule(context: ScheduledReconcileContext) -> int | None:
    """The id of the reconcile, None where there was nothing to compare.

    A repair is begun and left to the workers, this one's slot among them: the next reconcile looks at its windows
    first, and none is begun while one is under way. What a repair loaded and did not mend is not tried again for a day;
    what it did not come to load is. Raises UsageError without a watermark,
    TransientError where another reconcile is under way, and as ``reconcile``.
    """
    reconciling = replace(context.reconciling, check=_deadline(context))
    with alone(reconciling):
        _look_at_repairs(context, reconciling)
        since, until = last_interval(
            context.planning.journal.runs.watermark(context.planning.process_name),
            context.last,
            context.planning.process_name,
        )
        rules = replace(context.planning.rules, overlap_min=0)
        plan = plan_slices(since, until, rules, context.planning.journal.now())
        if not plan.slices:
            log.warning("reconcile_nothing", notices=list(plan.notices))
            return None
        verdict = reconcile(ReconcileRequest(plan.slices, context.by_hash, details=BY_SCHEDULE), reconciling)
        if context.repair and not verdict.exact:
            _repair(verdict, context)
    return verdict.reconcile_id


def _deadline(context: ScheduledReconcileContext) -> Callable[[], None]:
    over_at = time.monotonic() + context.budget_s

    def check() -> None:
        context.check_stop()
        if time.monotonic() >= over_at:
            raise TransientError(
                f"the time of one scheduled reconcile is over ({context.budget_s / 60:g} min, from "
                "TASK_SOFT_TIME_LIMIT_MIN): lower RECONCILE_LAST_HOURS, or write RECONCILE_BY_HASH=0"
            )

    return check


def _look_at_repairs(context: ScheduledReconcileContext, reconciling: ReconciliationContext) -> None:
    while (repaired := reconciling.journal.reconciles.repair_to_check()) is not None:
        slices = grid_slices(repaired.windows, context.planning.rules, reconciling.journal.now())
        reconcile(
            ReconcileRequest(slices, repaired.by_hash, repaired.reconcile_id, repaired.run_id, BY_SCHEDULE), reconciling
        )


def _repair(verdict: Verdict, context: ScheduledReconcileContext) -> None:
    reconciles = context.planning.journal.reconciles
    under_way = reconciles.repair_under_way()
    if under_way is not None:
        # What differs now may be what it is about to load.
        log.info("repair_under_way", reconcile=verdict.reconcile_id, run=under_way)
        return
    work = repair_work(verdict.findings, reconciles.unmended())
    if work:
        begin_repair(verdict.reconcile_id, work, context.planning)
    if work.beyond:
        log.warning(
            "repair_would_not_mend",
            reconcile=verdict.reconcile_id,
            windows=[str(each.window) for each in work.beyond[:10]],
            causes=sorted({str(each.cause) for each in work.beyond}),
        )
