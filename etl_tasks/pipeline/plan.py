"""From an interval to a run in the journal and its first messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import structlog

from etl_tasks.core.records import NewRun, PlannedRun, SanitizeRules
from etl_tasks.core.slice_sizing import Sizing
from etl_tasks.core.slicing import SlicePlan, SlicingRules, plan_slices, schedule_until
from etl_tasks.core.states import RunStatus, process_for
from etl_tasks.core.windows import Window
from etl_tasks.errors import BrokerRefused, TerminalError, TransientError, UsageError
from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.sizing import SizingContext, size_plan
from etl_tasks.pipeline.tell import dispatch_run

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan: a business interval (aware UTC), or neither edge for the schedule's next one."""

    since: datetime | None = None
    until: datetime | None = None
    manual: bool = False
    task_id: str | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What planning needs.

    ``check_services`` gets the plan and the moment, before anything is written: it returns notices, and raises
    TerminalError where the plan cannot be carried out, TransientError where that cannot be known now.
    """

    journal: Journal
    dispatcher: Dispatcher
    rules: SlicingRules
    sanitize: SanitizeRules
    process_name: str
    clean_table: str
    publish_at_end: bool
    partitions_in_flight: int
    check_services: Callable[[SlicePlan, datetime], list[str]]
    sizing: SizingContext


@dataclass(frozen=True, slots=True)
class Planning:
    """A plan on its way into the journal; ``details`` go into the run's row beside what every run says of itself.

    ``widen``: quiet neighbours may be put together; not where windows were cut on purpose.
    """

    plan: SlicePlan
    asked_until: datetime
    manual: bool
    now: datetime
    shift_min: int
    notices: tuple[str, ...] = ()
    task_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    widen: bool = False


def plan_interval(request: PlanRequest, context: PlanContext) -> PlannedRun:
    """Plan the run in one transaction, then send what is due.

    A redelivered request returns its run and sends what is due. Raises UsageError for bounds that cannot be meant,
    Unreachable when the journal is away. What Redis could not take, the sweeper sends.
    """
    journal = context.journal
    journal.ensure_once()
    process_name = process_for(context.process_name, request.manual)
    structlog.contextvars.bind_contextvars(process=process_name)
    if request.task_id is not None:
        before = journal.runs.planned_by(request.task_id)
        if before is not None:
            _dispatch(context, before.run_id, request.manual)
            return before
    end_stale_runs(context, process_name)

    interval = _interval(request, context, process_name)
    if isinstance(interval, PlannedRun):
        return interval
    since, until, now = interval
    scheduled = request.since is None
    loaded = _loaded(context, since, until, now) if scheduled else []
    plan = plan_slices(since, until, context.rules, now, loaded)
    return submit_plan(
        Planning(
            plan=plan,
            asked_until=until,
            manual=request.manual,
            now=now,
            shift_min=context.rules.shift_min,
            notices=request.notices,
            task_id=request.task_id,
            details={"from_watermark": scheduled},
            widen=True,
        ),
        context,
    )


def end_stale_runs(context: PlanContext, process_name: str | None = None) -> None:
    """End the runs, of one process or of all, that nobody works on any more (DESIGN, ``sanitize_stale``)."""
    for ended in context.journal.sweeps.sanitize_stale(context.sanitize, process_name):
        log.warning(
            "stale_run_ended", run=ended.run_id, process=ended.process_name, status=ended.status, reason=ended.reason
        )


def submit_plan(planning: Planning, context: PlanContext) -> PlannedRun:
    """Check the services, size the slices, write the run in one transaction and send what is due; refused plans are
    runs in error.
    """
    journal, plan = context.journal, planning.plan
    process_name = process_for(context.process_name, planning.manual)
    structlog.contextvars.bind_contextvars(process=process_name)
    notices = [*planning.notices, *plan.notices]
    answering = True
    try:
        notices += context.check_services(plan, planning.now)
    except TransientError as error:
        # Away or overloaded: the slices find out, and wait for it for SOURCE_PATIENCE_S without spending attempts.
        notices.append(f"planned without a check of the services: {error}")
        answering = False
    except TerminalError as error:
        log.error("plan_refused", error=str(error))
        return journal.runs.refuse(
            process_name,
            context.clean_table,
            planning.manual,
            str(error),
            status=RunStatus.ERROR,
            task_id=planning.task_id,
            since=plan.since,
            until=planning.asked_until,
        )
    sizing = size_plan(plan, context.sizing, widen=planning.widen, ask_source=answering)
    plan = sizing.plan
    planning = replace(planning, plan=plan)
    notices += sizing.notices
    planned = journal.runs.plan(
        NewRun(
            process_name=process_name,
            clean_table=context.clean_table,
            manual=planning.manual,
            publish_at_end=context.publish_at_end,
            shift_min=planning.shift_min,
            plan=plan,
            asked_until=planning.asked_until,
            task_id=planning.task_id,
            details={**_details(sizing, notices), **planning.details},
        ),
        context.partitions_in_flight,
    )
    structlog.contextvars.bind_contextvars(run=planned.run_id)
    _log_plan(planned, planning, notices, context.rules)
    if planned.status == RunStatus.PLANNED:
        reach(Failpoint.PLAN_COMMITTED, run=planned.run_id)
        _dispatch(context, planned.run_id, planning.manual)
    return planned


def _interval(
    request: PlanRequest, context: PlanContext, process_name: str
) -> tuple[datetime, datetime, datetime] | PlannedRun:
    journal = context.journal
    now = journal.now()
    if request.since is not None and request.until is not None:
        return request.since, request.until, now
    if request.since is not None or request.until is not None:
        raise UsageError("since and until go together: give both, or neither for the schedule's next interval")
    if request.manual:
        raise UsageError("a run by hand needs since and until: it has no watermark to begin at")
    watermark = journal.runs.watermark(process_name)
    if watermark is None:
        reason = (
            f"{process_name} has no watermark yet: load a first interval in its lane, for example "
            "python -m etl_tasks run --since 2025-08-08T00:00:00Z --until 2025-08-09T00:00:00Z; the first ok run sets "
            "it"
        )
    else:
        until = schedule_until(context.rules, now)
        if until > watermark:
            return watermark, until, now
        reason = f"nothing to read yet: the watermark {watermark:%Y-%m-%dT%H:%M:%SZ} is not before now less the lag"
    log.info("plan_skipped", reason=reason)
    return journal.runs.refuse(process_name, context.clean_table, request.manual, reason, task_id=request.task_id)


def _loaded(context: PlanContext, since: datetime, until: datetime, now: datetime) -> list[Window]:
    """What any lane has loaded of the source windows that the schedule is about to read."""
    whole = plan_slices(since, until, _one_window(context.rules), now)
    if not whole.source_windows:
        return []
    return context.journal.runs.loaded_windows(
        context.clean_table, Window(whole.source_windows[0].start, whole.source_windows[-1].end)
    )


def _one_window(rules: SlicingRules) -> SlicingRules:
    """The same edges cut as coarsely as can be: only the outer ones matter to the question of what is loaded."""
    return SlicingRules(
        step_min=max(rules.step_min, 60 * 24),
        shift_min=rules.shift_min,
        overlap_min=rules.overlap_min,
        overlap_only_first=rules.overlap_only_first,
        lag_min=rules.lag_min,
        initial_slice_min=60 * 24,
        max_slices=rules.max_slices,
        business_tz=rules.business_tz,
    )


def _details(sizing: Sizing, notices: list[str]) -> dict[str, Any]:
    plan, ceiling = sizing.plan, sizing.ceiling
    sized = {"sizing": {"most_rows": ceiling.rows, "why": ceiling.why, "estimates": sizing.asked}} if ceiling else {}
    return {
        "planned_slices": len(plan.slices),
        "partitions": list(plan.partitions),
        "steps": plan.steps,
        "notices": notices,
        **sized,
    }


def _log_plan(planned: PlannedRun, planning: Planning, notices: list[str], rules: SlicingRules) -> None:
    """One line with the time zone's context and the slicing as it came out, and one for each notice."""
    plan, zone = planning.plan, ZoneInfo(rules.business_tz or "UTC")
    log.info(
        "run_planned" if planned.status == RunStatus.PLANNED else "run_not_planned",
        status=planned.status,
        reason=planned.reason or None,
        resumes=planning.details.get("resumes"),
        since=plan.since.isoformat(),
        until=plan.until.isoformat(),
        asked_until=planning.asked_until.isoformat(),
        business_tz=str(zone),
        since_local=plan.since.astimezone(zone).isoformat(),
        until_local=plan.until.astimezone(zone).isoformat(),
        shift_min=planning.shift_min,
        overlap_min=rules.overlap_min,
        overlap_only_first=rules.overlap_only_first,
        lag_min=rules.lag_min,
        step_min=rules.step_min,
        initial_slice_min=rules.initial_slice_min,
        grid="utc",
        steps=plan.steps,
        windows=len(plan.source_windows),
        first_window=str(plan.source_windows[0]) if plan.source_windows else None,
        last_window=str(plan.source_windows[-1]) if plan.source_windows else None,
        slices=len(plan.slices),
        first_slice=str(plan.slices[0].window) if plan.slices else None,
        last_slice=str(plan.slices[-1].window) if plan.slices else None,
        partitions=list(plan.partitions),
    )
    for notice in notices:
        log.warning("run_noted", notice=notice)


def _dispatch(context: PlanContext, run_id: int, manual: bool) -> None:
    try:
        dispatch_run(context.journal, context.dispatcher, run_id, manual)
    except BrokerRefused:
        raise
    except TransientError as error:
        log.warning("dispatch_failed", run=run_id, error=str(error), next="the sweeper sends what is due")
