"""The benchmarks' canned Query Server, asked by phoenixdb itself over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime

import phoenixdb
import pytest
from phoenixdb.avatica.proto import common_pb2

from benchmarks.canned import Avatica, Server
from benchmarks.recording import START_MS, WINDOW_MS, CannedTable, parse
from benchmarks.source_table import read_statement
from devstack.dataset import MAIN_COLUMNS

ROWS = 250
START = datetime(2025, 8, 8)
NULL = common_pb2.TypedValue(type=common_pb2.NULL, null=True)


def row(index: int) -> common_pb2.Row:
    values = {
        "c": common_pb2.TypedValue(type=common_pb2.STRING, string_value=f"code {index}"),
        "t": common_pb2.TypedValue(type=common_pb2.BYTE, number_value=index % 100),
        "opd": common_pb2.TypedValue(type=common_pb2.LONG, number_value=START_MS + 1_000 * index),
    }
    cells = [values.get(name, NULL) for name in MAIN_COLUMNS]
    return common_pb2.Row(value=[common_pb2.ColumnValue(value=[cell], scalar_value=cell) for cell in cells])


def signature() -> bytes:
    kinds = {"t": common_pb2.AvaticaType(id=-6 & 0xFFFFFFFF, name="UNSIGNED_TINYINT", rep=common_pb2.PRIMITIVE_BYTE)}
    kinds |= {"opd": common_pb2.AvaticaType(id=93, name="TIMESTAMP", rep=common_pb2.PRIMITIVE_LONG)}
    text = common_pb2.AvaticaType(id=12, name="VARCHAR", rep=common_pb2.STRING)
    columns = [common_pb2.ColumnMetaData(column_name=name, type=kinds.get(name, text)) for name in MAIN_COLUMNS]
    answer: bytes = common_pb2.Signature(columns=columns).SerializeToString()
    return answer


@pytest.fixture
def connection() -> Iterator[phoenixdb.Connection]:
    rows = common_pb2.Frame(rows=[row(index) for index in range(ROWS)]).SerializeToString()
    recording = parse(rows, MAIN_COLUMNS.index("opd"), signature=signature())
    server = Server(Avatica(CannedTable(recording, START_MS, repeats=2)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with phoenixdb.connect(f"http://127.0.0.1:{server.server_address[1]}/", autocommit=True) as opened:
            yield opened
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_read_gives_every_row_of_the_window_once(connection: phoenixdb.Connection) -> None:
    cursor = connection.cursor()
    cursor.itersize = 7
    cursor.execute(read_statement(START_MS, START_MS + 2 * WINDOW_MS))
    rows = cursor.fetchall()
    assert [found[0] for found in rows] == [f"code {index % ROWS}" for index in range(2 * ROWS)]
    assert [found[1] for found in rows] == [index % ROWS % 100 for index in range(2 * ROWS)]
    seconds = [(found[2] - START).total_seconds() for found in rows]
    assert seconds == [float(index) for index in range(ROWS)] + [300.0 + index for index in range(ROWS)]
    assert all(found[3:] == [None] * (len(MAIN_COLUMNS) - 3) for found in rows)


def test_a_first_frame_has_a_hundred_rows_at_most(connection: phoenixdb.Connection) -> None:
    cursor = connection.cursor()
    cursor.itersize = 5_000
    cursor.execute(read_statement(START_MS, START_MS + WINDOW_MS))
    assert len(cursor._frame.rows) == 100
    assert not cursor._frame.done
    assert len(cursor.fetchall()) == ROWS


def test_rows_of_a_window_are_counted(connection: phoenixdb.Connection) -> None:
    cursor = connection.cursor()
    condition = read_statement(START_MS + 1, START_MS + 10_001).partition(" FROM ")[2]
    cursor.execute(f"SELECT COUNT(*) FROM {condition}")
    assert cursor.fetchall() == [[10]]  # of the seconds 1 to 10


def test_an_empty_window_is_an_empty_answer(connection: phoenixdb.Connection) -> None:
    cursor = connection.cursor()
    cursor.execute(read_statement(START_MS - 10, START_MS))
    assert cursor.fetchall() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        'SELECT "c" FROM "BENCHMARK_ROWS"',
        read_statement(START_MS, START_MS + 1).replace("BENCHMARK_ROWS", "OTHER"),
        read_statement(START_MS, START_MS + 1) + ' AND "t" = 1',
    ],
)
def test_what_it_has_no_answer_to_is_named(connection: phoenixdb.Connection, sql: str) -> None:
    cursor = connection.cursor()
    with pytest.raises(phoenixdb.InternalError) as raised:
        cursor.execute(sql)
    assert sql in raised.value.args[0]


def test_a_request_that_it_does_not_know_is_named(connection: phoenixdb.Connection) -> None:
    with pytest.raises(phoenixdb.InternalError, match="no answer to TablesRequest"):
        connection._client.get_tables(connection._id)
