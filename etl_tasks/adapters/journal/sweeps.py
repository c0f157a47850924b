"""What the sweeper asks: stale runs, lost messages, spent attempts, owed publishes, retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etl_tasks.adapters.journal.counting import keep_counts
from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.lock import SweepLock
from etl_tasks.adapters.journal.publishes import PublishJournal
from etl_tasks.adapters.journal.runs import end_run
from etl_tasks.core.records import DueSlice, EndedRun, SanitizeRules, Transition
from etl_tasks.core.states import RunStatus

_PRUNE_BATCH_RUNS = 100


class SweepJournal:
    """Questions and transitions of the sweeper and of ``sanitize_stale``."""

    def __init__(self, database: Database, clean_table: str, publishes: PublishJournal) -> None:
        self._database = database
        self._clean_table = clean_table
        self._publishes = publishes

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Whether this is the only sweep right now; the lock is released at the end of the block."""
        with SweepLock(self._database.config, self._clean_table) as lock:
            yield lock.acquired

    def sanitize_stale(self, rules: SanitizeRules, process_name: str | None = None) -> list[EndedRun]:
        """planned past its TTL → skipped; running without heartbeat and live lease, or past the hard TTL → error."""
        ended = self._end_each(
            "stale_planned_runs",
            {"process_name": process_name, "ttl_min": rules.planned_ttl_min},
            RunStatus.SKIPPED,
            lambda _: f"planned and not taken up for {rules.planned_ttl_min} minutes (SANITIZE_PLANNED_TTL_MIN)",
        )
        return ended + self._end_each(
            "stale_running_runs",
            {
                "process_name": process_name,
                "heartbeat_ttl_min": rules.heartbeat_ttl_min,
                "hard_ttl_min": rules.hard_ttl_min,
            },
            RunStatus.ERROR,
            lambda row: (
                f"no heartbeat since {row.alive_at:%Y-%m-%dT%H:%M:%SZ} and no live lease (SANITIZE_HEARTBEAT_TTL_MIN="
                f"{rules.heartbeat_ttl_min}), or older than SANITIZE_HARD_TTL_MIN={rules.hard_ttl_min}"
            ),
        )

    def end_runs_without_progress(self, patience_s: float) -> list[EndedRun]:
        """Runs that moved nothing for ``SOURCE_PATIENCE_S`` end as error."""
        return self._end_each(
            "runs_without_progress",
            {"clean_table": self._clean_table, "patience_s": patience_s},
            RunStatus.ERROR,
            lambda row: (
                f"no progress for {patience_s:g} s (SOURCE_PATIENCE_S): the source, ClickHouse or every worker was "
                "away; see the last errors of its slices, then load the interval again: "
                "python -m etl_tasks run --manual"
            ),
        )

    def heartbeat_active_runs(self) -> list[int]:
        """Somebody takes care of every active run; their ids."""
        with self._database.transaction() as transaction:
            run_ids = [int(row.id) for row in transaction.all("active_runs", clean_table=self._clean_table)]
        for run_id in run_ids:
            with self._database.transaction() as transaction:
                transaction.run("heartbeat_run", run_id=run_id, progress=False)
        return run_ids

    def runs_to_finalize(self) -> list[int]:
        """Active runs with nothing open."""
        with self._database.transaction() as transaction:
            return [int(row.id) for row in transaction.all("runs_to_finalize", clean_table=self._clean_table)]

    def settle(self) -> list[Transition]:
        """Runs that are finished with a partition and were not told, closed now."""
        return self._publishes.settle_waiting(self._clean_table)

    def due_slices(
        self, *, grace_s: float, resend_after_s: float, queue_empty: bool, max_attempts: int, most: int
    ) -> list[DueSlice]:
        """What is due and not moving, never sent first, then oldest first."""
        with self._database.transaction() as transaction:
            rows = transaction.all(
                "sweep_slices",
                clean_table=self._clean_table,
                grace_s=grace_s,
                resend_after_s=resend_after_s,
                queue_empty=queue_empty,
                max_attempts=max_attempts,
                most=most,
            )
        return [DueSlice(int(r.id), int(r.run_id), r.partition, r.manual, r.believed_queued) for r in rows]

    def queue_beliefs(self) -> tuple[int, int]:
        """Slices believed queued, and slices running under a live lease (each holds an unacknowledged message)."""
        with self._database.transaction() as transaction:
            row = transaction.one("queue_beliefs", clean_table=self._clean_table)
        return int(row.queued), int(row.running)

    def due_publishes(self, *, resend_after_s: float, max_attempts: int, most: int = 20) -> list[tuple[str, int]]:
        """(CLEAN table, partition) of publishes that are due and that nobody was told of lately."""
        with self._database.transaction() as transaction:
            rows = transaction.all(
                "sweep_publishes",
                clean_table=self._clean_table,
                resend_after_s=resend_after_s,
                max_attempts=max_attempts,
                most=most,
            )
        return [(row.clean_table, row.partition) for row in rows]

    def mark_publish_sent(self, clean_table: str, partition: int) -> None:
        """Somebody was told."""
        with self._database.transaction() as transaction:
            transaction.run("mark_publish_sent", clean_table=clean_table, partition=partition)

    def prune(self, retention_days: int) -> int:
        """Drop ended runs past ``JOURNAL_RETENTION_DAYS`` in batches (0: keep all); how many. Coverage stays.

        What they have counted goes to the totals in the same transaction: counters never fall.
        """
        pruned = 0
        while retention_days > 0:
            with self._database.transaction() as transaction:
                run_ids = [
                    int(row.id)
                    for row in transaction.all(
                        "prunable_runs",
                        clean_table=self._clean_table,
                        retention_days=retention_days,
                        batch=_PRUNE_BATCH_RUNS,
                    )
                ]
                keep_counts(transaction, self._clean_table, run_ids)
                _prune(transaction, run_ids)
            pruned += len(run_ids)
            if len(run_ids) < _PRUNE_BATCH_RUNS:
                break
        return pruned

    def _end_each(
        self, question: str, parameters: dict[str, Any], status: RunStatus, reason_of: Callable[[Any], str]
    ) -> list[EndedRun]:
        """End every run that ``question`` names, asked of each again under its lock: it may have come to life since."""
        with self._database.transaction() as transaction:
            candidates = transaction.all(question, **parameters, run_id=None)
        ended = []
        for candidate in candidates:
            with self._database.transaction() as transaction:
                run = transaction.one("lock_active_run", run_id=candidate.id)
                row = transaction.one(question, **parameters, run_id=candidate.id)
                if run is None or row is None:
                    continue
                reason = reason_of(row)
                end_run(transaction, int(run.id), run=run, status=status, reason=reason)
            ended.append(EndedRun(int(run.id), run.process_name, str(status), reason))
        return ended


def _prune(transaction: Transaction, run_ids: Sequence[int]) -> None:
    for name in ("prune_slices", "prune_run_partitions", "prune_rejects", "prune_runs"):
        transaction.run(name, run_ids=list(run_ids))
