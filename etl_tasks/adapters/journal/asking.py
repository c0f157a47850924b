"""A publish that somebody asks for by hand, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.publishing import PublishProgress, StageMetric
from etl_tasks.core.windows import Window


class AskJournal:
    """Publishes asked for by hand, of one CLEAN table. Every method is one transaction and safe to repeat."""

    def __init__(self, database: Database, clean_table: str) -> None:
        self._database = database
        self._clean_table = clean_table

    def progress(self, partition: int) -> PublishProgress | None:
        """The partition's publish as it is now; None when the journal knows nothing of the partition."""
        with self._database.transaction() as transaction:
            row = transaction.one("publish_progress", clean_table=self._clean_table, partition=partition)
        if row is None:
            return None
        details = row.details or {}
        return PublishProgress(
            partition=row.partition,
            state=row.publish_state,
            loaded_gen=int(row.loaded_gen),
            published_gen=int(row.published_gen),
            rebuild=row.rebuild,
            waits=row.not_before is not None and row.not_before > row.now,
            not_before=row.not_before,
            busy=row.busy,
            error=": ".join(part for part in (row.error_kind, row.last_error) if part),
            publish_run_id=int(row.publish_run_id) if row.publish_run_id is not None else None,
            stages=[StageMetric(each["stage"], each["part"], each["ms"]) for each in details.get("stages", ())],
            rows=details.get("rows"),
            duration_ms=row.last_duration_ms,
            published_at=row.last_published_at,
            rebuild_run_id=int(row.rebuild_run_id) if row.rebuild_run_id is not None else None,
            rebuild_error="" if row.rebuild_status == "ok" else row.rebuild_error or "no attempt of it has ended",
        )

    def ask(self, partition: int, *, rebuild: bool, least_rows: int | None, lost: Sequence[Window]) -> int | None:
        """Make the publish due now, whatever the cadence or an error said; the generation that it will reach at least.

        None: nothing to publish, or it is being published right now. ``lost`` are windows that a rebuild is agreed to
        lose rows of, which count as not loaded once it is done; ``least_rows`` is what it must leave.
        """
        with self._database.transaction() as transaction:
            row = transaction.one(
                "ask_for_publish",
                clean_table=self._clean_table,
                partition=partition,
                rebuild=rebuild,
                least_rows=least_rows,
                lost_froms=[window.start for window in lost],
                lost_tos=[window.end for window in lost],
            )
        return None if row is None else int(row.loaded_gen)
