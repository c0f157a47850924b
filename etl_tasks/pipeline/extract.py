"""One slice: claim it, read its window, write it to RAW, and say in the journal what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from etl_tasks.core.overload import Action, OverloadRules, decide
from etl_tasks.core.records import SliceClaim, Transition
from etl_tasks.core.windows import halve
from etl_tasks.errors import EtlError, LostOwnership, Overloaded, QueryTimedOut, TerminalError, Unreachable
from etl_tasks.pipeline.lease import Lease
from etl_tasks.pipeline.load import LoadRules, Loader
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.tell import tell

log = structlog.get_logger(__name__)

# An attempt that failed for a passing reason is not repeated at once; doubled for each attempt spent.
_RETRY_DELAY_S = 5.0
_RETRY_DELAY_CAP_S = 300.0


@dataclass(frozen=True, slots=True)
class ExtractContext:
    """What the work on slices needs in one worker child.

    ``open_loader`` makes the source, target and coercion of this child, or hands out the ones it has. ``open_journal`` makes a
    journal for another thread. ``soft_limit`` is what the worker raises when the task's soft time limit has passed.
    """

    journal: Journal
    open_journal: Callable[[], Journal]
    open_loader: Callable[[], Loader]
    dispatcher: Dispatcher
    rules: LoadRules
    overload: OverloadRules
    worker: str
    soft_limit: type[BaseException]
    jitter: Callable[[], float] = field(default=random.random)


def extract_load_slice(slice_id: int, context: ExtractContext) -> str:
    """Do one attempt of the slice; what became of it: ``done split error planned dropped lost``.

    Raises nothing that was expected: failures are in the journal. ``dropped`` means there was nothing to claim.
    """
    claimed_at = time.monotonic()
    claim = context.journal.slices.claim(
        slice_id, worker=context.worker, lease_s=context.rules.lease_s, max_attempts=context.rules.max_attempts
    )
    if claim is None:
        spent = context.journal.slices.fail_spent(context.rules.clean_table, context.rules.max_attempts, slice_id)
        tell(context.journal, context.dispatcher, spent)
        log.info("slice_dropped", slice=slice_id, spent=bool(spent))
        return "dropped"
    structlog.contextvars.bind_contextvars(
        run=claim.run_id,
        slice=claim.slice_id,
        attempt=claim.attempt,
        partition=claim.partition,
        window=str(claim.window),
    )
    log.info("slice_claimed", depth=claim.depth, spent=claim.spent)
    lease = Lease(
        lambda: _open_renewer(context, claim),
        context.rules.lease_s,
        claimed_at,
        f"slice {claim.slice_id} attempt {claim.attempt}",
    )
    try:
        with lease:
            return _attempt(claim, lease, context)
    except LostOwnership as error:
        log.warning("slice_lost", error=str(error))
        return "lost"


def _open_renewer(context: ExtractContext, claim: SliceClaim) -> tuple[Callable[[], bool], Callable[[], None]]:
    journal = context.open_journal()
    return lambda: journal.slices.renew(claim, context.rules.lease_s), journal.close


def _attempt(claim: SliceClaim, lease: Lease, context: ExtractContext) -> str:
    """Tries on the window until it is loaded, split, given back or failed."""
    tries = 0
    while True:
        tries += 1
        try:
            result = context.open_loader().load(claim, lease.checkpoint, context.journal)
        except LostOwnership:
            raise
        except context.soft_limit:
            error: Exception = QueryTimedOut("the task's soft time limit passed (TASK_SOFT_TIME_LIMIT_MIN)")
            tries = max(tries, context.overload.max_attempts)
        except Exception as failure:
            error = failure
        else:
            lease.checkpoint()
            _tell(context, claim, context.journal.slices.finish(claim, result))
            log.info(
                "slice_done",
                rows_read=result.rows_read,
                rows_inserted=result.rows_inserted,
                rows_distinct=result.rows_distinct,
                rows_rejected=result.rows_rejected,
                timings_ms=dict(result.timings_ms),
            )
            return "done"
        if not isinstance(error, EtlError):
            # A fault of ours or of a library: the journal gets one line, the log the whole trace.
            log.error("slice_fault", error=f"{type(error).__name__}: {error}", exc_info=error)
        outcome = _after_failure(claim, error, tries, lease, context)
        if outcome is not None:
            return outcome


def _after_failure(
    claim: SliceClaim, error: Exception, tries: int, lease: Lease, context: ExtractContext
) -> str | None:
    """Act on a failed try; None: try again now."""
    slices = context.journal.slices
    decision = decide(
        error,
        tries=tries,
        window=claim.window,
        depth=claim.depth,
        rules=context.overload,
        jitter=context.jitter(),
    )
    log.warning(
        "slice_try_failed",
        error_kind=type(error).__name__,
        action=str(decision.action),
        delay_s=round(decision.delay_s, 2),
        reason=decision.reason,
    )
    if isinstance(error, Overloaded):
        slices.note_overload(claim, error)
    lease.checkpoint()
    if decision.action in (Action.RETRY, Action.RECONNECT):
        lease.sleep(decision.delay_s)
        return None
    if decision.action is Action.SPLIT:
        transition = slices.split(claim, halve(claim.window), error, decision.reason)
        log.warning("slice_split", children=list(transition.children), depth=claim.depth + 1)
        _tell(context, claim, transition)
        return "split"
    if decision.action is Action.WAIT or isinstance(error, Unreachable):
        slices.give_back(claim, error, decision.reason, delay_s=decision.delay_s, refund=True)
        return "planned"
    if isinstance(error, TerminalError) or claim.spent >= context.rules.max_attempts:
        transition = slices.fail(claim, error, decision.reason)
        log.error("slice_error", error_kind=type(error).__name__, reason=decision.reason)
        _tell(context, claim, transition)
        return "error"
    delay_s = min(_RETRY_DELAY_S * 2 ** (claim.spent - 1), _RETRY_DELAY_CAP_S)
    slices.give_back(claim, error, decision.reason, delay_s=delay_s, refund=False)
    return "planned"


def _tell(context: ExtractContext, claim: SliceClaim, transition: Transition) -> None:
    tell(context.journal, context.dispatcher, [transition], claim.manual)
