"""Reconciles in the journal: one row each, begun, ended and kept; what they found, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from etl_tasks.adapters.journal.database import Database
from etl_tasks.adapters.journal.lock import ReconcileLock
from etl_tasks.adapters.journal.text import journal_json
from etl_tasks.core.reconcile_verdict import Coverage, Finding
from etl_tasks.core.records import OpenReconcile, PublishProgress, RepairToCheck
from etl_tasks.core.windows import Window, partition_of


class ReconcileJournal:
    """Every method is one transaction and safe to repeat, but ``begin``."""

    def __init__(self, database: Database, clean_table: str) -> None:
        self._database = database
        self._clean_table = clean_table

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Whether this is the only reconcile of the CLEAN table; the lock is released at the end of the block."""
        with ReconcileLock(self._database.config, self._clean_table) as lock:
            yield lock.acquired

    def end_dead(self) -> list[OpenReconcile]:
        """End what still says running, as error. Only for the holder of the lock: then nobody else runs."""
        with self._database.transaction() as transaction:
            rows = transaction.all("end_dead_reconciles", clean_table=self._clean_table)
        return [OpenReconcile(int(row.id), row.started_at) for row in rows]

    def running(self) -> OpenReconcile | None:
        """The reconcile that says it is running, or None."""
        with self._database.transaction() as transaction:
            row = transaction.one("running_reconcile", clean_table=self._clean_table)
        return None if row is None else OpenReconcile(int(row.id), row.started_at)

    def begin(
        self,
        span: Window,
        *,
        by_hash: bool,
        repairs: int | None,
        repair_run_id: int | None,
        details: Mapping[str, Any],
    ) -> int:
        """A new row over ``span`` (source time), ``running``; its id."""
        with self._database.transaction() as transaction:
            row = transaction.one(
                "begin_reconcile",
                clean_table=self._clean_table,
                since=span.start,
                until=span.end,
                by_hash=by_hash,
                repairs=repairs,
                repair_run_id=repair_run_id,
                details=journal_json(details),
            )
        return int(row.id)

    def note(self, reconcile_id: int, details: Mapping[str, Any]) -> None:
        """Put ``details`` beside what the row says."""
        with self._database.transaction() as transaction:
            transaction.run("note_reconcile", reconcile_id=reconcile_id, details=journal_json(details))

    def note_progress(self, reconcile_id: int, findings: Sequence[Finding], details: Mapping[str, Any]) -> None:
        """What has been compared so far, and ``details`` beside it: what is known if the process dies."""
        with self._database.transaction() as transaction:
            transaction.run(
                "note_reconcile_progress",
                reconcile_id=reconcile_id,
                details=journal_json(details),
                **_compared(findings),
            )

    def end(
        self, reconcile_id: int, status: str, findings: Sequence[Finding], details: Mapping[str, Any], *, by_hash: bool
    ) -> None:
        """The row's end: ``exact``, ``different`` or ``error``, with the windows and the sums of ``findings``.

        What only a comparison of the rows can tell (missing, extra, changed, repeated, unfit) stays NULL without one.
        """
        contents = [each.content for each in findings if each.content is not None]
        sums = {
            column: sum(getattr(each, name) for each in contents) if by_hash else None
            for column, name in (
                ("missing", "missing"),
                ("extra", "extra"),
                ("changed", "differing"),
                ("repeated", "repeated"),
                ("unfit", "unfit"),
            )
        }
        with self._database.transaction() as transaction:
            transaction.run(
                "end_reconcile",
                reconcile_id=reconcile_id,
                status=status,
                source_rows=sum(each.counts.source for each in findings),
                raw_rows=sum(each.counts.raw for each in findings),
                clean_rows=sum(each.counts.clean for each in findings),
                details=journal_json(details),
                **_compared(findings),
                **sums,
            )

    def coverage(self, span: Window) -> Coverage:
        """What is loaded, and what is loaded and not published, of ``span`` (source time)."""
        asked = {
            "clean_table": self._clean_table,
            "window_from": span.start,
            "window_to": span.end,
            "first_partition": partition_of(span.start),
            "last_partition": partition_of(span.end),
        }
        with self._database.transaction() as transaction:
            loaded = transaction.all("loaded_windows", **asked)
            owed = transaction.all("owed_windows", **asked)
        return Coverage(_windows(loaded), _windows(owed))

    def owe_publishes(self, partitions: Sequence[int]) -> list[PublishProgress]:
        """Make due now what is loaded and not published of the partitions, a publish in error too; how they stand.

        One that backs off after a failure keeps its moment, one that is published right now is offered again at its
        end.
        """
        for partition in sorted(partitions):
            with self._database.transaction() as transaction:
                transaction.run(
                    "publish_becomes_due",
                    clean_table=self._clean_table,
                    partition=partition,
                    not_before=transaction.now(),
                )
        return self.publish_states(partitions)

    def publish_states(self, partitions: Sequence[int]) -> list[PublishProgress]:
        """How far the publishes of the partitions are, in order."""
        with self._database.transaction() as transaction:
            rows = transaction.all("publish_states", clean_table=self._clean_table, partitions=list(partitions))
        return [
            PublishProgress(
                row.partition, int(row.loaded_gen), int(row.published_gen), row.publish_state, row.waits, row.last_error
            )
            for row in rows
        ]

    def repair_to_check(self) -> RepairToCheck | None:
        """The oldest repair that has ended and whose windows nobody has compared since; None when there is none."""
        with self._database.transaction() as transaction:
            rows = transaction.all("repair_to_check", clean_table=self._clean_table)
        if not rows:
            return None
        return RepairToCheck(int(rows[0].id), rows[0].run_id, rows[0].by_hash, _windows(rows))

    def repair_under_way(self) -> int | None:
        """The run of a repair that has not ended, or None."""
        with self._database.transaction() as transaction:
            row = transaction.one("repair_under_way", clean_table=self._clean_table)
        return None if row is None else int(row.run_id)

    def loaded_by(self, run_id: int) -> list[Window]:
        """The windows that the run has loaded, disjoint and in order; none where the journal has forgotten it."""
        with self._database.transaction() as transaction:
            return _windows(transaction.all("windows_loaded_by_run", run_id=run_id))

    def unmended(self) -> list[Window]:
        """Windows that a repair of the last day loaded and did not mend, which another one would not either."""
        with self._database.transaction() as transaction:
            return _windows(transaction.all("unmended_windows", clean_table=self._clean_table))


def _compared(findings: Sequence[Finding]) -> dict[str, Any]:
    """How many windows were compared, which instants, and which of these differ."""
    return {
        "windows": len(findings),
        "compared": _multirange([each.window for each in findings]),
        "differing": _multirange([each.window for each in findings if not each.equal]),
    }


def _multirange(windows: Sequence[Window]) -> str:
    """The windows as PostgreSQL writes a tstzmultirange."""
    return "{" + ",".join(f"[{each.start.isoformat()},{each.end.isoformat()})" for each in windows) + "}"


def _windows(rows: Sequence[Any]) -> list[Window]:
    return [Window(row.window_from, row.window_to) for row in rows]
