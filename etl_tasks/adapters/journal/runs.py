"""Runs: planning in one transaction, heartbeats, and the one transaction that ends them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.text import journal_json, journal_text
from etl_tasks.core.records import NewRun, PlannedRun
from etl_tasks.core.slicing import earliest_hole_watermark
from etl_tasks.core.states import RunStatus
from etl_tasks.core.windows import Window, partition_of

_REASON_NAMES = {RunStatus.ERROR: "error", RunStatus.SKIPPED: "reason"}


class RunJournal:
    """Transitions of runs. Every method is one transaction and safe to repeat."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def watermark(self, process_name: str) -> datetime | None:
        """Business time (aware UTC) up to which the process is loaded without a gap; None before its first ok run."""
        with self._database.transaction() as transaction:
            return watermark_of(transaction, process_name)

    def loaded_windows(self, clean_table: str, window: Window) -> list[Window]:
        """The parts of ``window`` (source time) that any lane has loaded."""
        with self._database.transaction() as transaction:
            rows = transaction.all(
                "loaded_windows",
                clean_table=clean_table,
                window_from=window.start,
                window_to=window.end,
                first_partition=partition_of(window.start),
                last_partition=partition_of(window.end),
            )
        return [Window(row.window_from, row.window_to) for row in rows]

    def planned_by(self, task_id: str) -> PlannedRun | None:
        """The run that this plan task made before it was delivered again, or None."""
        with self._database.transaction() as transaction:
            return _planned_by(transaction, task_id)

    def plan(self, new: NewRun, partitions_in_flight: int) -> PlannedRun:
        """Write the run, its partitions and all its slices in one transaction and release the first partitions.

        A run without slices ends here, ``ok``. If the process has an active run, a ``skipped`` row says so.
        """
        plan = new.plan
        with self._database.transaction() as transaction:
            transaction.run("lock_process", process_name=new.process_name)
            row = transaction.one(
                "insert_run_if_none_active",
                process_name=new.process_name,
                since=plan.since,
                until=new.asked_until,
                covered_until=plan.until,
                details=journal_json(new.details),
                task_id=new.task_id,
                clean_table=new.clean_table,
                manual=new.manual,
                publish_at_end=new.publish_at_end,
                shift_min=new.shift_min,
                open_partitions=len(plan.partitions),
            )
            if row is None:
                return self._not_planned(transaction, new)
            run_id = int(row.id)
            if not plan.slices:
                # Ok: all of it is loaded already. Nothing that may be read yet is no success: a year may be mistyped.
                status = RunStatus.OK if plan.until > plan.since else RunStatus.SKIPPED
                reason = "; ".join(plan.notices) or "nothing to read"
                end_run(transaction, run_id, status=status, reason=reason)
                return PlannedRun(run_id, status, reason)
            transaction.run("upsert_partitions", clean_table=new.clean_table, partitions=list(plan.partitions))
            transaction.run(
                "insert_slices",
                run_id=run_id,
                clean_table=new.clean_table,
                partitions=[planned.partition for planned in plan.slices],
                window_froms=[planned.window.start for planned in plan.slices],
                window_tos=[planned.window.end for planned in plan.slices],
                steps=[planned.step for planned in plan.slices],
            )
            transaction.run("insert_run_partitions", run_id=run_id)
            release_partitions(transaction, run_id, partitions_in_flight)
            return PlannedRun(run_id, RunStatus.PLANNED)

    def refuse(
        self,
        process_name: str,
        clean_table: str,
        manual: bool,
        reason: str,
        *,
        status: RunStatus = RunStatus.SKIPPED,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> PlannedRun:
        """A run that ended before it began, ``skipped`` or ``error``, with its reason."""
        with self._database.transaction() as transaction:
            run_id = _refuse(transaction, process_name, clean_table, manual, reason, task_id, since, until, status)
        return PlannedRun(run_id, status, reason)

    def mark_running(self, run_id: int) -> None:
        """planned → running."""
        with self._database.transaction() as transaction:
            transaction.run("mark_run_running", run_id=run_id)

    def heartbeat(self, run_id: int, *, progress: bool) -> None:
        """The run is alive, and (``progress``) has moved; at most one write in 10 s reaches the table."""
        with self._database.transaction() as transaction:
            transaction.run("heartbeat_run", run_id=run_id, progress=progress)

    def finalize(self, run_id: int) -> str | None:
        """End the run if nothing of it is open: status and watermark in one transaction. None: not to be ended."""
        with self._database.transaction() as transaction:
            run = transaction.one("lock_active_run", run_id=run_id)
            if run is None or run.clean_table is None or run.open_partitions > 0:
                return None
            return end_run(transaction, run_id, run=run)

    def process_of(self, run_id: int) -> str | None:
        """The run's process; None when there is no such run."""
        with self._database.transaction() as transaction:
            row = transaction.one("process_of_run", run_id=run_id)
        return None if row is None else str(row.process_name)

    def abort(self, run_id: int, reason: str) -> str | None:
        """Cancel an active run, which ends as ``error``: open slices become errors, what it had loaded is owed.

        None: it has ended.
        """
        with self._database.transaction() as transaction:
            run = transaction.one("lock_active_run", run_id=run_id)
            if run is None:
                return None
            return end_run(transaction, run_id, run=run, status=RunStatus.ERROR, reason=reason, cancelled=True)

    def _not_planned(self, transaction: Transaction, new: NewRun) -> PlannedRun:
        if new.task_id is not None:
            before = _planned_by(transaction, new.task_id)
            if before is not None:
                return before
        active = transaction.one("active_run_of_process", process_name=new.process_name)
        reason = f"{new.process_name} has an active run already" + (
            f": run {active.id} is {active.status}; wait for it, or see `python -m etl_tasks status`" if active else ""
        )
        run_id = _refuse(
            transaction,
            new.process_name,
            new.clean_table,
            new.manual,
            reason,
            new.task_id,
            new.plan.since,
            new.asked_until,
        )
        return PlannedRun(run_id, RunStatus.SKIPPED, reason)


def watermark_of(transaction: Transaction, process_name: str) -> datetime | None:
    """The watermark of a process inside a transaction."""
    return transaction.one("watermark_of_process", process_name=process_name).watermark  # type: ignore[no-any-return]


def release_partitions(transaction: Transaction, run_id: int, most: int) -> list[int]:
    """Release the next ``most`` waiting partitions of a run and their slices; returns the partitions."""
    partitions = [row.partition for row in transaction.all("release_partitions", run_id=run_id, most=most)]
    if partitions:
        transaction.run("release_slices", run_id=run_id, partitions=partitions)
    return sorted(partitions)


def end_run(
    transaction: Transaction,
    run_id: int,
    *,
    run: Any = None,
    status: RunStatus | None = None,
    reason: str = "",
    cancelled: bool = False,
) -> str:
    """End the active run ``run_id`` (locked by the caller, or made in this transaction) and move the watermark with it.

    The status follows from its partitions unless given; ``cancelled``: somebody wanted it so. Returns the status.
    """
    run = run or transaction.one("lock_active_run", run_id=run_id)
    holes = [Window(row.window_from, row.window_to) for row in transaction.all("holes_of_run", run_id=run_id)]
    if status is RunStatus.ERROR:
        # An aborted run waits for no publish any more; what it had loaded must not be forgotten.
        # Partitions are locked before slices.
        transaction.run("owe_publishes_of_run", run_id=run_id)
    transaction.run("abandon_open_slices", run_id=run_id, reason=journal_text(reason or "the run ended"))
    transaction.run("close_partitions_of_run", run_id=run_id)
    outcome = transaction.one("outcome_of_run", run_id=run_id)
    if status is None:
        status = RunStatus.ERROR if outcome.failed_slices or outcome.publish_failed else RunStatus.OK
    details: dict[str, Any] = {"slices": int(outcome.slices), "failed_slices": int(outcome.failed_slices)}
    if outcome.incomplete:
        details["incomplete_partitions"] = list(outcome.incomplete)
    if cancelled:
        details["cancelled"] = True
    if reason:
        details[_REASON_NAMES.get(status, "note")] = reason
    watermark = None
    if run.since is not None and run.covered_until is not None and run.clean_table is not None:
        current = watermark_of(transaction, run.process_name)
        watermark = earliest_hole_watermark(run.since, run.covered_until, run.shift_min, holes, current)
    transaction.run(
        "end_run_if_active", run_id=run_id, status=status, watermark=watermark, details=journal_json(details)
    )
    return str(status)


def _planned_by(transaction: Transaction, task_id: str) -> PlannedRun | None:
    row = transaction.one("run_of_task", task_id=task_id)
    if row is None:
        return None
    details: Mapping[str, Any] = row.details or {}
    return PlannedRun(int(row.id), row.status, str(details.get("reason", "")), redelivered=True)


def _refuse(
    transaction: Transaction,
    process_name: str,
    clean_table: str,
    manual: bool,
    reason: str,
    task_id: str | None,
    since: datetime | None,
    until: datetime | None,
    status: RunStatus = RunStatus.SKIPPED,
) -> int:
    row = transaction.one(
        "insert_refused_run",
        status=status,
        process_name=process_name,
        clean_table=clean_table,
        manual=manual,
        task_id=task_id,
        since=since,
        until=until,
        details=journal_json({"reason": reason}),
    )
    if row is None and task_id is not None:
        # The task was delivered twice at once, and the other delivery has said it.
        row = transaction.one("run_of_task", task_id=task_id)
    return int(row.id) if row is not None else 0
