"""The port ``Source`` over a Query Server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog

from etl_tasks.adapters.phoenix import catalog, estimates, sql
from etl_tasks.adapters.phoenix.connection import FramePace, QueryServerConnection
from etl_tasks.adapters.phoenix.decode import cell_value
from etl_tasks.adapters.phoenix.errors import unanswered_is_unreachable
from etl_tasks.adapters.phoenix.frames import FrameDecoder
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.core.batch import ColumnBatch, SourceColumn
from etl_tasks.core.columns import Column, IntegerColumn, in_list
from etl_tasks.core.row_profile import Estimate
from etl_tasks.core.windows import Window
from etl_tasks.errors import EtlError, Overloaded, QueryTimedOut, ShortRead, StatementLost, Unreachable

log = structlog.get_logger(__name__)


class PhoenixSource:
    """One table of one Query Server. One instance a thread, made after fork; connects at the first call that needs it.

    After any exception in a call, and when a ``read`` is closed before its end, the connection is dropped without a
    word to the server, and the next call opens a new one (FACTS: a cursor or connection that failed must never be used
    again). Nothing is tried twice here. After a time-out the catalog is asked before anything else: when that is not
    answered either, Unreachable is raised.
    """

    def __init__(self, config: PhoenixConfig) -> None:
        self._config = config
        self._connection: QueryServerConnection | None = None
        self._table: catalog.TableColumns | None = None
        self._timed_out = False
        self._pace = FramePace(config.fetch_rows, config.max_frame_bytes)

    def __repr__(self) -> str:
        return f"PhoenixSource({self._config.place})"

    def probe(self) -> None:
        """TCP connect within ``probe_timeout_ms``; raises Unreachable."""
        address = (self._config.host, self._config.port)
        try:
            socket.create_connection(address, timeout=self._config.probe_timeout_ms / 1000).close()
        except OSError as error:
            raise Unreachable(
                f"the Query Server of {self._config.place} takes no TCP connection "
                f"within {self._config.probe_timeout_ms} ms ({error}): is it running, is PQS_URL right?"
            ) from error

    def columns(self) -> Sequence[SourceColumn]:
        """The configured columns as Phoenix's catalog knows them, in the configured order; asked afresh at every call.

        With integer time units the time column is given as TIMESTAMP, since ``read`` gives it in milliseconds as well.
        Raises SchemaError for a missing table, for all missing or unreadable columns at once, and for a time column
        that is not in the primary key or whose type does not go with ``ts_units``.
        """
        return self._ask_catalog().columns

    def key(self) -> Sequence[str]:
        """The columns of the table's primary key in its order, whether or not they are configured to be read."""
        return self._known().key

    def all_columns(self) -> Sequence[SourceColumn]:
        """Every column of the table as Phoenix's catalog knows it, whatever is configured to be read. Raises
        SchemaError for a missing table.
        """
        with self._own_connection() as connection:
            return catalog.all_columns(connection, self._config)

    def access_path(self, window: Window) -> str:
        """What EXPLAIN says of the read of ``window``, one line a step; raises by the error table."""
        context = f"explaining the read of {window} from {self._config.place}"
        statement = "EXPLAIN " + self._read_statement(window)
        lines: list[str] = []
        with self._own_connection() as connection:
            for frame in connection.frames(statement, self._new_pace(), context):
                lines += [str(cell_value(row.value[0])) for row in frame.rows]
        return "\n".join(lines)

    def estimate(self, window: Window) -> Estimate | None:
        """How big the read of ``window`` is by EXPLAIN; None without statistics. Raises by the error table."""
        context = f"estimating {window} of {self._config.place}"
        with self._own_connection() as connection:
            return estimates.ask(connection, self._read_statement(window), context)

    def count(self, window: Window) -> int:
        """Rows of the window now; raises by the error table."""
        config = self._config
        context = f"counting {window} of {config.place}"
        statement = sql.count_statement(
            config.table, window, config.ts_column, config.ts_units, config.query_hint or ""
        )
        with self._own_connection() as connection:
            counts = [
                cell_value(row.value[0])
                for frame in connection.frames(statement, self._new_pace(), context)
                for row in frame.rows
            ]
            if len(counts) != 1 or not isinstance(counts[0], int):
                raise StatementLost(
                    f"{context}: the answer is {counts!r:.200} instead of one number: not our statement's"
                )
        return counts[0]

    def read(self, window: Window) -> Iterator[ColumnBatch]:
        """The window's rows, a frame at a time; times in milliseconds since the epoch. Frames without rows are not
        given.

        A batch has at most ``fetch_rows`` rows; the first ones have fewer. ``approximate_bytes`` is the frame's size on
        the wire. Raises ShortRead before a batch is given that has a row outside the window: a restarted Query Server
        hands a stale cursor other people's rows (FACTS). Raises by the error table otherwise; never ends early in
        silence.
        """
        context = f"reading {window} of {self._config.place}"
        statement = self._read_statement(window)
        decoder = FrameDecoder(self._known().read_as)
        slow = False
        with self._own_connection() as connection:
            try:
                for frame in connection.frames(statement, self._pace, context):
                    columns, why = decoder.decode(frame, context)
                    if why and not slow:
                        slow = True  # said once a read; how many rows it were is in the journal
                        log.warning("frame_decoded_slowly", offset=frame.offset, rows=frame.count, reason=why)
                    frame.drop_bytes()
                    count, offset, size = frame.count, frame.offset, frame.size
                    if not count:
                        continue
                    self._check_times(columns, window, offset, context)
                    yield ColumnBatch(decoder.names, columns, count, size, why)
                    del columns
            except Overloaded:
                self._pace.too_much()
                raise
            self._pace.went_well()

    def discard(self) -> None:
        """Forget the connection without talking to the server (after any failure); never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.discard()

    def close(self) -> None:
        """Close politely after success; never raises, never hangs longer than the time-outs."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            try:
                connection.close()
            except EtlError as error:
                log.info("source_connection_dropped", error=str(error))

    @contextmanager
    def _own_connection(self) -> Iterator[QueryServerConnection]:
        """The connection, opened when there is none; dropped when the block fails in any way, a closed generator
        included.
        """
        connection = self._connection
        if connection is not None:
            idle = time.monotonic() - connection.last_used
            if not connection.open or idle > self._config.max_idle_s:
                connection.discard()
                connection = None
        if connection is None:
            self._connection = connection = QueryServerConnection(self._config)
        try:
            if self._timed_out:
                # Was the window too wide, or is nobody there (a server hung, HBase away behind it)? Before the window
                # is tried again and then split, something small is asked that HBase has to answer too.
                self._read_catalog(connection)
                self._timed_out = False
            yield connection
        except BaseException as error:
            self._timed_out = self._timed_out or isinstance(error, QueryTimedOut)
            connection.discard()
            # Not self.discard(): a forgotten read that is closed late must not take the connection of a newer one
            # along.
            if self._connection is connection:
                self._connection = None
            raise

    def _known(self) -> catalog.TableColumns:
        return self._table or self._ask_catalog()

    def _ask_catalog(self) -> catalog.TableColumns:
        with self._own_connection() as connection:
            return self._read_catalog(connection)

    def _read_catalog(self, connection: QueryServerConnection) -> catalog.TableColumns:
        with unanswered_is_unreachable():
            self._table = table = catalog.read_columns(connection, self._config)
        return table

    def _read_statement(self, window: Window) -> str:
        config = self._config
        return sql.read_statement(
            config.table, config.columns, window, config.ts_column, config.ts_units, config.query_hint or "",
            self._known().cast,
        )  # fmt: skip

    def _new_pace(self) -> FramePace:
        return FramePace(self._config.fetch_rows, self._config.max_frame_bytes)

    def _check_times(self, columns: list[Column], window: Window, offset: int, context: str) -> None:
        """Bring the time column to milliseconds and raise ShortRead unless all of it lies in the window."""
        position = self._config.columns.index(self._config.ts_column)
        times = columns[position]
        step = 1_000 if self._config.ts_units == "seconds" else 1
        low, high = window.start_ms, window.end_ms
        if isinstance(times, IntegerColumn):
            within = low <= int(times.values.min()) * step and int(times.values.max()) * step < high
            if times.nulls is None and within:
                columns[position] = times if step == 1 else replace(times, values=times.values * step)
                return
        values = [value * step if isinstance(value, int) else value for value in in_list(times)]
        columns[position] = values
        for row, value in enumerate(values):
            if not isinstance(value, int) or not low <= value < high:
                raise ShortRead(
                    f"{context}: row {offset + row} has {self._config.ts_column} = {value} ms, outside the window: the "
                    "Query Server gave another statement's rows (it was restarted); nothing of this read may be used"
                )
