"""One publish of a CLEAN table at a time: an advisory lock in a direct session of its own.

The lock is for economy, the fence for safety: a lock session can die while ClickHouse goes on with the holder's INSERT (FACTS).
"""

from __future__ import annotations

from types import TracebackType

import psycopg2
import psycopg2.extensions

from etl_tasks.adapters.journal.database import JournalConfig, connect, postgres_errors
from etl_tasks.errors import LostOwnership


class PublishLock:
    """Context manager: ``acquired`` says whether this session holds the lock of ``clean_table``."""

    def __init__(self, config: JournalConfig, clean_table: str) -> None:
        self._dsn = config.lock_dsn or config.dsn
        self._clean_table = clean_table
        self._connection: psycopg2.extensions.connection | None = None
        self.acquired = False

    def __enter__(self) -> PublishLock:
        self._connection = connect(self._dsn, "etl_tasks publish lock")
        # Autocommit: an idle transaction would hold back vacuum for the length of the publish.
        self._connection.autocommit = True
        with postgres_errors(), self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended('publish ' || %s, 0))", (self._clean_table,))
            row = cursor.fetchone()
        self.acquired = bool(row and row[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.acquired = False
        if self._connection is not None:
            # The server releases a session's locks when it ends.
            self._connection.close()
            self._connection = None

    def verify(self) -> None:
        """Raise LostOwnership when the session that holds the lock is gone."""
        if self._connection is None or not self.acquired:
            raise LostOwnership(f"the publish lock of {self._clean_table} is not held")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"
                )
                row = cursor.fetchone()
        except psycopg2.Error as error:
            raise LostOwnership(
                f"the session of the publish lock of {self._clean_table} died: {str(error).strip()}"
            ) from error
        if not row or not row[0]:
            raise LostOwnership(f"the publish lock of {self._clean_table} was lost")
