"""One partition from RAW to CLEAN, under the lock for economy and the fence for safety."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from etl_tasks.core.publishing import PublishRequest, PublishResult, StageMetric
from etl_tasks.core.records import PublishClaim
from etl_tasks.core.states import dedup_process
from etl_tasks.errors import (
    CountMismatch,
    EtlError,
    LostOwnership,
    NewerPublish,
    TerminalError,
    TransientError,
    Unreachable,
)
from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.pipeline.lease import Lease
from etl_tasks.pipeline.ports import Dispatcher, Journal, PublishLock, PublishPins, Target
from etl_tasks.pipeline.settle import forget_frames, settle
from etl_tasks.pipeline.stopping import WorkerStopping
from etl_tasks.pipeline.tell import tell

log = structlog.get_logger(__name__)

_RETRY_DELAY_S = 5.0
_RETRY_DELAY_CAP_S = 300.0
# Rows may leave CLEAN by its TTL while a publish counts them; a mismatch that comes three times is real.
_MISMATCH_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class PublishContext:
    """What a publish needs in one worker child; ``open_target`` makes or hands out the ClickHouse side.

    ``evict_deserted_lock`` takes the lock from a holder that is frozen; True when there was one. ``hard_limit_s`` is
    when the worker kills a publish. ``check_stop`` raises WorkerStopping when the worker was asked to stop.
    """

    journal: Journal
    pins: PublishPins
    evict_deserted_lock: Callable[[], bool]
    open_journal: Callable[[], Journal]
    open_target: Callable[[], Target]
    dispatcher: Dispatcher
    process_name: str
    clean_table: str
    lease_s: float
    hard_limit_s: float
    max_attempts: int
    worker: str
    soft_limit: type[BaseException]
    check_stop: Callable[[], None]


def dedup_publish(partition: int, context: PublishContext) -> str:
    """Publish the partition if that is due; what became of it: ``published reopened due error busy dropped lost``.

    ``busy``: another publish of the CLEAN table goes on, and offers this one when it ends. Raises nothing that was
    expected.
    """
    outcome = _under_lock(partition, context)
    if outcome == "busy" and context.evict_deserted_lock():
        log.warning("publish_lock_taken_from_frozen_holder", partition=partition)
        outcome = _under_lock(partition, context)
    if outcome != "busy":
        _offer_next(context)
    return outcome


def _under_lock(partition: int, context: PublishContext) -> str:
    with context.journal.publish_lock(context.clean_table) as lock:
        if not lock.acquired:
            log.info("publish_postponed", partition=partition)
            return "busy"
        claimed_at = time.monotonic()
        claim = context.journal.publishes.claim(
            context.clean_table,
            partition,
            dedup_process=dedup_process(context.process_name),
            worker=context.worker,
            lease_s=context.lease_s,
            max_attempts=context.max_attempts,
        )
        if claim is None:
            log.info("publish_dropped", partition=partition)
            return "dropped"
        structlog.contextvars.bind_contextvars(
            process=dedup_process(context.process_name),
            run=claim.publish_run_id,
            partition=partition,
            attempt=claim.attempt,
            token=claim.token,
        )
        reach(Failpoint.PUBLISH_CLAIMED, partition=partition, token=claim.token)
        log.info("publish_claimed", windows=len(claim.windows), target_gen=claim.target_gen, rebuild=claim.rebuild)
        lease = Lease(
            lambda: _open_renewer(context, claim),
            context.lease_s,
            claimed_at,
            f"publish of {partition} ({claim.token})",
        )
        try:
            with lease, lease:
                return _publish(claim, lock, lease, context)
        except LostOwnership as error:
            log.warning("publish_lost", error=str(error))
            return "lost"


def _open_renewer(context: PublishContext, claim: PublishClaim) -> tuple[Callable[[], bool], Callable[[], None]]:
    journal = context.open_journal()
    return lambda: journal.publishes.renew(claim, context.lease_s), journal.close


class _Guard:
    """The publish's questions to the journal, one at a time: a journal belongs to one thread."""

    def __init__(self, claim: PublishClaim, lock: PublishLock, lease: Lease, context: PublishContext) -> None:
        self._claim = claim
        self._publish_lock = lock
        self._lease = lease
        self._context = context
        self._one_at_a_time = threading.Lock()

    def checkpoint(self) -> None:
        self._lease.checkpoint()
        self._context.check_stop()

    def before_replace(self) -> None:
        """Raise LostOwnership unless the lease, the lock's session and the token are all still ours.

        The last place where a stop of the worker is heard: after the first REPLACE a publish is never interrupted.
        """
        with self._one_at_a_time:
            self.checkpoint()
            self._publish_lock.verify()
            if not self._context.journal.publishes.renew(self._claim, self._context.lease_s):
                raise LostOwnership(f"a newer publish than token {self._claim.token} has begun")
            reach(Failpoint.PUBLISH_BEFORE_REPLACE, partition=self._claim.partition, token=self._claim.token)

    def on_stage(self, metric: StageMetric) -> None:
        with self._one_at_a_time:
            log.info("publish_stage_ended", stage=metric.stage, part=metric.part, ms=metric.ms)
            try:
                self._context.journal.publishes.record_stage(self._claim, metric)
            except TransientError as error:
                # A metric is not worth a publish; the lease decides whether the journal was away for too long.
                log.warning("stage_not_recorded", stage=metric.stage, error=str(error))


def _publish(claim: PublishClaim, lock: PublishLock, lease: Lease, context: PublishContext) -> str:
    started = time.monotonic()
    guard = _Guard(claim, lock, lease, context)
    request = PublishRequest(claim.partition, claim.token, claim.windows, claim.rebuild, claim.least_rows, claim.lost)
    try:
        target = context.open_target()
        predecessors = context.pins.unfinished(claim)
        context.pins.pin(claim, target.replicas(), context.hard_limit_s)
        result = target.publish(
            request,
            checkpoint=guard.checkpoint,
            before_replace=guard.before_replace,
            on_stage=guard.on_stage,
            predecessor_replicas=predecessors,
        )
    except NewerPublish as error:
        return _catch_up(claim, error, lease, context)
    except LostOwnership:
        raise
    except context.soft_limit:
        late = TimeoutError("the publish's soft time limit passed (PUBLISH_SOFT_TIME_LIMIT_MIN)")
        return _after_failure(claim, late, lease, context)
    except Exception as error:
        return _after_failure(claim, error, lease, context)
    if result.short_windows:
        return _reopen(claim, result, lease, context)
    reach(Failpoint.PUBLISH_DONE, partition=claim.partition, token=claim.token)
    duration_ms = round((time.monotonic() - started) * 1000)
    details = {"rows": sum(outcome.rows_after for outcome in result.shards), "shards": _shard_details(result)}
    transitions = settle(
        # Nothing of it can run any more, so its successors need not ask for its replicas.
        lambda: context.journal.publishes.finish(claim, duration_ms=duration_ms, pinned=(), details=details),
        lease,
        context.soft_limit,
    )
    reach(Failpoint.PUBLISH_FINISHED, partition=claim.partition, token=claim.token)
    log.info("published", rows=details["rows"], duration_ms=duration_ms)
    tell(context.journal, context.dispatcher, transitions)
    return "published"


def _shard_details(result: PublishResult) -> list[dict[str, object]]:
    return [
        {
            "shard": outcome.shard,
            "replica": outcome.replica,
            "rows_before": outcome.rows_before,
            "rows_after": outcome.rows_after,
            "skipped": outcome.skipped,
        }
        for outcome in result.shards
    ]


def _reopen(claim: PublishClaim, result: PublishResult, lease: Lease, context: PublishContext) -> str:
    reason = (
        f"RAW holds fewer keys than {len(result.short_windows)} windows of partition {claim.partition} had counted "
        f"(first {result.short_windows[0].window}): its TTL has passed, or rows were removed; loaded again"
    )
    slice_ids = settle(
        lambda: context.journal.publishes.reopen(claim, result.short_windows, reason), lease, context.soft_limit
    )
    log.warning("publish_reopened", windows=len(result.short_windows), slices=len(slice_ids), reason=reason)
    return "reopened"


def _catch_up(claim: PublishClaim, error: NewerPublish, lease: Lease, context: PublishContext) -> str:
    """A newer buffer that the journal knows nothing of is a leftover, for the next token to drop."""
    settle(lambda: context.journal.publishes.catch_up(claim, error.token, error), lease, context.soft_limit)
    log.warning("fence_behind", newer_token=error.token, next="published again under a newer token")
    return "due"


def _after_failure(claim: PublishClaim, error: Exception, lease: Lease, context: PublishContext) -> str:
    publishes = context.journal.publishes
    # What a publish met after it was overtaken (its buffer gone, other rows than it had put there) is no failure of it.
    lease.checkpoint()
    if isinstance(error, WorkerStopping):
        log.info("publish_given_back", reason=str(error))
    else:
        log.warning("publish_failed", error_kind=type(error).__name__, error=str(error))
    if not isinstance(error, EtlError):
        log.error("publish_crashed", error_kind=type(error).__name__, error=str(error), exc_info=error)
    forget_frames(error)
    delay_s = min(_RETRY_DELAY_S * 2 ** (claim.spent - 1), _RETRY_DELAY_CAP_S)
    refund = isinstance(error, Unreachable | WorkerStopping)
    if isinstance(error, WorkerStopping):
        delay_s = 0.0
    elif isinstance(error, Unreachable):
        delay_s = _RETRY_DELAY_S
    elif _is_final(error, claim.spent, context.max_attempts):
        log.error(
            "rebuild_given_up" if claim.rebuild else "publish_ended_in_error",
            error_kind=type(error).__name__,
            error=str(error),
        )
        failed = settle(lambda: publishes.fail(claim, error), lease, context.soft_limit)
        tell(context.journal, context.dispatcher, failed)
        return "error"
    settle(lambda: publishes.give_back(claim, error, delay_s=delay_s, refund=refund), lease, context.soft_limit)
    return "due"


def _is_final(error: Exception, spent: int, max_attempts: int) -> bool:
    if isinstance(error, CountMismatch):
        return spent >= min(_MISMATCH_ATTEMPTS, max_attempts)
    return isinstance(error, TerminalError) or spent >= max_attempts


def _offer_next(context: PublishContext) -> None:
    """The lock is free: whoever was told ``busy`` may go now."""
    sweeps = context.journal.sweeps
    for clean_table, partition in sweeps.due_publishes(resend_after_s=0.0, max_attempts=context.max_attempts, most=1):
        try:
            context.dispatcher.send_publish(partition)
            sweeps.mark_publish_sent(clean_table, partition)
        except Unreachable as error:
            log.warning("dispatch_failed", partition=partition, error=str(error), next="the sweeper sends what is due")
