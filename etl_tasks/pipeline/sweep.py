"""Whatever is due and not moving is sent again; whoever is dead is declared so. Runs in every worker's main."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from etl_tasks.core.records import DueSlice, SanitizeRules, Transition
from etl_tasks.errors import Unreachable
from etl_tasks.pipeline.finalize import finalize_run
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.tell import log_given_up, tell

log = structlog.get_logger(__name__)

_MOST_SLICES_A_SWEEP = 5000
_PRUNE_EVERY_S = 600.0
# A sweep takes a fraction of a second. Whoever holds the lock for so long is frozen or cut off, and may be so for ever;
# PostgreSQL from 14 on ends its session before that.
_LOCK_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class SweepRules:
    """The sweeper's bounds: seconds, attempts, days."""

    clean_table: str
    every_s: float
    resend_after_s: float
    slice_max_attempts: int
    publish_max_attempts: int
    patience_s: float
    retention_days: int
    sanitize: SanitizeRules


@dataclass(slots=True)
class SweepReport:
    """What one sweep did; ``held`` False: another worker sweeps."""

    held: bool = False
    slices_sent: int = 0
    publishes_sent: int = 0
    runs_ended: list[int] = field(default_factory=list)
    slices_failed: int = 0
    runs_pruned: int = 0


@dataclass(slots=True)
class SweepContext:
    """What the sweeper needs; it keeps when it last pruned and since when others sweep (monotonic seconds)."""

    journal: Journal
    dispatcher: Dispatcher
    rules: SweepRules
    pruned_at: float = 0.0
    refused_since: float | None = None
    lock_patience_s: float = _LOCK_PATIENCE_S


def sweep(context: SweepContext) -> SweepReport:
    """One round. Raises Unreachable when the journal is away; Redis being away is logged and costs nothing else."""
    report = SweepReport()
    context.journal.ensure_once()
    with context.journal.sweeps.try_lock() as held:
        report.held = held or _lock_is_stuck(context)
        if held:
            context.refused_since = None
        if report.held:
            # What needs Redis comes last: a Redis that has gone silent costs its time-outs, and no run waits for them.
            transitions = _sweep_journal(context, report)
            _prune(context, report)
            tell(context.journal, context.dispatcher, transitions)
            _send_due(context, report)
    if report.slices_sent or report.publishes_sent or report.runs_ended or report.slices_failed:
        log.info(
            "swept",
            slices_sent=report.slices_sent,
            publishes_sent=report.publishes_sent,
            runs_ended=report.runs_ended,
            slices_failed=report.slices_failed,
        )
    return report


def _lock_is_stuck(context: SweepContext) -> bool:
    """Whether others have held the lock at every look for so long that its holder cannot be alive.

    The lock is economy: every step of a sweep is guarded, and two sweeps at once send a few messages twice.
    """
    now = time.monotonic()
    context.refused_since = context.refused_since or now
    # Several workers refuse each other now and then, by chance; not at every look for minutes.
    if now - context.refused_since < max(context.lock_patience_s, 6 * context.rules.every_s):
        return False
    log.warning("sweep_lock_ignored", refused_s=round(now - context.refused_since))
    return True


def _sweep_journal(context: SweepContext, report: SweepReport) -> list[Transition]:
    """What needs PostgreSQL alone: so every run ends, whoever else is down. Returns whom to tell of what."""
    journal, rules = context.journal, context.rules
    journal.sweeps.heartbeat_active_runs()
    transitions = journal.slices.fail_spent(rules.clean_table, rules.slice_max_attempts)
    log_given_up(transitions)
    report.slices_failed = len(transitions)
    transitions += journal.publishes.fail_spent(rules.clean_table, rules.publish_max_attempts)
    transitions += journal.sweeps.settle()
    journal.publishes.offer_owed(rules.clean_table)
    for run_id in journal.sweeps.runs_to_finalize():
        if finalize_run(run_id, journal) is not None:
            report.runs_ended.append(run_id)
    stuck = journal.sweeps.end_runs_without_progress(rules.patience_s)
    for ended in stuck + journal.sweeps.sanitize_stale(rules.sanitize):
        log.error(
            "run_ended_by_sweep",
            run=ended.run_id,
            process=ended.process_name,
            status=ended.status,
            reason=ended.reason,
        )
        report.runs_ended.append(ended.run_id)
    return transitions


def _send_due(context: SweepContext, report: SweepReport) -> None:
    journal, rules = context.journal, context.rules
    try:
        waiting = context.dispatcher.messages_held()
        # Only what waits counts. A message that a worker has taken is none of a slice believed queued, or is about to
        # be none; and "unacknowledged" keeps what a lost connection left behind, until the visibility time-out.
        queued, _ = journal.sweeps.queue_beliefs()
        due = journal.sweeps.due_slices(
            grace_s=rules.every_s,
            resend_after_s=rules.resend_after_s,
            queue_empty=waiting == 0,
            max_attempts=rules.slice_max_attempts,
            most=_MOST_SLICES_A_SWEEP,
        )
        again = [candidate for candidate in due if candidate.believed_queued][: max(0, queued - waiting)]
        fresh = [candidate for candidate in due if not candidate.believed_queued]
        for manual in (False, True):
            report.slices_sent += _send(
                context, [candidate for candidate in fresh + again if candidate.manual is manual], manual
            )
        for clean_table, partition in journal.sweeps.due_publishes(
            resend_after_s=rules.every_s * 2, max_attempts=rules.publish_max_attempts
        ):
            context.dispatcher.send_publish(partition)
            journal.sweeps.mark_publish_sent(clean_table, partition)
            report.publishes_sent += 1
    except Unreachable as error:
        log.warning("dispatch_failed", error=str(error), next="the next sweep sends what is due")


def _send(context: SweepContext, due: list[DueSlice], manual: bool) -> int:
    if not due:
        return 0
    slice_ids = [candidate.slice_id for candidate in due]
    context.dispatcher.send_slices(slice_ids, manual)
    context.journal.slices.mark_sent(slice_ids)
    for run_id in {candidate.run_id for candidate in due}:
        context.journal.runs.mark_running(run_id)
    return len(slice_ids)


def _prune(context: SweepContext, report: SweepReport) -> None:
    if time.monotonic() - context.pruned_at < _PRUNE_EVERY_S and context.pruned_at:
        return
    context.pruned_at = time.monotonic()
    report.runs_pruned = context.journal.sweeps.prune(context.rules.retention_days)
    if report.runs_pruned:
        log.info("journal_pruned", runs=report.runs_pruned)
