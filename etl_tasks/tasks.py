"""The tasks: ids in, one step of the pipeline, id out. They raise nothing that was expected; it is in the journal."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

from etl_tasks.celery import app, settings, wiring
from etl_tasks.core.business_time import parse_interval
from etl_tasks.errors import EtlError, UsageError
from etl_tasks.pipeline.extract import extract_load_slice as extract_step
from etl_tasks.pipeline.finalize import finalize_run as finalize_step
from etl_tasks.pipeline.plan import PlanRequest
from etl_tasks.pipeline.plan import plan_interval as plan_step
from etl_tasks.pipeline.publish import dedup_publish as publish_step
from etl_tasks.pipeline.scheduled_reconcile import reconcile_on_schedule as reconcile_step
from etl_tasks.pipeline.sweep import sweep as sweep_step

log = structlog.get_logger(__name__)

_LONGEST_TIME = 64
_LAST_PARTITION = 99991231


@contextmanager
def _task_log(task: Task, **ids: Any) -> Iterator[None]:
    """The task's ids on every line; what went wrong is logged, not raised: journal and sweeper go on from here."""
    # Arguments are anybody's who reaches Redis: a megabyte of them is not to be on every line.
    shown = {name: value if isinstance(value, int) else reprlib.repr(value) for name, value in ids.items()}
    structlog.contextvars.bind_contextvars(**shown)
    try:
        yield
    except EtlError as error:
        log.warning("task_gave_up", name=task.name, error_kind=type(error).__name__, error=str(error))
    except SoftTimeLimitExceeded:
        # Between two steps of the work; what it held comes back when its lease has expired.
        log.warning(
            "task_gave_up", name=task.name, error_kind="SoftTimeLimitExceeded", error="the soft time limit passed"
        )


def _checked_id(value: Any, name: str, most: int = 2**63 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise UsageError(f"{name} must be a positive integer up to {most}, not {reprlib.repr(value)}")
    return value


def _checked_time(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TIME:
        raise UsageError(f"{name} must be an ISO time such as 2025-08-08T00:00:00Z, not {reprlib.repr(value)}")
    return value


@app.task(name="etl_tasks.plan_interval", bind=True)
def plan_interval(self: Task, since: str | None = None, until: str | None = None, manual: bool = False) -> int | None:
    """Plan ``[since, until)`` (both ISO times), or without them the schedule's next interval; the run's id."""
    with _task_log(self, manual=manual):
        if not isinstance(manual, bool):
            raise UsageError(f"manual must be true or false, not {reprlib.repr(manual)}")
        request = PlanRequest(manual=manual, task_id=self.request.id)
        if since is not None or until is not None:
            if since is None or until is None:
                raise UsageError("since and until go together: give both, or neither for the schedule's next interval")
            interval = parse_interval(
                _checked_time(since, "since"), _checked_time(until, "until"), settings().business_tz or None
            )
            request = PlanRequest(interval.since, interval.until, manual, self.request.id, tuple(interval.notices))
        return plan_step(request, wiring().plan_context()).run_id
    return None


@app.task(name="etl_tasks.extract_load_slice", bind=True)
def extract_load_slice(self: Task, slice_id: int) -> int | None:
    """One attempt of one slice; its id."""
    with _task_log(self, slice=slice_id):
        checked = _checked_id(slice_id, "slice_id")
        extract_step(checked, wiring().extract_context())
        return checked
    return None


@app.task(name="etl_tasks.dedup_publish", bind=True)
def dedup_publish(self: Task, partition: int) -> int | None:
    """Publish the partition if that is due; its number."""
    with _task_log(self, partition=partition):
        checked = _checked_id(partition, "partition", _LAST_PARTITION)
        publish_step(checked, wiring().publish_context())
        return checked
    return None


@app.task(name="etl_tasks.finalize_run", bind=True)
def finalize_run(self: Task, run_id: int) -> int | None:
    """End the run if nothing of it is open; its id."""
    with _task_log(self, run=run_id):
        checked = _checked_id(run_id, "run_id")
        finalize_step(checked, wiring().journal)
        return checked
    return None


@app.task(name="etl_tasks.reconcile", bind=True)
def reconcile(self: Task) -> int | None:
    """Compare the last RECONCILE_LAST_HOURS that the schedule has loaded; the id of the reconcile, if there was one."""
    with _task_log(self):
        return reconcile_step(wiring().scheduled_reconcile_context())
    return None


@app.task(name="etl_tasks.sweep", bind=True)
def sweep(self: Task) -> None:
    """One round of the sweeper, now."""
    with _task_log(self):
        sweep_step(wiring().sweep_context())
