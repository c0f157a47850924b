"""Resume an ended run: a new run by hand of exactly the windows that it did not load, and the publishes it is owed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from etl_tasks.core.records import PlannedRun
from etl_tasks.core.resuming import check_resumable, resume_plan
from etl_tasks.errors import TransientError, UsageError
from etl_tasks.pipeline.plan import PlanContext, Planning, end_stale_runs, submit_plan
from etl_tasks.pipeline.ports import Dispatcher

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Resumed:
    """The new run, None where no window was left undone; partitions whose publish has been made due."""

    run: PlannedRun | None
    publishes: Sequence[int]


def resume_run(run_id: int, context: PlanContext) -> Resumed:
    """Plan a run by hand of what the run ``run_id`` did not load, and send what is due.

    Raises UsageError when there is no such run, when it has not ended, and when nothing of it is left to do;
    Unreachable when the journal is away. What Redis could not take, the sweeper sends.
    """
    journal = context.journal
    journal.ensure_once()
    # A run whose workers are dead for good has ended: it is only that nobody has said so yet.
    end_stale_runs(context)
    remains = journal.resuming.remains(run_id)
    if remains is None:
        raise UsageError(f"the journal has no run {run_id}: see python -m etl_tasks status")
    check_resumable(remains, context.clean_table)
    plan = resume_plan(remains)
    if plan is None and not remains.owed:
        raise UsageError(
            f"nothing to resume: run {run_id} of {remains.process_name} ended {remains.status}, all of its windows "
            "are loaded (by it or by a later run), and no publish of what it loaded is owed"
        )
    publishes = journal.resuming.owe_publishes(run_id) if remains.owed else []
    send_publishes(context.dispatcher, publishes)
    if plan is None:
        return Resumed(None, publishes)
    planning = Planning(
        plan=plan,
        asked_until=plan.until,
        manual=True,
        now=journal.now(),
        shift_min=remains.shift_min,
        details={"resumes": run_id},
    )
    return Resumed(submit_plan(planning, context), publishes)


def send_publishes(dispatcher: Dispatcher, partitions: Sequence[int]) -> None:
    """Tell the workers of publishes that are due; what Redis does not take, the sweeper sends."""
    try:
        for partition in partitions:
            dispatcher.send_publish(partition)
    except TransientError as error:
        log.warning("dispatch_failed", error=str(error), next="the sweeper sends what is due")
