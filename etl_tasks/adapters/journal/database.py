"""One PostgreSQL connection: bounded waits, errors translated once, short transactions by query name."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from etl_tasks.adapters.journal.queries import journal_ddl, load_queries, render_names
from etl_tasks.errors import AuthenticationFailed, EtlError, SchemaError, TransientError, Unreachable

# A journal statement takes milliseconds. One that takes longer than this waits for a socket that has gone silent.
WAIT_S = 30.0
# Between two statements of a transaction nothing is waited for. A session that says nothing for so long is frozen, or
# its host is gone, and holds row locks that everybody else needs.
IDLE_IN_TRANSACTION_S = 10.0
# The server ends what we have stopped waiting for, and finds out within half a minute that a host is gone.
_SESSION = f"""
SET TIME ZONE 'UTC';
SET statement_timeout = '{WAIT_S:.0f}s';
SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S:.0f}s';
SET tcp_keepalives_idle = 15;
SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3;
"""
# A connection that was idle for longer is asked whether it still lives before it is trusted with a transition.
PING_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Where the journal is: ``dsn`` (secret), ``lock_dsn`` for the locks' direct sessions, ``table`` its main table."""

    dsn: str = field(repr=False)
    table: str = "public.inc_processing"
    lock_dsn: str | None = field(default=None, repr=False)


def wait_bounded(connection: psycopg2.extensions.connection) -> None:
    """Wait for PostgreSQL as psycopg2's callback: interruptible by signals, and never longer than ``WAIT_S``.

    Blocked in C, psycopg2 ignores signals such as a soft time limit, and waits on a half-open socket for ever (FACTS).
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise psycopg2.OperationalError(f"PostgreSQL has not answered for {WAIT_S:g} s")
        reading = [connection.fileno()] if state == psycopg2.extensions.POLL_READ else []
        writing = [connection.fileno()] if state == psycopg2.extensions.POLL_WRITE else []
        select.select(reading, writing, [], min(left_s, 1.0))


def connect(dsn: str, application_name: str, setting: str = "PG_DSN") -> psycopg2.extensions.connection:
    """A new connection whose times are UTC and whose waits are bounded on both sides.

    Raises Unreachable or AuthenticationFailed with the name of the DSN's setting in the text, and without the DSN.
    """
    psycopg2.extensions.set_wait_callback(wait_bounded)
    keepalives = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    parameters = psycopg2.extensions.parse_dsn(dsn)
    defaults: dict[str, Any] = {"connect_timeout": 5, "application_name": application_name, **keepalives}
    try:
        connection: psycopg2.extensions.connection = psycopg2.connect(**{**defaults, **parameters})
        try:
            with connection.cursor() as cursor:
                cursor.execute(_SESSION)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        where = f"PostgreSQL at {parameters.get('host', 'the local socket')}:{parameters.get('port', 5432)}"
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "authentication failed" in text or "no password supplied" in text or "no pg_hba.conf entry" in text:
            raise AuthenticationFailed(
                f"{where} refused us: {text}; check the user and password in {setting}"
            ) from None
        if "does not exist" in text:
            raise SchemaError(f"{where}: {text}; check the database name in {setting}") from None
        raise Unreachable(f"{where} does not answer: {text}; check {setting} and that the server runs") from None


def _first_line(error: psycopg2.Error) -> str:
    """What PostgreSQL says, without the statement that it points into."""
    return str(error.diag.message_primary or str(error).strip().partition("\n")[0])


@contextmanager
def postgres_errors() -> Iterator[None]:
    """psycopg2's errors as ours."""
    try:
        yield
    except psycopg2.errors.UndefinedTable as error:
        raise SchemaError(
            f"the journal is incomplete: {_first_line(error)}; run: python -m etl_tasks migrate"
        ) from error
    except psycopg2.errors.UndefinedColumn as error:
        raise SchemaError(
            f"the journal is older than this code: {_first_line(error)}; run: python -m etl_tasks migrate"
        ) from error
    except psycopg2.errors.InsufficientPrivilege as error:
        raise AuthenticationFailed(f"PostgreSQL denies what the journal needs: {str(error).strip()}") from error
    except (
        psycopg2.errors.DeadlockDetected,
        psycopg2.errors.SerializationFailure,
        psycopg2.errors.LockNotAvailable,
    ) as error:
        raise TransientError(f"PostgreSQL rolled the transaction back: {str(error).strip()}") from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise Unreachable(
            f"PostgreSQL (the journal) went away: {str(error).strip() or type(error).__name__}"
        ) from error


class Transaction:
    """Runs named queries inside one transaction; rows are named tuples."""

    def __init__(self, cursor: Any, queries: dict[str, str]) -> None:
        self._cursor = cursor
        self._queries = queries

    def run(self, name: str, /, **parameters: Any) -> int:
        """Number of rows that the query touched."""
        self._cursor.execute(self._queries[name], parameters)
        return int(self._cursor.rowcount)

    def one(self, name: str, /, **parameters: Any) -> Any:
        """The first row, or None."""
        self._cursor.execute(self._queries[name], parameters)
        return self._cursor.fetchone()

    def all(self, name: str, /, **parameters: Any) -> list[Any]:
        """All rows."""
        self._cursor.execute(self._queries[name], parameters)
        return list(self._cursor.fetchall())

    def now(self) -> datetime:
        """PostgreSQL's clock, aware UTC."""
        return self.one("now").now  # type: ignore[no-any-return]


class Database:
    """The journal's connection of one thread; opened at first use, dropped after any failure."""

    def __init__(self, config: JournalConfig, application_name: str = "etl_tasks") -> None:
        self.config = config
        self._application_name = application_name
        self._queries = load_queries(config.table)
        self._connection: psycopg2.extensions.connection | None = None
        self._last_used = 0.0
        self._ensured = False

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that commits at the end of the block and rolls back on any exception.

        Raises Unreachable, AuthenticationFailed, SchemaError, TransientError. After an error of the connection itself
        nothing is known of the commit; every transition is guarded, so that repeating one is safe.
        """
        with postgres_errors():
            connection = self._live_connection()
            try:
                with connection.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cursor:
                    yield Transaction(cursor, self._queries)
                connection.commit()
                self._last_used = time.monotonic()
            except BaseException as error:
                self._leave(connection, error)
                raise

    def ensure(self) -> None:
        """Create or extend the journal's tables; harmless again and again, also by several processes at once."""
        with self.transaction() as transaction:
            cursor = transaction._cursor
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('ensure ' || %s, 0))", (self.config.table,))
            cursor.execute("SET LOCAL client_min_messages = warning")
            cursor.execute(journal_ddl(self.config.table))
        self._ensured = True

    def ensure_once(self) -> None:
        """Make the journal at first use, if its newest table is not there yet (the old ``journal.ensure()``)."""
        if self._ensured:
            return
        with self.transaction() as transaction:
            cursor = transaction._cursor
            newest = render_names("public.inc_processing_read_turns", self.config.table)
            cursor.execute("SELECT to_regclass(%s) AS found", (newest,))
            found = cursor.fetchone().found
        if found is None:
            self.ensure()
        self._ensured = True

    def close(self) -> None:
        """Drop the connection; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.closed:
            connection.close()

    def _live_connection(self) -> psycopg2.extensions.connection:
        connection = self._connection
        if connection is not None and not connection.closed:
            if time.monotonic() - self._last_used < PING_AFTER_S or self._answers(connection):
                return connection
            self.close()
        self._connection = connect(self.config.dsn, self._application_name)
        return self._connection

    @staticmethod
    def _answers(connection: psycopg2.extensions.connection) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.commit()
        except psycopg2.Error:
            return False
        return True

    def _leave(self, connection: psycopg2.extensions.connection, error: BaseException) -> None:
        """Roll back where the connection can still be trusted; drop it where it cannot.

        A signal may have cut a wait short.
        """
        statement_failed = isinstance(error, psycopg2.Error) and not isinstance(
            error, psycopg2.OperationalError | psycopg2.InterfaceError
        )
        if not connection.closed and (statement_failed or isinstance(error, EtlError)):
            try:
                connection.rollback()
            except psycopg2.Error:
                self.close()
        else:
            self.close()
