"""Slices: claim, lease, finish, split and failure, each one guarded transaction.

Lock order everywhere: run, then partition, then slice, then the run's partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.offers import offer_publish, settle_partition
from etl_tasks.adapters.journal.text import journal_json, journal_key, journal_text
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.records import Reject, SliceClaim, SliceResult, Transition
from etl_tasks.core.windows import Window
from etl_tasks.errors import LostOwnership


class SliceJournal:
    """Transitions of slices."""

    def __init__(self, database: Database, clean_table: str, cadence: CadenceRules) -> None:
        self._database = database
        self._clean_table = clean_table
        self._cadence = cadence

    def unsent(self, run_id: int) -> dict[int, list[int]]:
        """Released slices that nobody has sent yet, by partition, in order of time."""
        by_partition: dict[int, list[int]] = {}
        with self._database.transaction() as transaction:
            for row in transaction.all("unsent_slices", run_id=run_id):
                by_partition.setdefault(row.partition, []).append(int(row.id))
        return by_partition

    def mark_sent(self, slice_ids: Sequence[int]) -> None:
        """They are believed to be queued from now on."""
        with self._database.transaction() as transaction:
            transaction.run("mark_slices_sent", slice_ids=list(slice_ids))

    def claim(self, slice_id: int, *, worker: str, lease_s: float, max_attempts: int) -> SliceClaim | None:
        """The slice for one attempt, or None: a duplicate, a live holder, an ended run, spent attempts, or a slice
        of another CLEAN table, whose workers use the same Redis by mistake.
        """
        with self._database.transaction() as transaction:
            transaction.run("touch_run_of_slice", slice_id=slice_id, clean_table=self._clean_table)
            transaction.run("lock_partition_of_slice", slice_id=slice_id)
            row = transaction.one(
                "claim_slice",
                slice_id=slice_id,
                clean_table=self._clean_table,
                worker=worker,
                lease_s=lease_s,
                max_attempts=max_attempts,
            )
            if row is None:
                # Refused only because another lane reads the same instants, or because we are of another CLEAN table:
                # the sweeper offers it again in a moment.
                transaction.run("defer_slice_if_planned", slice_id=slice_id, delay_s=5.0)
                return None
        return SliceClaim(
            slice_id=int(row.slice_id),
            run_id=int(row.run_id),
            clean_table=row.clean_table,
            partition=row.partition,
            window=Window(row.window_from, row.window_to),
            step=row.step,
            depth=row.depth,
            attempt=row.attempt,
            spent=row.spent,
            manual=row.manual,
            process_name=row.process_name,
        )

    def renew(self, claim: SliceClaim, lease_s: float) -> bool:
        """Whether the attempt still owns its slice; its lease then runs ``lease_s`` seconds from now."""
        with self._database.transaction() as transaction:
            return (
                transaction.one(
                    "renew_slice_if_running", slice_id=claim.slice_id, attempt=claim.attempt, lease_s=lease_s
                )
                is not None
            )

    def next_version(self, clean_table: str) -> int:
        """Milliseconds: the version of all rows of one execution of a source query, greater than any given before."""
        with self._database.transaction() as transaction:
            return int(transaction.one("next_version", clean_table=clean_table).version_ms)

    def note_overload(self, claim: SliceClaim, error: Exception) -> None:
        """Count a rejection by the source while the attempt goes on."""
        with self._database.transaction() as transaction:
            row = transaction.one(
                "note_overload_if_running",
                slice_id=claim.slice_id,
                attempt=claim.attempt,
                error_kind=type(error).__name__,
                last_error=journal_text(str(error)),
            )
        if row is None:
            raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")

    def record_rejects(self, claim: SliceClaim, rejects: Sequence[Reject]) -> int:
        """Write the rejects, once a run however often the slice is tried; the rows the run has rejected so far."""
        with self._database.transaction() as transaction:
            transaction.run("lock_rejects_of_run", run_id=claim.run_id)
            for reject in rejects:
                transaction.run(
                    "insert_reject",
                    run_id=claim.run_id,
                    row_key=journal_key(reject.row_key),
                    column_name=reject.column,
                    slice_id=claim.slice_id,
                    value=journal_text(reject.value),
                    reason=journal_text(reject.reason),
                )
            return int(transaction.one("rejected_rows_of_run", run_id=claim.run_id).rejected_rows)

    def finish(self, claim: SliceClaim, result: SliceResult) -> Transition:
        """running → done: generation, coverage, open count and what becomes due, in one transaction.

        Raises LostOwnership.
        """
        with self._database.transaction() as transaction:
            run = self._own_run(transaction, claim)
            transaction.one("lock_partition", clean_table=claim.clean_table, partition=claim.partition)
            generation = transaction.one(
                "load_partition",
                clean_table=claim.clean_table,
                partition=claim.partition,
                window_from=claim.window.start,
                window_to=claim.window.end,
            ).loaded_gen
            row = transaction.one(
                "finish_slice_if_running",
                slice_id=claim.slice_id,
                attempt=claim.attempt,
                generation=generation,
                rows_counted=result.rows_counted,
                rows_read=result.rows_read,
                rows_inserted=result.rows_inserted,
                rows_distinct=result.rows_distinct,
                rows_rejected=result.rows_rejected,
                rows_slow=result.rows_slow,
                timings_ms=journal_json(result.timings_ms),
            )
            if row is None:
                raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")
            return self._close(transaction, run, claim.partition, generation=generation)

    def split(self, claim: SliceClaim, halves: tuple[Window, Window], error: Exception, reason: str) -> Transition:
        """running → split, its two halves planned and due. Raises LostOwnership."""
        with self._database.transaction() as transaction:
            run = self._own_run(transaction, claim)
            row = transaction.one(
                "split_slice_if_running",
                slice_id=claim.slice_id,
                attempt=claim.attempt,
                error_kind=type(error).__name__,
                last_error=journal_text(reason),
            )
            if row is None:
                raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")
            children = [
                int(
                    transaction.one(
                        "insert_child_slice", parent_id=claim.slice_id, window_from=half.start, window_to=half.end
                    ).id
                )
                for half in halves
            ]
            return self._close(transaction, run, claim.partition, children=children)

    def fail(self, claim: SliceClaim, error: Exception, reason: str, rows_rejected: int | None = None) -> Transition:
        """running → error: the other slices and partitions go on. Raises LostOwnership."""
        with self._database.transaction() as transaction:
            run = self._own_run(transaction, claim)
            transaction.one("lock_partition", clean_table=claim.clean_table, partition=claim.partition)
            row = transaction.one(
                "fail_slice_if_running",
                slice_id=claim.slice_id,
                attempt=claim.attempt,
                error_kind=type(error).__name__,
                last_error=journal_text(reason),
                rows_rejected=rows_rejected,
            )
            if row is None:
                raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")
            return self._close(transaction, run, claim.partition, failed=1)

    def give_back(self, claim: SliceClaim, error: BaseException, reason: str, *, delay_s: float, refund: bool) -> None:
        """running → planned, due after ``delay_s``; ``refund``: not the slice's fault. Raises LostOwnership."""
        with self._database.transaction() as transaction:
            row = transaction.one(
                "give_back_slice_if_running",
                slice_id=claim.slice_id,
                attempt=claim.attempt,
                refund=int(refund),
                delay_s=delay_s,
                error_kind=type(error).__name__,
                last_error=journal_text(reason),
            )
        if row is None:
            raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")

    def fail_spent(self, clean_table: str, max_attempts: int, slice_id: int | None = None) -> list[Transition]:
        """Slices whose attempts are spent and that nobody works on any more become errors."""
        with self._database.transaction() as transaction:
            spent = transaction.all(
                "spent_slices", clean_table=clean_table, max_attempts=max_attempts, slice_id=slice_id
            )
        transitions = []
        for candidate in spent:
            with self._database.transaction() as transaction:
                run = transaction.one("lock_active_run", run_id=candidate.run_id)
                if run is None:
                    continue
                transaction.one("lock_partition", clean_table=candidate.clean_table, partition=candidate.partition)
                if transaction.one("fail_spent_slice", slice_id=candidate.id, max_attempts=max_attempts) is not None:
                    closed = self._close(transaction, run, candidate.partition, failed=1)
                    transitions.append(replace(closed, given_up=int(candidate.id)))
        return transitions

    @staticmethod
    def _own_run(transaction: Transaction, claim: SliceClaim) -> Any:
        run = transaction.one("lock_active_run", run_id=claim.run_id)
        if run is None:
            raise LostOwnership(f"run {claim.run_id} has ended; slice {claim.slice_id} is nobody's any more")
        return run

    def _close(
        self,
        transaction: Transaction,
        run: Any,
        partition: int,
        *,
        generation: int | None = None,
        children: Sequence[int] = (),
        failed: int = 0,
    ) -> Transition:
        """Take one slice off the run's partition; the caller has locked the run, and without children the partition."""
        run_id = int(run.id)
        counts = transaction.one(
            "close_slice_of_run_partition",
            run_id=run_id,
            partition=partition,
            children=len(children),
            failed=failed,
            generation=generation,
        )
        transaction.run("progress_run", run_id=run_id)
        now_due = False
        if not children:
            now_due = offer_publish(transaction, self._cadence, run.clean_table, partition, run_id, counts.open_slices)
        settled = settle_partition(transaction, run_id, partition)
        return Transition(
            run_id=run_id,
            partition=partition,
            manual=run.manual,
            publish_due=now_due,
            released_partitions=settled[0],
            finalize_due=settled[1],
            children=tuple(children),
            open_slices=int(counts.open_slices),
            process_name=run.process_name,
        )
