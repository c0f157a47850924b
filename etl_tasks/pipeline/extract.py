"""One slice: claim it, read its window, write it to RAW, and say in the journal what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import structlog

from etl_tasks.core.overload import Action, OverloadRules, decide
from etl_tasks.core.read_limit import ReadEnd
from etl_tasks.core.records import SliceClaim, SliceResult, Transition
from etl_tasks.core.windows import halve
from etl_tasks.errors import (
    EtlError,
    LostOwnership,
    Overloaded,
    QueryTimedOut,
    SchemaError,
    TerminalError,
    TransientError,
    Unreachable,
)
from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.pipeline.lease import Lease
from etl_tasks.pipeline.load import Loader, LoadRules
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.read_turn import NoTurn, ReadTurns, TurnRules, turn_to_read
from etl_tasks.pipeline.settle import forget_frames, settle
from etl_tasks.pipeline.stopping import InterruptedByStop, WorkerStopping
from etl_tasks.pipeline.tell import log_given_up, tell

log = structlog.get_logger(__name__)
T = TypeVar("T")

# An attempt that failed for a passing reason is not repeated at once; doubled for each attempt spent.
_RETRY_DELAY_S = 5.0
_RETRY_DELAY_CAP_S = 300.0


@dataclass(frozen=True, slots=True)
class ExtractContext:
    """What the work on slices needs in one worker child.

    ``open_loader`` makes the source, target and coercion of this child, or hands out the ones it has; ``drop_loader``
    closes them, and ``abandon_loader`` ends what another thread of it waits for.
    ``open_journal`` makes a journal for another thread. ``soft_limit`` is what the worker raises when the
    task's soft time limit has passed, and ``interrupt`` raises it now; ``check_stop`` raises WorkerStopping when the
    worker was asked to stop. ``turns`` are the turns to read the source (None: no limit), waited for at most
    ``turn_patience_s`` seconds.
    """

    journal: Journal
    open_journal: Callable[[], Journal]
    open_loader: Callable[[], Loader]
    drop_loader: Callable[[], None]
    abandon_loader: Callable[[], None]
    dispatcher: Dispatcher
    rules: LoadRules
    overload: OverloadRules
    worker: str
    soft_limit: type[BaseException]
    check_stop: Callable[[], None]
    interrupt: Callable[[], None]
    turns: ReadTurns | None
    turn_patience_s: float
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
        log_given_up(spent)
        tell(context.journal, context.dispatcher, spent)
        log.info("slice_dropped", slice=slice_id)
        return "dropped"
    structlog.contextvars.bind_contextvars(
        process=claim.process_name,
        run=claim.run_id,
        slice=claim.slice_id,
        attempt=claim.attempt,
        partition=claim.partition,
        window=str(claim.window),
    )
    log.info("slice_claimed", depth=claim.depth, spent=claim.spent)
    _reach(Failpoint.SLICE_CLAIMED, claim)
    lease = Lease(
        lambda: _open_renewer(context, claim),
        context.rules.lease_s,
        claimed_at,
        f"slice {claim.slice_id} attempt {claim.attempt}",
    )
    try:
        with lease, lease:
            return _Attempt(claim, lease, context).run()
    except LostOwnership as error:
        log.warning("slice_lost", error=str(error))
        return "lost"


def _with_wait(result: SliceResult, waited_ms: int) -> SliceResult:
    """What was waited for a turn is no part of the time that the window took."""
    return replace(result, timings_ms={**result.timings_ms, "turn_wait": waited_ms}) if waited_ms else result


def _reach(name: Failpoint, claim: SliceClaim) -> None:
    reach(name, run=claim.run_id, slice=claim.slice_id, attempt=claim.attempt)


def _open_renewer(context: ExtractContext, claim: SliceClaim) -> tuple[Callable[[], bool], Callable[[], None]]:
    journal = context.open_journal()
    return lambda: journal.slices.renew(claim, context.rules.lease_s), journal.close


class _Attempt:
    """One attempt under its lease: tries on the window until it is loaded, split, given back or failed."""

    def __init__(self, claim: SliceClaim, lease: Lease, context: ExtractContext) -> None:
        self._claim = claim
        self._lease = lease
        self._context = context
        self._slices = context.journal.slices
        self._turn_rules = TurnRules(context.turn_patience_s, context.soft_limit, context.jitter)

    def run(self) -> str:
        """What became of the slice; raises LostOwnership."""
        try:
            return self._tries()
        except WorkerStopping as error:
            return self._give_back_to_others(error)
        except self._context.soft_limit:
            # In a pause between two tries, or just after one: the time is up all the same.
            outcome = self._after_failure(self._out_of_time(), self._context.overload.max_attempts)
            return outcome or "planned"

    def _tries(self) -> str:
        context = self._context
        tries = 0
        while True:
            tries += 1
            loader: Loader | None = None
            try:
                self._checkpoint()
                with (
                    turn_to_read(context.turns, self._claim, self._turn_rules, self._pause) as turn,
                    InterruptedByStop(self._checkpoint, context.interrupt, self._abandon) as stop,
                    stop,
                ):
                    loader = context.open_loader()
                    # The last insert asks nothing of the source: others may read meanwhile.
                    result = loader.load(
                        self._claim, self._checkpoint, context.journal, partial(turn.end, ReadEnd.GOOD)
                    )
            except (LostOwnership, WorkerStopping):
                # Its target may have been interrupted on the way here.
                context.drop_loader()
                raise
            except NoTurn as busy:
                return self._give_back(busy, str(busy), delay_s=0.0, refund=True)
            except context.soft_limit:
                # It may have come while a block was on its way: the target may have been interrupted.
                context.drop_loader()
                # A stop of the worker, and the loss of the slice, interrupt in the same way.
                self._checkpoint()
                error: Exception = self._out_of_time()
                tries = max(tries, context.overload.max_attempts)
            except Exception as failure:
                error = failure
            else:
                return self._finish(_with_wait(result, turn.waited_ms))
            if not isinstance(error, EtlError):
                # A fault of ours or of a library: the journal gets one line, the log the whole trace.
                log.error("slice_crashed", error_kind=type(error).__name__, error=str(error), exc_info=error)
            forget_frames(error)
            if not isinstance(error, Overloaded):
                # An overloaded source is not asked for its catalog on top of it; after anything else all is made anew.
                context.drop_loader()
            if isinstance(error, SchemaError) and loader is not None and loader.used:
                log.info("columns_asked_again", error=str(error))
                tries -= 1
                continue
            outcome = self._after_failure(error, tries)
            if outcome is not None:
                return outcome
            del error

    def _finish(self, result: SliceResult) -> str:
        self._lease.checkpoint()
        transition = self._settle(lambda: self._slices.finish(self._claim, result))
        _reach(Failpoint.SLICE_FINISHED, self._claim)
        self._tell(transition)
        log.info(
            "slice_done",
            rows_read=result.rows_read,
            rows_inserted=result.rows_inserted,
            rows_distinct=result.rows_distinct,
            rows_rejected=result.rows_rejected,
            rows_slow=result.rows_slow,
            timings_ms=dict(result.timings_ms),
        )
        return "done"

    def _after_failure(self, error: Exception, tries: int) -> str | None:
        """Act on a failed try; None: try again now."""
        claim, context, slices = self._claim, self._context, self._slices
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
            self._note_overload(error)
        self._lease.checkpoint()
        if decision.action in (Action.RETRY, Action.RECONNECT):
            self._pause(decision.delay_s)
            return None
        if decision.action is Action.SPLIT:
            transition = self._settle(lambda: slices.split(claim, halve(claim.window), error, decision.reason))
            _reach(Failpoint.SLICE_SPLIT, claim)
            log.warning("slice_split", children=list(transition.children), depth=claim.depth + 1)
            self._tell(transition)
            return "split"
        if decision.action is Action.WAIT or isinstance(error, Unreachable):
            return self._give_back(error, decision.reason, delay_s=decision.delay_s, refund=True)
        if isinstance(error, TerminalError) or claim.spent >= context.rules.max_attempts:
            transition = self._settle(lambda: slices.fail(claim, error, decision.reason))
            log.error("slice_ended_in_error", error_kind=type(error).__name__, error=str(error), reason=decision.reason)
            self._tell(transition)
            return "error"
        delay_s = min(_RETRY_DELAY_S * 2 ** (claim.spent - 1), _RETRY_DELAY_CAP_S)
        return self._give_back(error, decision.reason, delay_s=delay_s, refund=False)

    def _give_back(self, error: BaseException, reason: str, *, delay_s: float, refund: bool) -> str:
        self._settle(lambda: self._slices.give_back(self._claim, error, reason, delay_s=delay_s, refund=refund))
        return "planned"

    def _give_back_to_others(self, error: WorkerStopping) -> str:
        claim = self._claim
        log.info("slice_given_back", reason=str(error))
        self._give_back(error, str(error), delay_s=0.0, refund=True)
        # The other workers need not wait for a sweep.
        self._tell(
            Transition(claim.run_id, claim.partition, children=(claim.slice_id,), process_name=claim.process_name)
        )
        return "planned"

    def _note_overload(self, error: Overloaded) -> None:
        try:
            self._slices.note_overload(self._claim, error)
        except TransientError as away:
            log.warning("overload_not_noted", error=str(away))

    def _abandon(self) -> None:
        _reach(Failpoint.SLICE_ABANDONING, self._claim)
        self._context.abandon_loader()

    def _checkpoint(self) -> None:
        self._lease.checkpoint()
        self._context.check_stop()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._lease.sleep(min(left, 1.0))
            self._context.check_stop()

    @staticmethod
    def _out_of_time() -> QueryTimedOut:
        return QueryTimedOut("the task's soft time limit passed (TASK_SOFT_TIME_LIMIT_MIN)")

    def _settle(self, transition: Callable[[], T]) -> T:
        return settle(transition, self._lease, self._context.soft_limit)

    def _tell(self, transition: Transition) -> None:
        tell(self._context.journal, self._context.dispatcher, [transition], self._claim.manual)
