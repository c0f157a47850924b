"""Advisory locks held for longer than a transaction, each in a direct session of its own.

A session's lock behind a pooler that shares sessions would stay behind when its holder goes, so these use
``PG_LOCK_DSN`` where it is set. They are for economy, the fences for safety: a lock session can die while ClickHouse
goes on with the holder's INSERT (FACTS).
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import psycopg2
import psycopg2.extensions

from etl_tasks.adapters.journal.database import JournalConfig, connect, postgres_errors
from etl_tasks.errors import LostOwnership

SWEEP_LOCK_IDLE_S = 20.0
"""A sweep takes a fraction of a second, and some 13 s when it sends as much as it ever does at once. Whoever is silent
for longer is frozen or cut off, and nothing that is due would be sent meanwhile.
"""


class SessionLock:
    """Context manager: ``acquired`` says whether this session holds the lock called ``name``.

    PostgreSQL ends the session when it has been idle for ``most_idle_s`` (None: never; before PostgreSQL 14: never).
    """

    most_idle_s: float | None = None

    def __init__(self, config: JournalConfig, name: str) -> None:
        self._dsn, self._setting = (config.lock_dsn, "PG_LOCK_DSN") if config.lock_dsn else (config.dsn, "PG_DSN")
        self._name = name
        self._connection: psycopg2.extensions.connection | None = None
        self.acquired = False

    def __enter__(self) -> Self:
        self._connection = connect(self._dsn, f"etl_tasks lock: {self._name}"[:63], self._setting)
        # Autocommit: an idle transaction would hold back vacuum for as long as the lock is held.
        self._connection.autocommit = True
        with postgres_errors(), self._connection.cursor() as cursor:
            if self.most_idle_s is not None:
                cursor.execute(
                    "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'idle_session_timeout'",
                    (f"{1000 * self.most_idle_s:.0f}ms",),
                )
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._name,))
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
            raise LostOwnership(f"the lock '{self._name}' is not held")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    "SELECT EXISTS (SELECT 1 FROM pg_locks "
                    "WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"
                )
                row = cursor.fetchone()
        except psycopg2.Error as error:
            raise LostOwnership(f"the session of the lock '{self._name}' died: {str(error).strip()}") from error
        if not row or not row[0]:
            raise LostOwnership(f"the lock '{self._name}' was lost")


class PublishLock(SessionLock):
    """One publish of a CLEAN table at a time."""

    def __init__(self, config: JournalConfig, clean_table: str) -> None:
        super().__init__(config, f"publish {clean_table}")


class SweepLock(SessionLock):
    """One sweep of a journal at a time, by one that is not silent."""

    most_idle_s = SWEEP_LOCK_IDLE_S

    def __init__(self, config: JournalConfig, clean_table: str) -> None:
        super().__init__(config, f"sweep {config.table} {clean_table}")


class ReconcileLock(SessionLock):
    """One reconcile of a CLEAN table at a time: it reads the source beside the runs."""

    def __init__(self, config: JournalConfig, clean_table: str) -> None:
        super().__init__(config, reconcile_lock_name(config, clean_table))


def reconcile_lock_name(config: JournalConfig, clean_table: str) -> str:
    """The name under which the reconcile of a CLEAN table holds its lock."""
    return f"reconcile {config.table} {clean_table}"
