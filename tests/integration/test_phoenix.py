"""PhoenixSource against the real Query Server of the development stack, and against servers that misbehave."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from devstack.dataset import COLUMN_TYPES, MAIN_COLUMNS, DatasetSpec, Row, key_at, rows_of
from devstack.phoenix_seed import PhoenixSeeder
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource
from etl_tasks.adapters.phoenix.connection import FIRST_FRAME_ROWS, FramePace
from etl_tasks.core.batch import ColumnBatch, SourceColumn
from etl_tasks.core.windows import EPOCH, Window
from etl_tasks.errors import (
    AuthenticationFailed,
    EtlError,
    GatewayRefused,
    Overloaded,
    SchemaError,
    ShortRead,
    SourceHeapExhausted,
    StatementLost,
    Unreachable,
)

pytestmark = pytest.mark.integration

TABLE = "IT_PHX_HISTORY"
SPEC = DatasetSpec(rows=6_500, days=2, seed=11, until_ms=1_754_697_600_000)


def moment(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


ALL = Window(moment(SPEC.start_ms), moment(SPEC.until_ms))


@pytest.fixture(scope="module")
def pqs_url(stack_env: dict[str, str]) -> str:
    """The Query Server's URL."""
    return stack_env["PQS_URL"]


@pytest.fixture(scope="module")
def seeder(pqs_url: str) -> Iterator[PhoenixSeeder]:
    with PhoenixSeeder(pqs_url, table=TABLE) as made:
        yield made


@pytest.fixture(scope="module")
def table(seeder: PhoenixSeeder) -> Iterator[str]:
    seeder.drop_table()
    seeder.create_table()
    assert seeder.upsert(rows_of(SPEC)) == SPEC.rows
    yield TABLE
    seeder.drop_table()


@pytest.fixture
def source(pqs_url: str, table: str) -> Iterator[Callable[..., PhoenixSource]]:
    made: list[PhoenixSource] = []

    def make(**changes: Any) -> PhoenixSource:
        settings: dict[str, Any] = {"url": pqs_url, "table": table, "ts_column": "opd", "columns": MAIN_COLUMNS}
        made.append(PhoenixSource(PhoenixConfig(**{**settings, **changes})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def as_read(row: Row) -> tuple[Any, ...]:
    """A row of the dataset as Phoenix gives it back: it keeps neither an empty text nor an empty array."""
    return tuple(
        ([element or None for element in value] or None) if isinstance(value, tuple) else None if value == "" else value
        for value in row
    )


def rows_read(batches: Iterator[ColumnBatch]) -> list[tuple[Any, ...]]:
    return [row for batch in batches for row in zip(*batch.columns, strict=True)]


def by_key(rows: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    found = {row[:3]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_catalog_gives_the_columns_in_our_order(source: Callable[..., PhoenixSource]) -> None:
    columns = source().columns()
    assert [(column.name, column.type) for column in columns] == list(COLUMN_TYPES.items())
    assert {column.name: column.key_position for column in columns if column.key_position} == {"c": 1, "t": 2, "opd": 3}
    assert [c.name for c in source(columns=("tt", "opd")).columns()] == ["tt", "opd"]


def test_all_32_columns_of_every_row_are_what_was_written(source: Callable[..., PhoenixSource]) -> None:
    reader = source()
    batches = list(reader.read(ALL))
    assert {tuple(batch.names) for batch in batches} == {MAIN_COLUMNS}
    assert all(len(column) == batch.rows > 0 for batch in batches for column in batch.columns)
    assert all(batch.approximate_bytes > batch.rows * 500 for batch in batches)
    read = by_key(rows_read(iter(batches)))
    assert read == by_key([as_read(row) for row in rows_of(SPEC)])
    assert reader.count(ALL) == len(read) == SPEC.rows


def test_arrays_past_row_5000_are_whole(source: Callable[..., PhoenixSource]) -> None:
    """FACTS: phoenixdb gives [b'', b''] for arrays past the first frames."""
    expected = {row[:3]: row[26] for row in map(as_read, rows_of(SPEC))}
    late = rows_read(source(columns=("c", "t", "opd", "ch"), fetch_rows=700).read(ALL))[5_000:]
    assert sum(row[3] is not None for row in late) > 100
    assert all(row[3] == expected[row[:3]] for row in late)


def test_frames_begin_small_and_never_have_more_than_fetch_rows(source: Callable[..., PhoenixSource]) -> None:
    sizes = [batch.rows for batch in source(fetch_rows=300).read(ALL)]
    assert sizes[:5] == [FIRST_FRAME_ROWS, 8, 64, 300, 300] and max(sizes) == 300 and sum(sizes) == SPEC.rows
    assert [b.rows for b in source(fetch_rows=3).read(Window(ALL.start, ALL.start + timedelta(minutes=20)))][:3] == [
        1,
        3,
        3,
    ]


def test_wide_rows_make_short_frames(source: Callable[..., PhoenixSource]) -> None:
    assert max(batch.approximate_bytes for batch in source(max_frame_bytes=200_000).read(ALL)) < 300_000


def test_windows_are_half_open_to_the_millisecond(source: Callable[..., PhoenixSource], seeder: PhoenixSeeder) -> None:
    edge = moment(SPEC.until_ms - 3 * 3_600_000)
    left, right = Window(ALL.start, edge), Window(edge, ALL.end)
    times = [key_at(SPEC, index)[2] for index in range(SPEC.rows)]
    reader = source(columns=("c", "t", "opd"))
    for window in (left, right):
        inside = sorted(opd for opd in times if window.start_ms <= opd < window.end_ms)
        assert sorted(row[2] for row in rows_read(reader.read(window))) == inside
        assert reader.count(window) == len(inside)
    # The dataset has rows on the edges of hours and on the millisecond before (devstack/dataset.py).
    hours = [opd for opd in times if opd % 3_600_000 == 0]
    window = Window(moment(hours[0]), moment(hours[0]) + timedelta(seconds=1))
    assert hours[0] in [row[2] for row in rows_read(reader.read(window))]
    before = Window(window.start - timedelta(seconds=1), window.start)
    assert hours[0] not in [row[2] for row in rows_read(reader.read(before))]


def test_an_empty_window_gives_no_batch(source: Callable[..., PhoenixSource]) -> None:
    window = Window(datetime(1999, 1, 1, tzinfo=UTC), datetime(1999, 1, 2, tzinfo=UTC))
    reader = source()
    assert reader.count(window) == 0 and list(reader.read(window)) == []


def test_the_access_path_is_said(source: Callable[..., PhoenixSource]) -> None:
    assert "SCAN OVER" in source().access_path(ALL)
    assert f"SCAN OVER {TABLE}" in source(query_hint="NO_CACHE").access_path(ALL)


def test_missing_columns_are_named_all_at_once(source: Callable[..., PhoenixSource]) -> None:
    for call in (lambda reader: reader.columns(), lambda reader: list(reader.read(ALL))):
        with pytest.raises(SchemaError, match=rf"Undefined column {TABLE}\.C, {TABLE}\.nope: MAIN_COLUMNS"):
            call(source(columns=("C", "opd", "nope")))


def test_a_missing_table_is_said(source: Callable[..., PhoenixSource]) -> None:
    with pytest.raises(SchemaError, match="no table IT_PHX_NOT_THERE"):
        source(table="IT_PHX_NOT_THERE").columns()
    with pytest.raises(SchemaError, match="Table undefined"):
        source(table="IT_PHX_NOT_THERE").count(ALL)


def test_the_time_column_must_be_in_the_key_and_of_its_units(source: Callable[..., PhoenixSource]) -> None:
    with pytest.raises(SchemaError, match="emd is not in the primary key"):
        source(ts_column="emd").columns()
    with pytest.raises(SchemaError, match="PHX_TS_UNITS=millis"):
        source(ts_units="millis").columns()


def test_an_unknown_column_in_a_statement_is_a_schema_error(source: Callable[..., PhoenixSource]) -> None:
    with pytest.raises(SchemaError, match=r"Undefined column.*MAIN_COLUMNS"):
        source(ts_column="OPD", columns=("OPD",)).count(ALL)


@pytest.fixture(scope="module")
def odd_table(seeder: PhoenixSeeder) -> Iterator[str]:
    """A table in a schema, lower-case, with every type that can be read, and times of integers."""
    seeder.execute('DROP TABLE IF EXISTS "it_phx"."odd_1"')
    seeder.execute(
        'CREATE TABLE "it_phx"."odd_1" ("k" BIGINT NOT NULL, "s" UNSIGNED_LONG NOT NULL, "vc" VARCHAR, "ch" CHAR(5), '
        '"i" INTEGER, "si" SMALLINT, "ti" TINYINT, "ui" UNSIGNED_INT, "de" DECIMAL, "fl" FLOAT, "db" DOUBLE, '
        '"bo" BOOLEAN, "da" DATE, "ti2" TIME, "ts" TIMESTAMP, "vb" VARBINARY, "bi" BINARY(3), "ia" INTEGER ARRAY, '
        '"da2" DECIMAL ARRAY, "fa" FLOAT ARRAY, "ta" TIMESTAMP ARRAY, "ua" UNSIGNED_INT ARRAY '
        'CONSTRAINT pk PRIMARY KEY ("k", "s"))'
    )
    seeder.execute(
        "UPSERT INTO \"it_phx\".\"odd_1\" VALUES (1754600000123, 1754600000, 'x', 'ab', -5, -300, -7, 4000000, "
        "12345678901234567890.125, 7.25, -0.5, TRUE, DATE '2020-01-02 03:04:05', TIME '2020-01-02 03:04:05', "
        "TIMESTAMP '9999-12-31 23:59:59.999', DECODE('00FF01', 'HEX'), DECODE('00FF01', 'HEX'), ARRAY[1, 2], "
        "ARRAY[1.5, 2.25], ARRAY[7.25], ARRAY[TIMESTAMP '1970-01-01 00:00:01.002'], NULL)"
    )
    seeder.execute('UPSERT INTO "it_phx"."odd_1" ("k", "s") VALUES (1754600001000, 1754600001)')
    yield '"it_phx"."odd_1"'
    seeder.execute('DROP TABLE "it_phx"."odd_1"')


ODD_COLUMNS = (
    "k", "s", "vc", "ch", "i", "si", "ti", "ui", "de", "fl", "db", "bo", "da", "ti2", "ts", "vb", "bi", "ia", "da2",
    "fa", "ta",
)  # fmt: skip
ODD_WINDOW = Window(moment(1_754_600_000_000), moment(1_754_600_002_000))


def test_every_type_and_a_schema_and_times_of_integers(source: Callable[..., PhoenixSource], odd_table: str) -> None:
    day = 1_577_934_245_000
    values = (
        "x", "ab", -5, -300, -7, 4_000_000, Decimal("12345678901234567890.125"), 7.25, -0.5, True, day, day,
        253_402_300_799_999, b"\0\xff\1", b"\0\xff\1", [1, 2], [Decimal("1.5"), Decimal("2.25")], [7.25], [1_002],
    )  # fmt: skip
    nulls = (None,) * len(values)
    reader = source(table=odd_table, columns=ODD_COLUMNS, ts_column="k", ts_units="millis")
    assert reader.columns()[0] == SourceColumn("k", "TIMESTAMP", 1)
    assert reader.count(ODD_WINDOW) == 2
    rows = sorted(rows_read(reader.read(ODD_WINDOW)))
    assert rows == [(1_754_600_000_123, 1_754_600_000, *values), (1_754_600_001_000, 1_754_600_001, *nulls)]
    in_seconds = source(table=odd_table, columns=("s", "vc"), ts_column="s", ts_units="seconds")
    assert sorted(rows_read(in_seconds.read(ODD_WINDOW))) == [(1_754_600_000_000, "x"), (1_754_600_001_000, None)]
    assert in_seconds.key() == ("k", "s")
    assert in_seconds.count(Window(ODD_WINDOW.start, ODD_WINDOW.start + timedelta(seconds=1))) == 1
    with pytest.raises(SchemaError, match=r"ua \(UNSIGNED_INT ARRAY\)"):
        source(table=odd_table, columns=("k", "ua"), ts_column="k", ts_units="millis").columns()


def test_wide_rows_keep_frames_bounded(source: Callable[..., PhoenixSource], seeder: PhoenixSeeder) -> None:
    since = SPEC.until_ms + 86_400_000
    seeder.upsert_wide(40, 500_000, (since, since + 60_000))
    window = Window(moment(since), moment(since + 60_000))
    batches = [
        (batch.rows, batch.approximate_bytes, [len(text) for text in batch.column("ag")])
        for batch in source().read(window)
    ]
    assert sum(rows for rows, _, _ in batches) == 40
    assert max(size for _, size, _ in batches) <= 17 << 20
    assert {length for _, _, lengths in batches for length in lengths} == {500_000}


def test_a_read_closed_early_leaves_a_source_that_works(source: Callable[..., PhoenixSource]) -> None:
    reader = source(fetch_rows=50)
    reading = reader.read(ALL)
    assert next(reading).rows == FIRST_FRAME_ROWS
    reading.close()  # type: ignore[attr-defined]
    assert reader._connection is None
    assert reader.count(ALL) == SPEC.rows


def test_a_forgotten_read_does_not_take_a_newer_connection_along(source: Callable[..., PhoenixSource]) -> None:
    reader = source(fetch_rows=50)
    forgotten = reader.read(ALL)
    next(forgotten)
    reader.discard()
    assert reader.count(ALL) == SPEC.rows
    connection = reader._connection
    del forgotten
    gc.collect()
    assert reader._connection is connection and connection is not None and connection.open


def test_a_failed_statement_drops_the_connection_and_the_next_call_works(source: Callable[..., PhoenixSource]) -> None:
    reader = source()
    assert reader.count(ALL) == SPEC.rows
    connection = reader._connection
    assert connection is not None
    connection._id = "no such connection"
    with pytest.raises(StatementLost):
        reader.count(ALL)
    assert reader._connection is None and not connection.open
    assert reader.count(ALL) == SPEC.rows


def test_a_statement_lost_between_two_frames_is_said(source: Callable[..., PhoenixSource]) -> None:
    reader = source(fetch_rows=50)
    reading = reader.read(ALL)
    next(reading)
    connection = reader._connection
    assert connection is not None
    connection._client.close_connection(connection._id)
    with pytest.raises(StatementLost):
        list(reading)
    assert reader.count(ALL) == SPEC.rows


def test_rows_outside_the_window_are_refused(
    source: Callable[..., PhoenixSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stale cursor does after a restart (FACTS): it gives rows that were not asked for."""
    reader = source()
    statement = reader._read_statement(ALL)
    monkeypatch.setattr(reader, "_read_statement", lambda window: statement)
    narrow = Window(ALL.end - timedelta(minutes=5), ALL.end)
    with pytest.raises(ShortRead, match=r"row \d+ has opd = \d+ ms, outside the window"):
        list(reader.read(narrow))
    assert reader._connection is None


def test_an_idle_connection_is_replaced(source: Callable[..., PhoenixSource]) -> None:
    reader = source(max_idle_s=0.05)
    reader.count(ALL)
    first = reader._connection
    time.sleep(0.1)
    reader.count(ALL)
    assert reader._connection is not first and first is not None and not first.open


def test_close_is_polite_and_may_be_repeated(source: Callable[..., PhoenixSource]) -> None:
    reader = source()
    reader.count(ALL)
    reader.close()
    reader.close()
    reader.discard()
    assert reader.count(ALL) == SPEC.rows


# --- servers that misbehave; no stack is needed ---------------------------------------------------------------------


class BadServer:
    """Answers every request with the same bytes, or not at all (None), and counts connections."""

    def __init__(self, answer: bytes | None, keep_open: bool = True) -> None:
        self.connections = 0
        self.open: list[socket.socket] = []
        self._answer = answer
        self._keep_open = keep_open
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(client)
            threading.Thread(target=self._answer_one, args=(client,), daemon=True).start()

    def _answer_one(self, client: socket.socket) -> None:
        if self._answer is not None and client.recv(65_536):
            client.sendall(self._answer)
            if not self._keep_open:
                client.close()

    def close(self) -> None:
        self._listener.close()
        for client in self.open:
            client.close()


@pytest.fixture
def bad(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[BadServer, PhoenixSource]]]:
    servers: list[BadServer] = []

    def make(answer: bytes | None, keep_open: bool = True, **changes: Any) -> tuple[BadServer, PhoenixSource]:
        server = BadServer(answer, keep_open)
        servers.append(server)
        settings: dict[str, Any] = {
            "url": f"http://bob:s3cret@127.0.0.1:{server.port}/",
            "table": "T", "ts_column": "opd", "columns": ("c", "opd"),
            "connect_timeout_s": 0.5, "read_timeout_s": 0.4, "probe_timeout_ms": 300,
        }  # fmt: skip
        return server, PhoenixSource(PhoenixConfig(**{**settings, **changes}))

    yield make
    for server in servers:
        server.close()


def response(status: str, headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


def sized(body: bytes, extra: int = 0) -> str:
    return f"Content-Length: {len(body) + extra}\r\n"


HTML = b"<html><head></head></p></p></body><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("answer", "keep_open", "expected"),
    [
        (None, True, Unreachable),
        (response("200 OK", sized(b"x", 9), b"x"), True, Unreachable),
        (response("200 OK", sized(b"x", 9), b"x"), False, StatementLost),
        (response("200 OK", "Transfer-Encoding: chunked\r\n", b"5\r\nab"), False, StatementLost),
        (b"", False, Unreachable),
        (response("200 OK", sized(HTML), HTML), True, GatewayRefused),
        (response("200 OK", "Content-Type: text/html\r\n" + sized(HTML), HTML), True, GatewayRefused),
        (response("200 OK", sized(b""), b""), True, GatewayRefused),
        (response("302 Found", "Location: http://127.0.0.1:1/\r\n" + sized(b""), b""), True, GatewayRefused),
        (response("401 Unauthorized", "WWW-Authenticate: Basic\r\n" + sized(b""), b""), True, AuthenticationFailed),
        (response("403 Forbidden", sized(HTML), HTML), True, AuthenticationFailed),
        (response("413 Too Large", sized(HTML), HTML), True, GatewayRefused),
        (response("500 Oops", "Content-Type: text/html\r\n" + sized(HTML), HTML), True, Unreachable),
        (response("500 Oops", sized(b""), b""), True, Unreachable),
        (response("503 Busy", sized(b""), b""), True, GatewayRefused),
        (response("200 OK", sized(b"x" * 400), b"x" * 400), True, Overloaded),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_answers(
    bad: Callable[..., tuple[BadServer, PhoenixSource]], answer: bytes | None, keep_open: bool, expected: type[EtlError]
) -> None:
    """The first request, for a connection, is so small that a window is to blame for nothing that becomes of it."""
    server, reader = bad(answer, keep_open, max_frame_bytes=24)
    reader.probe()
    begun = time.monotonic()
    with pytest.raises(EtlError) as caught:
        reader.count(ALL)
    del reader
    gc.collect()  # nothing may talk to the server once more from a __del__
    assert type(caught.value) is expected
    assert time.monotonic() - begun < 2
    assert server.connections == 2  # the probe and one request: no retries
    assert "s3cret" not in str(caught.value) and "T at 127.0.0.1" in str(caught.value)


def test_an_unreachable_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reader = PhoenixSource(PhoenixConfig(url=f"127.0.0.1:{port}", table="T", ts_column="opd", columns=("opd",)))
    for call in (reader.probe, lambda: reader.count(ALL), lambda: list(reader.read(ALL)), reader.columns):
        with pytest.raises(Unreachable):
            call()
    reader.close()


def test_a_name_that_does_not_resolve() -> None:
    reader = PhoenixSource(
        PhoenixConfig(url="http://no-such-host.invalid", table="T", ts_column="opd", columns=("opd",))
    )
    with pytest.raises(Unreachable, match="no-such-host"):
        reader.probe()


def test_close_of_a_hung_server_is_bounded_and_silent(
    source: Callable[..., PhoenixSource], bad: Callable[..., tuple[BadServer, PhoenixSource]]
) -> None:
    server, _ = bad(None)
    reader = source()
    reader.count(ALL)  # with patience; then the server is taken away from under the connection
    live = reader._connection
    assert live is not None
    session = live._client.session
    assert session is not None
    session.close()
    for adapter in session.adapters.values():
        adapter._timeout = (0.3, 0.3)  # type: ignore[attr-defined]
    live._client.url = live._client.url._replace(netloc=f"127.0.0.1:{server.port}")
    begun = time.monotonic()
    reader.close()
    assert time.monotonic() - begun < 2


def test_frames_after_an_overload_are_smaller(
    source: Callable[..., PhoenixSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = source()
    real_next = FramePace.next

    def no_room_for_64_rows(pace: FramePace, rows: int, size: int) -> int:
        asked = real_next(pace, rows, size)
        if asked >= 64:
            raise SourceHeapExhausted("x")
        return asked

    monkeypatch.setattr(FramePace, "next", no_room_for_64_rows)
    with pytest.raises(SourceHeapExhausted):
        list(reader.read(ALL))
    monkeypatch.undo()
    reading = reader.read(ALL)
    assert [next(reading).rows for _ in range(4)] == [FIRST_FRAME_ROWS, 8, 16, 16]
