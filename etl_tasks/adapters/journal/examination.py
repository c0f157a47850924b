"""What ``doctor`` asks of PostgreSQL; nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import psycopg2.extras

from etl_tasks.adapters.clock import compared
from etl_tasks.adapters.journal.database import Database, JournalConfig, Transaction, connect, postgres_errors
from etl_tasks.adapters.journal.queries import journal_ddl, load_queries, split_table_name
from etl_tasks.core.doctor.facts import JournalIndex, JournalSchema, OldRow, PostgresFacts, PublishCost

_LOOKS = 3
_TABLE = re.compile(r'CREATE TABLE IF NOT EXISTS "?\w+"?\."(\w+)" \(\n(.*?)\n\);', re.DOTALL)
_ADDED = re.compile(r'ALTER TABLE "?\w+"?\."(\w+)" ADD COLUMN IF NOT EXISTS (\w+)')
_INDEX = re.compile(r'CREATE (UNIQUE )?INDEX IF NOT EXISTS "(\w+)"')
_COLUMN = re.compile(r"^ {4}([a-z]\w*) ", re.MULTILINE)


def wanted_schema(journal_table: str) -> JournalSchema:
    """What ``ddl/journal.sql`` makes under these names."""
    ddl = re.sub(r"^\s*--.*$", "", journal_ddl(journal_table), flags=re.MULTILINE)
    columns = {table: set(_COLUMN.findall(body)) for table, body in _TABLE.findall(ddl)}
    for table, column in _ADDED.findall(ddl):
        columns[table].add(column)
    indexes = {name: JournalIndex(name, valid=True, unique=bool(unique)) for unique, name in _INDEX.findall(ddl)}
    for table, body in _TABLE.findall(ddl):
        if "PRIMARY KEY" in body:
            indexes[f"{table}_pkey"] = JournalIndex(f"{table}_pkey", valid=True, unique=True)
    return JournalSchema({table: frozenset(names) for table, names in columns.items()}, indexes)


class JournalExamination:
    """The journal's server and tables as they are. Every call opens what it needs; ``close`` drops it."""

    def __init__(self, config: JournalConfig) -> None:
        self._config = config
        self._database = Database(config, "etl_tasks doctor")
        self._queries = load_queries(config.table)

    def server(self) -> PostgresFacts:
        """What PG_DSN leads to; raises Unreachable or AuthenticationFailed."""
        return self._session(self._config.dsn, "PG_DSN")

    def lock_server(self) -> PostgresFacts | None:
        """What PG_LOCK_DSN leads to; None when it is not set."""
        return self._session(self._config.lock_dsn, "PG_LOCK_DSN") if self._config.lock_dsn else None

    def _session(self, dsn: str, setting: str) -> PostgresFacts:
        with postgres_errors():
            connection = connect(dsn, "etl_tasks doctor", setting)
            try:
                pids: list[int] = []
                for _ in range(_LOOKS):
                    with (
                        compared("PostgreSQL") as clock,
                        connection.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cursor,
                    ):
                        row = Transaction(cursor, self._queries).one("doctor_server")
                        read = clock(row.epoch_s)
                    connection.rollback()
                    pids.append(row.pid)
                return PostgresFacts(row.version_number, row.version, read, connection.info.backend_pid, tuple(pids))
            finally:
                connection.close()

    def schema(self) -> JournalSchema:
        """The journal's tables and indexes that are there."""
        schema, _ = split_table_name(self._config.table)
        which = {"schema": schema, "tables": list(wanted_schema(self._config.table).columns)}
        with self._database.transaction() as transaction:
            columns = transaction.all("doctor_columns", **which)
            indexes = transaction.all("doctor_indexes", **which)
        return JournalSchema(
            {row.name: frozenset(row.columns) for row in columns},
            {row.name: JournalIndex(row.name, row.valid, row.uniq) for row in indexes},
        )

    def wanted(self) -> JournalSchema:
        """What the journal is to have."""
        return wanted_schema(self._config.table)

    def plans(self, process_name: str) -> tuple[datetime, Sequence[datetime]]:
        """Now, and when the last plans that came as messages became rows of this lane."""
        with self._database.transaction() as transaction:
            rows = transaction.all("doctor_plans", process_name=process_name)
            return transaction.now(), [row.ts_start for row in rows]

    def publish_cost(self, clean_table: str) -> PublishCost | None:
        """The longest of the last publishes; None when there is none."""
        with self._database.transaction() as transaction:
            row = transaction.one("doctor_publish_cost", clean_table=clean_table)
        return PublishCost(int(row.publishes), int(row.last_duration_ms), row.partition) if row else None

    def old_rows(self) -> list[OldRow]:
        """Rows of the last day that the system before this one wrote; one a process."""
        with self._database.transaction() as transaction:
            return [OldRow(row.process_name, row.ts_start) for row in transaction.all("doctor_old_rows")]

    def newest_version_ms(self, clean_table: str) -> int | None:
        """The newest ``ingested_at`` that was given out; None when none was."""
        with self._database.transaction() as transaction:
            row = transaction.one("doctor_version", clean_table=clean_table)
        return int(row.version_ms) if row and row.version_ms else None

    def close(self) -> None:
        """Drop the connection."""
        self._database.close()
