"""Connections: one host's, and the failover over all of them. A connection belongs to one thread, made after fork."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from etl_tasks.adapters.clickhouse import catalog_sql
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.errors import AnswerTimedOut, ErrorCode, StatementFailed, clickhouse_errors
from etl_tasks.adapters.clickhouse.native_block import BlockClient
from etl_tasks.core.columns import Column
from etl_tasks.errors import ConfigError, TerminalError, TransientError, Unreachable

log = structlog.get_logger(__name__)
T = TypeVar("T")
Row = tuple[Any, ...]
Setting = int | str

PROBE_TIMEOUT_S = 10.0
"""How long a server may take to answer ``SELECT 1``."""

ARRIVAL_S = 20
"""How long the server of a publish waits for the rest of a statement that has begun to arrive.

A statement is sent in two packets. When the worker is frozen between them, the server has the statement in
``system.processes``, where no KILL ends it, until its ``receive_timeout`` has passed, 300 s by default; and the next
publish waits for it.
"""

OLDER_NAMES: Mapping[str, str] = {
    "distributed_foreground_insert": "insert_distributed_sync",
    "alter_sync": "replication_alter_partitions_sync",
}
"""Settings that older servers know by another name."""

OPTIONAL_SETTINGS = frozenset(
    {
        "async_insert",
        "insert_deduplicate",
        "max_partition_size_to_drop",
        "max_table_size_to_drop",
        "optimize_on_insert",
        "optimize_read_in_window_order",
    }
)
"""Settings whose absence means that the server has no such behaviour to turn off."""

ALL_SETTINGS = (
    "alter_sync",
    "async_insert",
    "distributed_foreground_insert",
    "insert_deduplicate",
    "insert_quorum",
    "log_comment",
    "max_block_size",
    "max_execution_time",
    "max_memory_usage",
    "max_partition_size_to_drop",
    "max_table_size_to_drop",
    "max_threads",
    "min_insert_block_size_bytes",
    "mutations_sync",
    "optimize_aggregation_in_order",
    "optimize_on_insert",
    "optimize_read_in_window_order",
    "optimize_throw_if_noop",
    "receive_timeout",
    "skip_unavailable_shards",
)
"""Every setting this package sends, by its present name."""


class GivenUp(Unreachable):
    """The connection, or the target, was interrupted: by us, not by the host."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"ClickHouse {host} is asked nothing more: the work was given up")


class Connection:
    """One native connection to one host. Every statement carries a query id that begins with its tag.

    A ``bare`` one sends no setting with its statements: a profile that forbids settings refuses all others. One that is
    ``local`` is for a publish and what clears its way: its statements bring no rows along and ask no other host.
    """

    def __init__(
        self,
        config: ClickHouseConfig,
        host: Host,
        *,
        read_timeout_s: float | None = None,
        bare: bool = False,
        local: bool = False,
    ) -> None:
        self.host = host
        self._secrets = (config.password,)
        self._client = BlockClient(
            host.name,
            port=host.port,
            user=config.user,
            password=config.password,
            secure=config.secure,
            verify=config.verify,
            ca_certs=config.ca_file,
            compression=False if config.compression == "none" else config.compression,
            connect_timeout=config.connect_timeout_s,
            send_receive_timeout=read_timeout_s or config.send_receive_timeout_s,
            tcp_keepalive=(30, 10, 5),
            client_name="etl_tasks",
            # Without this an unknown setting is ignored in silence.
            settings_is_important=True,
        )
        self._own_limits: dict[str, Setting] = {} if bare else {"max_execution_time": config.max_execution_time_s}
        if local:
            self._own_limits["receive_timeout"] = ARRIVAL_S
        self._setting_names: dict[str, str] | None = None
        self._interrupted = False

    def execute(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        tag: str,
        settings: Mapping[str, Setting] | None = None,
    ) -> list[Row]:
        """The rows of one statement. ``params`` are values; ``settings`` are given by their present names."""
        return self._run(sql, params, self._known(self._limits(settings)), tag)

    def insert(self, sql: str, columns: list[Column], *, tag: str, settings: Mapping[str, Setting]) -> None:
        """Send ``columns`` as one block; they stay as they are, so the same ones may be sent again."""
        known = self._known(self._limits(settings))
        self._refuse_when_interrupted()
        with clickhouse_errors(str(self.host), self._secrets):
            self._client.execute(sql, columns, columnar=True, settings=known, query_id=query_id(tag))

    def iterate(
        self, sql: str, params: Mapping[str, Any] | None, *, tag: str, settings: Mapping[str, Setting]
    ) -> Iterator[Row]:
        """The rows of one statement, a block at a time in memory. The connection is dropped unless all were taken."""
        known = self._known(self._limits(settings))
        self._refuse_when_interrupted()
        finished = False
        try:
            with clickhouse_errors(str(self.host), self._secrets):
                yield from self._client.execute_iter(sql, params, settings=known, query_id=query_id(tag))
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Drop the connection; the next statement makes a new one. Never raises. For the thread that uses it only."""
        self._client.disconnect()

    def interrupt(self) -> None:
        """End what another thread waits for here; it gets Unreachable, now and for every later statement.

        To be called again until that thread has ended: it may be about to connect. The socket is shut down and not
        closed, which is left to its thread: the number of a closed one is at once another's, and whoever still waits
        under that number waits for an answer that never comes.
        """
        self._interrupted = True
        waited_for = self._client.connection.socket
        if waited_for is not None:
            with contextlib.suppress(OSError):  # its other end, or its own thread, was quicker
                # Not an SSLSocket's own: that one first takes the encryption from under the thread.
                socket.socket.shutdown(waited_for, socket.SHUT_RDWR)

    def _refuse_when_interrupted(self) -> None:
        if self._interrupted:
            raise GivenUp(self.host)

    def _limits(self, settings: Mapping[str, Setting] | None) -> dict[str, Setting]:
        return {**self._own_limits, **(settings or {})}

    def _known(self, settings: Mapping[str, Setting]) -> dict[str, Setting]:
        if not settings:
            return {}
        if self._setting_names is None:
            names = {*ALL_SETTINGS, *OLDER_NAMES.values()}
            there = set(listed(self._run(catalog_sql.KNOWN_SETTINGS, {"names": sorted(names)}, {}, "etl-settings")))
            self._setting_names = {
                name: name if name in there else OLDER_NAMES[name]
                for name in ALL_SETTINGS
                if name in there or OLDER_NAMES.get(name) in there
            }
        known: dict[str, Setting] = {}
        for name, value in settings.items():
            if name in self._setting_names:
                known[self._setting_names[name]] = value
            elif name not in OPTIONAL_SETTINGS:
                raise TerminalError(
                    f"ClickHouse {self.host} does not know the setting {name}, which is needed: its version is too old"
                )
        return known

    def _run(self, sql: str, params: Mapping[str, Any] | None, settings: Mapping[str, Setting], tag: str) -> list[Row]:
        self._refuse_when_interrupted()
        with clickhouse_errors(str(self.host), self._secrets):
            rows = self._client.execute(sql, params, settings=settings, query_id=query_id(tag))
        return rows if isinstance(rows, list) else []


def query_id(tag: str) -> str:
    """A new query id that begins with ``tag``, by which the statement can be found and killed."""
    return f"{tag}-{uuid.uuid4().hex}"


def probe(config: ClickHouseConfig, host: Host) -> None:
    """``SELECT 1`` over a connection of its own with a short time-out; raises Unreachable.

    A hung server still takes connections: without this, the first statement would wait out the long time-out.
    """
    connection = Connection(config, host, read_timeout_s=PROBE_TIMEOUT_S)
    try:
        if connection.execute("SELECT 1", tag="etl-probe") != [(1,)]:
            raise Unreachable(f"ClickHouse {host} gave a wrong answer to SELECT 1")
    finally:
        connection.close()


class Failover:
    """``CH_HOSTS`` in order: a statement goes to the host that answered last, and to the next ones when it does not."""

    def __init__(self, config: ClickHouseConfig) -> None:
        if not config.hosts:
            raise ConfigError("CH_HOSTS is empty: there is no ClickHouse to talk to")
        self._config = config
        self._connections: dict[Host, Connection] = {}
        self._current = config.hosts[0]
        self._interrupted = False

    def reach(self, host: Host) -> Connection:
        """The connection to ``host``; a new one only after a ``SELECT 1``. Raises Unreachable."""
        if host not in self._connections:
            self._refuse_when_interrupted(host)
            probe(self._config, host)
            self._refuse_when_interrupted(host)
            self._connections[host] = Connection(self._config, host)
        return self._connections[host]

    def drop(self, host: Host) -> None:
        """Forget the connection to ``host``: it will be probed before it is used again."""
        connection = self._connections.pop(host, None)
        if connection is not None:
            connection.close()

    def run(self, statement: Callable[[Connection], T]) -> T:
        """``statement`` on the first host that can do it.

        ``insert_max_retries`` repeats on the host at hand after a reconnect, not after a time-out, which costs minutes;
        then the other hosts once each. Only Unreachable moves on: other errors would be the same elsewhere. Raises
        Unreachable with what each host said, or at once when this host answers but one behind it hangs.
        A statement that broke off may have been done: it must bear to be done twice.
        """
        start = self._config.hosts.index(self._current)
        said: dict[str, str] = {}
        for host in self._config.hosts[start:] + self._config.hosts[:start]:
            tries = 1 + (self._config.insert_max_retries if host == self._current else 0)
            for attempt in range(1, tries + 1):
                try:
                    result = statement(self.reach(host))
                except GivenUp:
                    raise
                except Unreachable as error:
                    self.drop(host)
                    said[str(host)] = str(error)
                    log.warning(
                        "clickhouse_host_failed",
                        host=str(host),
                        attempt_there=attempt,
                        most_there=tries,
                        error=str(error),
                    )
                    if isinstance(error, AnswerTimedOut):
                        if self._answers(host):
                            raise  # it is a host behind this one that hangs, and would hang for the others too
                        break
                else:
                    self._current = host
                    return result
        raise Unreachable("no host of CH_HOSTS did it: " + "; ".join(said.values()))

    def _answers(self, host: Host) -> bool:
        try:
            probe(self._config, host)
        except Unreachable:
            return False
        return True

    def each(self) -> Iterator[tuple[Host, Connection | Unreachable]]:
        """Every host of ``CH_HOSTS`` with its connection, or with the reason why there is none."""
        for host in self._config.hosts:
            try:
                yield host, self.reach(host)
            except Unreachable as error:
                yield host, error

    def interrupt(self) -> None:
        """End what another thread waits for, as ``Connection.interrupt`` does, and to be called again as that is; no
        other host is tried.
        """
        self._interrupted = True
        for connection in tuple(self._connections.values()):
            connection.interrupt()

    def _refuse_when_interrupted(self, host: Host) -> None:
        if self._interrupted:
            raise GivenUp(host)

    def close(self) -> None:
        """Drop all connections; never raises."""
        for host in tuple(self._connections):
            self.drop(host)


def single(rows: Sequence[Row]) -> Row:
    """The only row of an answer that has exactly one.

    Raises TransientError, as for any statement that was ended, when there is none: a SELECT that is killed while it
    begins sometimes ends without a row and without an error.
    """
    if not rows:
        error = TransientError("ClickHouse answered a question without a row: the statement was ended (KILL QUERY)")
        raise error from StatementFailed("no row", ErrorCode.QUERY_WAS_CANCELLED)
    (row,) = rows
    return row


def listed(rows: Sequence[Row]) -> list[Any]:
    """The elements of an answer that is one array; raises TransientError, as ``single`` does, when there is no row."""
    (found,) = single(rows)
    return list(found)
