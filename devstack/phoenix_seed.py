"""Writes the development source's rows into Phoenix, and keeps account of them for `devstack.oracle`.

The batches are built here as Avatica's own messages: phoenixdb cannot bind a NULL within an array, and binds instants
in a form that a Query Server outside UTC shifts. All times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import requests
from phoenixdb.avatica.client import AvaticaClient
from phoenixdb.avatica.proto import common_pb2, requests_pb2, responses_pb2
from phoenixdb.connection import Connection
from phoenixdb.errors import Error as PhoenixError
from phoenixdb.errors import InternalError, OperationalError
from requests.adapters import HTTPAdapter

from devstack.dataset import MAIN_COLUMNS, DatasetSpec, Key, Row, Value, wide
from devstack.errors import DevstackError
from devstack.oracle import (
    Change,
    Late,
    Operation,
    Rows,
    State,
    digest,
    load_state,
    rows_written,
    save_state,
    state_path,
)

T = TypeVar("T")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TABLE: Final = "TBL_JTI_TRACE_CIS_HISTORY"
DDL_FILE: Final = Path(__file__).resolve().parent.parent / "ddl" / "phoenix_source.sql"
CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 300.0
BATCH_ROWS: Final = 1_000
BATCH_BYTES: Final = 8_000_000
WRITERS: Final = 2
BUSY_PAUSES_S: Final = (1.0, 4.0, 15.0)
"""Before a batch that a busy server refused is sent again; then it fails."""

_NULL: Final = common_pb2.TypedValue(type=common_pb2.NULL, null=True)


class _Transport(HTTPAdapter):
    """Gives every request a time-out: phoenixdb sets none."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().send(request, *args, **{**kwargs, "timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)})


class _Connection(Connection):  # type: ignore[misc]
    """A connection that ends in silence: phoenixdb's destructor talks to the server, even if it was never reached."""

    def __del__(self) -> None:
        pass

    def drop(self) -> None:
        """Forgets the connection, its statements too, without a word to the server."""
        self._closed = True
        self._client.close()


class PhoenixSeeder:
    """The source table of one Query Server, to write to and to count; not for several threads at once."""

    def __init__(self, pqs_url: str, table: str = TABLE, writers: int = WRITERS) -> None:
        self.table = table
        self._url = pqs_url
        self._writers = writers
        self._free: list[_Connection] = []  # open connections that no one uses

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        while self._free:
            self._free.pop().drop()

    def close(self) -> None:
        """Closes the connections."""
        while self._free:
            self._free.pop().close()

    def create_table(self) -> None:
        """Creates the table by ddl/phoenix_source.sql, if it is not there."""
        text = "\n".join(line for line in DDL_FILE.read_text("utf-8").splitlines() if not line.startswith("--"))
        for statement in filter(None, (part.strip() for part in text.split(";"))):
            self.execute(statement.replace(TABLE, self.table))

    def drop_table(self) -> None:
        """Drops the table with its indexes, if it is there."""
        self.execute(f"DROP TABLE IF EXISTS {self.table} CASCADE")

    def execute(self, sql: str) -> list[list[Any]]:
        """Runs one statement, commits, and returns its rows, if it has any."""

        def run(connection: _Connection) -> list[list[Any]]:
            cursor = connection.cursor()
            cursor.execute(sql)
            rows = [] if cursor.description is None or cursor._frame is None else cursor.fetchall()
            cursor.close()
            connection.commit()
            return rows

        return self._use(run)

    def upsert(self, rows: Iterable[Row]) -> int:
        """Writes rows as they are, a NULL over a value too; commits batch by batch. Returns how many.

        Batches go side by side: of two rows with one key, either may win.
        """
        columns = ", ".join(f'"{name}"' for name in MAIN_COLUMNS)
        sql = f"UPSERT INTO {self.table} ({columns}) VALUES ({', '.join('?' * len(MAIN_COLUMNS))})"
        return self._write(sql, map(_update, rows))

    def upsert_wide(self, n: int, bytes_each: int, window: tuple[int, int], seed: int = 0) -> int:
        """Writes `n` rows of at least `bytes_each` bytes into `window`, `[since, until)`."""
        return self.upsert(wide(n, bytes_each, *window, seed))

    def delete(self, keys: Iterable[Key]) -> int:
        """Deletes the rows of the keys `(c, t, opd)`; returns how many keys there were."""
        whole: list[Key] = []
        without_code: list[Key] = []
        for key in keys:
            (whole if key[0] else without_code).append(key)
        sql = f'DELETE FROM {self.table} WHERE "t" = ? AND "opd" = TO_TIMESTAMP(?) AND "c"'
        written = self._write(f"{sql} = ?", (_update((t, _iso(opd), c)) for c, t, opd in whole))
        return written + self._write(f"{sql} IS NULL", (_update((t, _iso(opd))) for _, t, opd in without_code))

    def count(self, since_ms: int | None = None, until_ms: int | None = None) -> int:
        """The rows with `opd` in `[since_ms, until_ms)`."""
        bounds = [f'"opd" {sign} {timestamp(ms)}' for sign, ms in ((">=", since_ms), ("<", until_ms)) if ms is not None]
        where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
        return int(self.execute(f"SELECT COUNT(*) FROM {self.table}{where}")[0][0])

    def apply(self, operation: Operation) -> int:
        """Writes what an operation writes; returns the number of rows."""
        return self.upsert(rows_written(operation))

    def _write(self, sql: str, updates: Iterator[Any]) -> int:
        """Runs a prepared statement for every update, batches side by side on connections of their own."""
        written = 0
        busy: set[Future[int]] = set()
        with ThreadPoolExecutor(self._writers) as pool:
            for batch in _batches(updates):
                if len(busy) > self._writers:
                    done, busy = wait(busy, return_when=FIRST_COMPLETED)
                    written += sum(future.result() for future in done)
                busy.add(pool.submit(self._write_batch, sql, batch))
            return written + sum(future.result() for future in busy)

    def _write_batch(self, sql: str, batch: list[Any]) -> int:
        """Writes a batch, again when the server answered that it could not: the same rows twice are the rows once.

        Only an answer makes it try again. What was sent and not answered could still be at work, and overtake what is
        written next.
        """
        for pause_s in BUSY_PAUSES_S:
            try:
                return self._use(lambda connection: _execute_batch(connection, sql, batch))
            except (InternalError, OperationalError):
                time.sleep(pause_s)
        return self._use(lambda connection: _execute_batch(connection, sql, batch))

    def _use(self, work: Callable[[_Connection], T]) -> T:
        """Does work on a connection, which is dropped, not closed, when the work fails."""
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._connect()
        try:
            result = work(connection)
        except BaseException:
            connection.drop()
            raise
        self._free.append(connection)
        return result

    def _connect(self) -> _Connection:
        client = AvaticaClient(self._url, max_retries=0)
        session = requests.Session()
        session.headers.update({**client.headers, "accept-encoding": "identity"})
        session.stream = True
        session.trust_env = False  # no proxy between us and the stack
        session.mount("http://", _Transport())
        session.mount("https://", _Transport())
        client.session = session
        return _Connection(client, autocommit=False)


def timestamp(ms: int) -> str:
    """An instant as a TIMESTAMP literal, which no server's time zone shifts."""
    return f"TIMESTAMP '{_iso(ms)}'"


def _iso(ms: int) -> str:
    return f"{EPOCH + timedelta(milliseconds=ms):%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}"


def _batches(updates: Iterator[Any]) -> Iterator[list[Any]]:
    """Cuts updates into batches bounded in rows and, but for one row, in bytes."""
    batch: list[Any] = []
    size = 0
    for update in updates:
        bytes_more = update.ByteSize()
        if batch and (len(batch) >= BATCH_ROWS or size + bytes_more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(update)
        size += bytes_more
    if batch:
        yield batch


def _execute_batch(connection: _Connection, sql: str, batch: list[Any]) -> int:
    client, connection_id = connection._client, connection._id
    statement = client.prepare(connection_id, sql)
    request = requests_pb2.ExecuteBatchRequest(connection_id=connection_id, statement_id=statement.id, updates=batch)
    response = responses_pb2.ExecuteBatchResponse()
    response.ParseFromString(client._apply(request))
    if response.missing_statement or len(response.update_counts) != len(batch):
        raise DevstackError(f"the Query Server took {len(response.update_counts)} of a batch of {len(batch)} rows")
    connection.commit()
    client.close_statement(connection_id, statement.id)
    return len(batch)


def _update(values: Sequence[Value]) -> Any:
    """The values of one execution of a prepared statement."""
    return requests_pb2.UpdateBatch(parameter_values=[_typed_value(value) for value in values])


def _typed_value(value: Value) -> Any:
    """A value as Avatica carries it. Phoenix holds no empty string and no empty array apart from NULL, and takes an
    instant as a LONG, which no time zone shifts; a NULL at the head of an array it refuses, so that goes as ''."""
    if value is None or value == () or value == "":
        return _NULL
    if isinstance(value, str):
        return common_pb2.TypedValue(type=common_pb2.STRING, string_value=value)
    if isinstance(value, int):
        return common_pb2.TypedValue(type=common_pb2.LONG, number_value=value)
    elements = [common_pb2.TypedValue(type=common_pb2.STRING, string_value=text or "") for text in value]
    return common_pb2.TypedValue(type=common_pb2.ARRAY, component_type=common_pb2.STRING, array_value=elements)


def pqs_url() -> str:
    """`PQS_URL` of the environment, else of the stack's env file."""
    if url := os.environ.get("PQS_URL"):
        return url
    env_file = state_path().with_name("env")
    if env_file.exists():
        for line in env_file.read_text("utf-8").splitlines():
            name, _, value = line.partition("=")
            if name == "PQS_URL":
                return "".join(shlex.split(value))
    raise DevstackError(f"no Query Server is known: set PQS_URL, or start the stack, which writes {env_file}")


def cli(argv: Sequence[str]) -> int:
    """The command line `rows | change | late | expect`; returns 0, 1 for a fault, 2 for a wrong usage."""
    arguments = list(argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "rows")
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed why; 0 is for --help
        return int(stop.code or 0)
    try:
        if options.command == "expect":
            _print_expected(options)
        else:
            _write(options)
    except ValueError as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2
    except (DevstackError, PhoenixError, requests.RequestException) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack seed", description="The rows of the source, and changes.")
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows", help="write rows (the word may be left out)")
    rows.add_argument("--rows", type=int, default=60_000, metavar="N")
    rows.add_argument("--days", type=int, default=3, metavar="D", help="UTC days, the last one partial (default 3)")
    rows.add_argument("--until", type=_instant, metavar="ISO", help="end of the rows, exclusive (default: now)")
    rows.add_argument("--code", help="one code for all rows, so that they share a shard")
    for verb, text in (("change", "give rows that are there new values"), ("late", "add rows that were not there")):
        command = commands.add_parser(verb, help=text)
        command.add_argument("--rows", type=int, required=True, metavar="N")
        command.add_argument("--since", type=_instant, required=True, metavar="ISO")
        command.add_argument("--until", type=_instant, required=True, metavar="ISO")
    for command in commands.choices.values():
        command.add_argument("--seed", type=int, default=1, metavar="S", help="other seeds, other rows (default 1)")
    expect = commands.add_parser("expect", help="what CLEAN must hold")
    expect.add_argument("--since", type=_instant, metavar="ISO")
    expect.add_argument("--until", type=_instant, metavar="ISO")
    expect.add_argument("--json", action="store_true")
    return parser


def _instant(text: str) -> int:
    """ISO 8601 in milliseconds since the epoch; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 instant such as 2025-08-08T10:05:00Z") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _operation(options: argparse.Namespace, state: State) -> Operation:
    if options.seed < 0 or options.rows < 0:
        raise ValueError("--seed and --rows must not be negative")
    if options.command == "rows":
        until_ms = int(time.time() * 1000) if options.until is None else options.until
        return Rows(DatasetSpec(options.rows, options.days, options.seed, until_ms, options.code))
    if state.spec is None:
        raise ValueError("no rows have been written yet")
    kind = Change if options.command == "change" else Late
    return kind(state.spec, options.rows, options.since, options.until, options.seed)


def _write(options: argparse.Namespace) -> None:
    state = load_state()
    operation = _operation(options, state)
    began = time.monotonic()
    rows = rows_written(operation)  # raises for rows that cannot be before anything is written
    with PhoenixSeeder(pqs_url()) as seeder:
        if options.command == "rows":
            seeder.create_table()
        # Saved first: what an interrupted command half wrote is accounted for, and the same command again completes it.
        save_state(state if operation in state.operations[-1:] else state.then(operation))
        written = seeder.upsert(rows)
    seconds = time.monotonic() - began
    print(f"{options.command}: {written} rows in {seconds:.1f} s, {written / max(seconds, 1e-3):.0f} a second")


def _print_expected(options: argparse.Namespace) -> None:
    found = digest(load_state(), options.since, options.until)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        print(f"{name:10} {value}")
