"""Publishes: claim under a fence token, stage metrics, finish and failure, each one guarded transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.extras import Json

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.offers import offer_owed_publish, offer_publish, settle_partition
from etl_tasks.adapters.journal.text import journal_json, journal_text
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.publishing import LoadedWindow, StageMetric
from etl_tasks.core.records import PublishClaim, Transition
from etl_tasks.core.states import PublishState
from etl_tasks.core.windows import Window
from etl_tasks.errors import LostOwnership, NewerPublish


class PublishJournal:
    """Transitions of a partition's publish."""

    def __init__(self, database: Database, cadence: CadenceRules) -> None:
        self._database = database
        self._cadence = cadence

    def claim(
        self, clean_table: str, partition: int, *, dedup_process: str, worker: str, lease_s: float, max_attempts: int
    ) -> PublishClaim | None:
        """The partition's publish for one attempt, its token the newest of the CLEAN table; None when it is not due.

        Call it only while holding the publish lock of the CLEAN table.
        """
        with self._database.transaction() as transaction:
            row = transaction.one(
                "claim_publish_if_due",
                clean_table=clean_table,
                partition=partition,
                lease_s=lease_s,
                max_attempts=max_attempts,
            )
            if row is None:
                return None
            token = int(transaction.one("next_token", clean_table=clean_table).token)
            windows = [
                LoadedWindow(int(w.slice_id), Window(w.window_from, w.window_to), int(w.distinct_rows))
                for w in transaction.all(
                    "windows_to_publish",
                    clean_table=clean_table,
                    partition=partition,
                    published_gen=row.published_gen,
                    target_gen=row.target_gen,
                )
            ]
            transaction.run("close_dead_publish_rows", process_name=dedup_process)
            details = {
                "partition": partition,
                "token": token,
                "attempt": row.attempt,
                "windows": len(windows),
                "worker": worker,
                "rebuild": row.rebuild,
            }
            publish_run_id = int(
                transaction.one(
                    "insert_publish_row",
                    process_name=dedup_process,
                    clean_table=clean_table,
                    since=min((w.window.start for w in windows), default=None),
                    until=max((w.window.end for w in windows), default=None),
                    details=journal_json(details),
                ).id
            )
            transaction.run(
                "bind_publish_token",
                clean_table=clean_table,
                partition=partition,
                token=token,
                publish_run_id=publish_run_id,
            )
        return PublishClaim(
            clean_table=clean_table,
            partition=partition,
            token=token,
            attempt=row.attempt,
            spent=row.spent,
            target_gen=int(row.target_gen),
            published_gen=int(row.published_gen),
            rebuild=row.rebuild,
            least_rows=int(row.least_rows),
            publish_run_id=publish_run_id,
            windows=tuple(windows),
            lost=tuple(Window(start, end) for start, end in zip(row.lost_froms, row.lost_tos, strict=True)),
        )

    def renew(self, claim: PublishClaim, lease_s: float) -> bool:
        """Whether this publish still is the newest of its CLEAN table and owns the partition; renews its lease."""
        with self._database.transaction() as transaction:
            return (
                transaction.one(
                    "renew_publish_if_running",
                    clean_table=claim.clean_table,
                    partition=claim.partition,
                    token=claim.token,
                    lease_s=lease_s,
                )
                is not None
            )

    def record_stage(self, claim: PublishClaim, metric: StageMetric) -> None:
        """A stage metric into the publish's row, in the shape the operators know."""
        stage = metric.as_details()
        with self._database.transaction() as transaction:
            transaction.run("record_stage", publish_run_id=claim.publish_run_id, stage=Json([stage]), last=Json(stage))

    def finish(
        self, claim: PublishClaim, *, duration_ms: int, pinned: Sequence[str], details: dict[str, Any]
    ) -> list[Transition]:
        """published_gen = target, coverage, the waiting runs settled, due again if loads went on.

        What a rebuild was agreed to lose counts as not loaded from here on. Raises LostOwnership.
        """
        with self._database.transaction() as transaction:
            runs = self._lock_waiting_runs(transaction, claim)
            if claim.rebuild:
                key = {"clean_table": claim.clean_table, "partition": claim.partition}
                # First, so that every load that has added to the coverage is seen with its slice.
                transaction.one("lock_partition", **key)
                transaction.run("uncover_rebuilt_losses", **key, token=claim.token)
            row = transaction.one(
                "finish_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                duration_ms=duration_ms,
                pinned=Json(list(pinned)),
            )
            if row is None:
                raise _lost(claim)
            transaction.run(
                "end_publish_row",
                publish_run_id=claim.publish_run_id,
                status="ok",
                details=journal_json({**details, "dedup_part_total_ms": {str(claim.partition): duration_ms}}),
            )
            self._offer_again(transaction, claim)
            return self._settle(transaction, runs, claim.partition)

    def reopen(self, claim: PublishClaim, short: Sequence[LoadedWindow], reason: str) -> list[int]:
        """Load windows again whose rows RAW no longer has; the publish waits. Returns the slices that are due again.

        A window whose run has ended, or is finished with the partition, counts as not loaded from now on: the schedule,
        or `gaps`, sees it. Raises LostOwnership.
        """
        reason = journal_text(reason)
        with self._database.transaction() as transaction:
            transaction.all("lock_runs_of_slices", slice_ids=[loaded.slice_id for loaded in short])
            given_back = transaction.one(
                "give_back_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                refund=0,
                delay_s=5.0,
                error_kind="CountMismatch",
                last_error=reason,
            )
            if given_back is None:
                raise _lost(claim)
            transaction.run("forget_counts_of_done_slices", slice_ids=[loaded.slice_id for loaded in short])
            due = [loaded.slice_id for loaded in short if self._load_again(transaction, claim, loaded, reason)]
            transaction.run(
                "end_publish_row",
                publish_run_id=claim.publish_run_id,
                status="error",
                details=journal_json({"error": reason}),
            )
            return due

    @staticmethod
    def _load_again(transaction: Transaction, claim: PublishClaim, loaded: LoadedWindow, reason: str) -> bool:
        """Whether the slice was opened again; in any case its window is not loaded any more."""
        reopened = transaction.one("reopen_slice_of_active_run", slice_id=loaded.slice_id, reason=reason)
        row = reopened or transaction.one("lose_slice_if_done", slice_id=loaded.slice_id, reason=reason)
        if row is None:
            return False
        counted = "reopen_run_partition" if reopened else "count_lost_slice"
        transaction.run(counted, run_id=row.run_id, partition=row.partition)
        transaction.run(
            "uncover_window",
            clean_table=claim.clean_table,
            partition=claim.partition,
            window_from=loaded.window.start,
            window_to=loaded.window.end,
        )
        return reopened is not None

    def give_back(self, claim: PublishClaim, error: BaseException, *, delay_s: float, refund: bool) -> None:
        """running → due, not before ``delay_s`` from now; ``refund`` where a service could not be reached.

        Raises LostOwnership.
        """
        with self._database.transaction() as transaction:
            row = transaction.one(
                "give_back_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                refund=int(refund),
                delay_s=delay_s,
                error_kind=type(error).__name__,
                last_error=journal_text(str(error)),
            )
            if row is None:
                raise _lost(claim)
            self._end_row(transaction, claim, error)

    def catch_up(self, claim: PublishClaim, newer_token: int, error: NewerPublish) -> None:
        """running → due at once, under tokens greater than ``newer_token`` from now on.

        For the newest publish that the journal knows, which met a newer one in ClickHouse: the journal was restored
        from an older backup. Raises LostOwnership where it is the journal that knows of a newer one.
        """
        with self._database.transaction() as transaction:
            given_back = transaction.one(
                "give_back_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                refund=1,
                delay_s=0.0,
                error_kind=type(error).__name__,
                last_error=journal_text(str(error)),
            )
            raised = transaction.one(
                "raise_fence_if_newest", clean_table=claim.clean_table, token=claim.token, newer_token=newer_token
            )
            if given_back is None or raised is None:
                raise LostOwnership(f"{error}; the journal knows of it")
            self._end_row(transaction, claim, error)

    def fail(self, claim: PublishClaim, error: Exception) -> list[Transition]:
        """running → error: the runs that waited for it end as error too. Raises LostOwnership.

        From a rebuild it is back to due, or to idle where nothing is owed: no run waited for the rebuild.
        """
        with self._database.transaction() as transaction:
            runs = self._lock_waiting_runs(transaction, claim)
            row = transaction.one(
                "fail_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                error_kind=type(error).__name__,
                last_error=journal_text(str(error)),
            )
            if row is None:
                raise _lost(claim)
            self._end_row(transaction, claim, error)
            if row.publish_state != PublishState.ERROR:
                return []
            transaction.run("fail_run_partitions_wanting", clean_table=claim.clean_table, partition=claim.partition)
            return self._settle(transaction, runs, claim.partition)

    def fail_spent(self, clean_table: str, max_attempts: int) -> list[Transition]:
        """Publishes whose attempts are spent and that nobody works on become errors; rebuilds are given up, as by
        ``fail``.
        """
        with self._database.transaction() as transaction:
            spent = transaction.all("spent_publishes", clean_table=clean_table, max_attempts=max_attempts)
        transitions: list[Transition] = []
        for candidate in spent:
            with self._database.transaction() as transaction:
                key = {"clean_table": candidate.clean_table, "partition": candidate.partition}
                runs = transaction.all("lock_runs_waiting_for_partition", **key)
                failed = transaction.one("fail_spent_publish", **key, max_attempts=max_attempts)
                if failed is None or failed.publish_state != PublishState.ERROR:
                    continue
                transaction.run("fail_run_partitions_wanting", **key)
                transitions += self._settle(transaction, runs, candidate.partition)
        return transitions

    def offer_owed(self, clean_table: str) -> list[tuple[str, int]]:
        """What is loaded and not published becomes due as the cadence says; the (CLEAN table, partition) due now."""
        with self._database.transaction() as transaction:
            owed = transaction.all("owed_partitions", clean_table=clean_table)
        due = []
        for row in owed:
            with self._database.transaction() as transaction:
                if offer_owed_publish(transaction, self._cadence, row.clean_table, row.partition):
                    due.append((row.clean_table, row.partition))
        return due

    def settle_waiting(self, clean_table: str) -> list[Transition]:
        """Close what runs are finished with and offer what they wait for, where no transition did.

        That happens where a journal was restored, or after an upgrade.
        """
        with self._database.transaction() as transaction:
            unsettled = transaction.all("unsettled_run_partitions", clean_table=clean_table)
            unoffered = transaction.all("unoffered_run_partitions", clean_table=clean_table)
        transitions: list[Transition] = []
        for row in unsettled:
            with self._database.transaction() as transaction:
                run = transaction.one("lock_active_run", run_id=row.run_id)
                if run is not None:
                    transitions += self._settle(transaction, [run], row.partition)
        for row in unoffered:
            with self._database.transaction() as transaction:
                if transaction.one("lock_active_run", run_id=row.run_id) is not None:
                    offer_publish(transaction, self._cadence, row.clean_table, row.partition, int(row.run_id), 0)
        return transitions

    def _end_row(self, transaction: Transaction, claim: PublishClaim, error: BaseException) -> None:
        transaction.run(
            "end_publish_row",
            publish_run_id=claim.publish_run_id,
            status="error",
            details=journal_json({"error": f"{type(error).__name__}: {error}"}),
        )

    @staticmethod
    def _lock_waiting_runs(transaction: Transaction, claim: PublishClaim) -> list[Any]:
        return transaction.all(
            "lock_runs_waiting_for_partition", clean_table=claim.clean_table, partition=claim.partition
        )

    def _offer_again(self, transaction: Transaction, claim: PublishClaim) -> None:
        """Loads that ended while this publish ran: due again where a run waits for them, else as the cadence says."""
        key = {"clean_table": claim.clean_table, "partition": claim.partition}
        for waiting in transaction.all("runs_wanting_publish", **key):
            offer_publish(transaction, self._cadence, claim.clean_table, claim.partition, int(waiting.id), 0)
        offer_owed_publish(transaction, self._cadence, claim.clean_table, claim.partition)

    @staticmethod
    def _settle(transaction: Transaction, runs: Sequence[Any], partition: int) -> list[Transition]:
        transitions = []
        for run in runs:
            released, finalize = settle_partition(transaction, int(run.id), partition)
            transitions.append(
                Transition(
                    int(run.id),
                    partition,
                    run.manual,
                    released_partitions=released,
                    finalize_due=finalize,
                    process_name=run.process_name,
                )
            )
        return transitions


def _lost(claim: PublishClaim) -> LostOwnership:
    return LostOwnership(f"the publish of partition {claim.partition} with token {claim.token} is no longer ours")
