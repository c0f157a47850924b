"""A window's rows from the source into RAW: counted, checked, coerced, without repeats, in blocks bounded in bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.coerce import CoercionPlan, Misfit, drop_repeats
from etl_tasks.core.distinct import KeyCounter
from etl_tasks.core.records import Reject, SliceClaim, SliceResult
from etl_tasks.errors import RowRejected, SchemaError, ShortRead, TransientError
from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.pipeline.inserting import Inserter
from etl_tasks.pipeline.ports import Journal, Source, Target

log = structlog.get_logger(__name__)

_HEARTBEAT_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class LoadRules:
    """Bounds of the work on one slice: lease in seconds, attempts, rows and bytes of one insert, rejects of a run."""

    clean_table: str
    lease_s: float
    max_attempts: int
    insert_rows: int
    insert_bytes: int
    max_rejected_rows: int


def inserts_tag(run_id: int) -> str:
    """How the query ids of all inserts of the run begin in ClickHouse."""
    return f"etl-run-{run_id}-slice-"


@dataclass(slots=True)
class _Timings:
    """Milliseconds by stage."""

    ms: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> float:
        now = time.monotonic()
        self.ms[stage] = self.ms.get(stage, 0) + round((now - since) * 1000)
        return now


class Loader:
    """Source, target and coercion of one worker child. After a failure it is to be closed, and another one made.

    The exception is an overloaded source: its connection is dropped, the rest may be kept.
    """

    def __init__(self, source: Source, target: Target, coercion: CoercionPlan, rules: LoadRules) -> None:
        self._source = source
        self._target = target
        self._coercion = coercion
        self._rules = rules
        self._used = False

    @property
    def used(self) -> bool:
        """Whether an earlier slice was loaded with it: the columns may have changed since they were asked."""
        return self._used

    def close(self) -> None:
        """Drop the connections without a word to the source; never raises."""
        self._source.discard()
        self._target.close()

    def interrupt(self) -> None:
        """From another thread: whoever waits for the target gets Unreachable. It is of no use after that."""
        self._target.interrupt()

    def load(
        self,
        claim: SliceClaim,
        checkpoint: Callable[[], None],
        journal: Journal,
        read_ended: Callable[[], None] = lambda: None,
    ) -> SliceResult:
        """Read the claim's window and insert it under one version; what was moved.

        ``read_ended`` is called in this thread when the source has given all and is asked no more: what is left of the
        work is ClickHouse's.

        Raises ShortRead when fewer rows came than two counts promised, RowRejected when the run may reject no more,
        SchemaError also when a row does not fit columns that were asked for an earlier slice, and what source, target
        and journal raise. After any of them the source's connection is gone.
        """
        self._target.tag = f"{inserts_tag(claim.run_id)}{claim.slice_id}-{claim.attempt}"
        try:
            result = self._load(claim, checkpoint, journal, read_ended)
        except BaseException:
            self._source.discard()
            raise
        self._used = True
        return result

    def _load(
        self, claim: SliceClaim, checkpoint: Callable[[], None], journal: Journal, read_ended: Callable[[], None]
    ) -> SliceResult:
        timings = _Timings()
        mark = time.monotonic()
        # Before the query: of two reads of a row the later one must have the higher version, whichever is inserted
        # last.
        version_ms = journal.slices.next_version(claim.clean_table)
        counted = self._source.count(claim.window)
        mark = timings.add("count", mark)
        keys = KeyCounter()
        rows_read = rows_rejected = rows_slow = 0
        beat_at = time.monotonic()

        def insert(block: ColumnBatch) -> None:
            reach(Failpoint.SLICE_INSERTING, run=claim.run_id, slice=claim.slice_id, attempt=claim.attempt)
            self._target.insert(block, version_ms)

        rules = self._rules
        with Inserter(insert, self._target.interrupt, rules.insert_rows, rules.insert_bytes) as inserter, inserter:
            for frame in self._source.read(claim.window):
                mark = timings.add("fetch", mark)
                reach(Failpoint.SLICE_FRAME_READ, run=claim.run_id, slice=claim.slice_id, attempt=claim.attempt)
                checkpoint()
                rows_read += frame.rows
                rows_slow += frame.rows if frame.decoded_slowly else 0
                coerced = self._coercion.apply(frame)
                if coerced.misfits:
                    rows_rejected += self._reject(claim, coerced.misfits, journal)
                batch, hashes = drop_repeats(coerced.batch, self._coercion.key)
                keys.add(hashes)
                mark = timings.add("coerce", mark)
                inserter.add(batch)
                mark = timings.add("insert_wait", mark)
                if mark - beat_at > _HEARTBEAT_EVERY_S:
                    _beat(claim, journal)
                    beat_at = mark
            mark = timings.add("fetch", mark)
            self._verify_count(claim, counted, rows_read)
            read_ended()
            checkpoint()
            inserter.finish()
            timings.add("insert_wait", mark)
            reach(Failpoint.SLICE_INSERTED, run=claim.run_id, slice=claim.slice_id, attempt=claim.attempt)
            return SliceResult(
                rows_counted=counted,
                rows_read=rows_read,
                rows_inserted=inserter.rows,
                rows_distinct=keys.distinct(),
                rows_rejected=rows_rejected,
                timings_ms=timings.ms,
                rows_slow=rows_slow,
            )

    def _verify_count(self, claim: SliceClaim, counted: int, rows_read: int) -> None:
        """A read shorter than the count is a lost or stolen frame, unless rows really went away in between."""
        if rows_read >= counted:
            return
        again = self._source.count(claim.window)
        if rows_read < again:
            raise ShortRead(
                f"{claim.window}: {rows_read} rows were read, but {counted} were counted before and {again} after; "
                "a frame was lost (a restarted Query Server), the window is read again"
            )
        log.warning("slice_shrank", counted=counted, counted_again=again, rows_read=rows_read)

    def _reject(self, claim: SliceClaim, misfits: Sequence[Misfit], journal: Journal) -> int:
        if self._used:
            # Before a row is left out: the column may have been widened since.
            raise SchemaError(
                f"column {misfits[0].column} holds {misfits[0].value_text}, which did not fit when columns were asked"
            )
        # The row that breaks the limit is shown as well; a wholly wrong column must not fill the journal.
        shown = set(list(dict.fromkeys(misfit.key for misfit in misfits))[: self._rules.max_rejected_rows + 1])
        rejects = [
            Reject(repr(misfit.key), misfit.column, misfit.value_text, misfit.reason)
            for misfit in misfits
            if misfit.key in shown
        ]
        rejected_by_run = journal.slices.record_rejects(claim, rejects)
        first = misfits[0]
        if rejected_by_run > self._rules.max_rejected_rows:
            raise RowRejected(
                f"row {first.key!r}: column {first.column} holds {first.value_text}, {first.reason}; {rejected_by_run} "
                f"rows of the run do not fit and MAX_REJECTED_ROWS is {self._rules.max_rejected_rows}: mend the row in "
                "the source, or raise MAX_REJECTED_ROWS to leave such rows out, counted"
            )
        log.warning(
            "rows_rejected", rows=len({misfit.key for misfit in misfits}), first=repr(first.key), column=first.column
        )
        return len({misfit.key for misfit in misfits})


def _beat(claim: SliceClaim, journal: Journal) -> None:
    """Tell that the run moves. The lease, not this, decides whether the journal was away for too long."""
    try:
        journal.runs.heartbeat(claim.run_id, progress=True)
    except TransientError as error:
        log.warning("heartbeat_failed", error=str(error))
