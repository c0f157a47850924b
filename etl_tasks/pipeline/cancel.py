"""Cancel a run: ended in the journal at once, its reads and inserts soon after; a publish is never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from etl_tasks.core.cancelling import CancelledRun
from etl_tasks.errors import EtlError, UsageError
from etl_tasks.pipeline.load import inserts_tag
from etl_tasks.pipeline.ports import CancelJournal, Dispatcher, Journal
from etl_tasks.pipeline.tell import send_publishes

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CancelContext:
    """What a cancellation needs; ``kill_queries`` ends the queries in ClickHouse whose id begins with a tag."""

    journal: Journal
    cancelling: CancelJournal
    dispatcher: Dispatcher
    kill_queries: Callable[[str], None]
    clean_table: str


def cancel_run(run_id: int, reason: str, context: CancelContext) -> CancelledRun:
    """End the run as ``error`` with ``reason``, and stop what is at work for it; what became of it.

    From the one transaction on nothing more of it counts: whoever reads for it finds out when the lease is renewed (a
    quarter of ``LEASE_S``), messages in queues claim nothing. What was loaded stays loaded, and its publish is due: a
    partition is published for every run that loaded it, so a publish under way goes on. Raises UsageError for a run
    that is unknown or has ended, Unreachable when the journal is away.
    """
    context.journal.ensure_once()
    context.cancelling.check(run_id, context.clean_table)
    if context.journal.runs.abort(run_id, reason) is None:
        raise UsageError(f"run {run_id} has ended by itself just now: see python -m etl_tasks status")
    log.info("run_cancelled", run=run_id, reason=reason)
    cancelled = context.cancelling.outcome(run_id)
    if cancelled.reading:
        _end_inserts(run_id, context)
    send_publishes(context.dispatcher, cancelled.due)
    return cancelled


def _end_inserts(run_id: int, context: CancelContext) -> None:
    """The inserts of the run in ClickHouse. What one still brings is in no loaded window, and older than any later
    load.
    """
    try:
        context.kill_queries(inserts_tag(run_id))
    except EtlError as error:
        log.warning("inserts_not_killed", run=run_id, error=str(error), next="they end by themselves and do no harm")
