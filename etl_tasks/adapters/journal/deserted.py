"""A publish lock whose holder does not live any more, though its session does.

A process that was stopped (SIGSTOP), or whose host was suspended, keeps its session: its kernel goes on answering the
keepalives. Its lease runs out all the same, and then the lock is only in the way; the fence keeps it out of CLEAN.
"""

from __future__ import annotations

from etl_tasks.adapters.journal.database import Database


def evict_deserted_lock(database: Database, clean_table: str, lease_s: float) -> bool:
    """End the session that holds the publish lock, silent for a lease beside no live publish; whether there was one.

    Needs no right beyond being the same PostgreSQL user; with another one in ``PG_LOCK_DSN``, grant pg_signal_backend.
    """
    with database.transaction() as transaction:
        rows = transaction.all(
            "evict_deserted_lock", lock=f"publish {clean_table}", clean_table=clean_table, silent_s=lease_s
        )
    return any(row.ended for row in rows)
