"""The tasks: ids in, one step of the pipeline, id out. They raise nothing that was expected; it is in the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Task

from etl_tasks.celery import app, settings, wiring
from etl_tasks.core.business_time import parse_interval
from etl_tasks.errors import EtlError, UsageError
from etl_tasks.log import clear_log_context
from etl_tasks.pipeline.extract import extract_load_slice as extract_step
from etl_tasks.pipeline.finalize import finalize_run as finalize_step
from etl_tasks.pipeline.plan import PlanRequest
from etl_tasks.pipeline.plan import plan_interval as plan_step
from etl_tasks.pipeline.publish import dedup_publish as publish_step
from etl_tasks.pipeline.sweep import sweep as sweep_step

log = structlog.get_logger(__name__)


@contextmanager
def _task_log(task: Task, **ids: Any) -> Iterator[None]:
    """The task's ids on every line; what went wrong is logged and not raised: the journal and the sweeper go on from here."""
    clear_log_context()
    structlog.contextvars.bind_contextvars(task=task.request.id, **ids)
    try:
        yield
    except EtlError as error:
        log.warning("task_gave_up", name=task.name, error_kind=type(error).__name__, error=str(error))
    finally:
        clear_log_context()


def _checked_id(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise UsageError(f"{name} must be a positive integer, not {value!r}")
    return value


@app.task(name="etl_tasks.plan_interval", bind=True)
def plan_interval(self: Task, since: str | None = None, until: str | None = None, manual: bool = False) -> int | None:
    """Plan ``[since, until)`` (both ISO times), or without them the schedule's next interval; the run's id."""
    with _task_log(self, manual=manual):
        if not isinstance(manual, bool):
            raise UsageError(f"manual must be true or false, not {manual!r}")
        request = PlanRequest(manual=manual, task_id=self.request.id)
        if since is not None or until is not None:
            if not isinstance(since, str) or not isinstance(until, str):
                raise UsageError("since and until go together, both as ISO times such as 2025-08-08T00:00:00Z")
            interval = parse_interval(since, until, settings().business_tz or None)
            request = PlanRequest(interval.since, interval.until, manual, self.request.id, tuple(interval.notices))
        return plan_step(request, wiring().plan_context()).run_id
    return None


@app.task(name="etl_tasks.extract_load_slice", bind=True)
def extract_load_slice(self: Task, slice_id: int) -> int:
    """One attempt of one slice; its id."""
    with _task_log(self, slice=slice_id):
        extract_step(_checked_id(slice_id, "slice_id"), wiring().extract_context())
    return slice_id


@app.task(name="etl_tasks.dedup_publish", bind=True)
def dedup_publish(self: Task, partition: int) -> int:
    """Publish the partition if that is due; its number."""
    with _task_log(self, partition=partition):
        publish_step(_checked_id(partition, "partition"), wiring().publish_context())
    return partition


@app.task(name="etl_tasks.finalize_run", bind=True)
def finalize_run(self: Task, run_id: int) -> int:
    """End the run if nothing of it is open; its id."""
    with _task_log(self, run=run_id):
        finalize_step(_checked_id(run_id, "run_id"), wiring().journal)
    return run_id


@app.task(name="etl_tasks.sweep", bind=True)
def sweep(self: Task) -> None:
    """One round of the sweeper, now."""
    with _task_log(self):
        sweep_step(wiring().sweep_context())
