"""A Query Server out of a can: it replays recorded rows at next to no cost, so that the reader is what limits.

``python -m benchmarks.canned RECORDING --start-ms MS --repeats N`` serves the table of ``recording.CannedTable`` on a
free port of 127.0.0.1 and prints one line of JSON, ``{"url": …, "rows": …}``, when it is ready. It speaks as much of
Avatica's protocol as phoenixdb's cursor and the product ask of it: connections, statements, the table's columns,
COUNT(*), EXPLAIN and the read of a window by two literals. A frame is a head and a slice of the recorded bytes, sent
as it is. As the real server does, the first frame holds 100 rows at most. The answers about columns and to EXPLAIN are
the recorded ones, whatever the window. Anything else is answered with an error that names it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from phoenixdb.avatica.proto import common_pb2, requests_pb2, responses_pb2

from benchmarks.recording import ROWS_TAG, CannedTable, load, varint
from benchmarks.source_table import TABLE, TIME_COLUMN
from devstack.dataset import MAIN_COLUMNS
from devstack.deployment import ROOT
from devstack.process import dies_with_us

FIRST_FRAME_ROWS = 100
RESPONSES = "org.apache.calcite.avatica.proto.Responses$"
READY_TIMEOUT_S = 120.0
Pieces = Sequence[bytes | bytearray | memoryview]
Spans = list[tuple[int, int, int]]

_LITERAL = r"TIMESTAMP '(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{3})?)'"
_WINDOW = re.compile(
    rf'(EXPLAIN )?SELECT (?:/\*\+ .*? \*/ )?(.+?) FROM "?{TABLE}"? '
    rf'WHERE "{TIME_COLUMN}" >= {_LITERAL} AND "{TIME_COLUMN}" < {_LITERAL}'
)
_ALL_COLUMNS = ", ".join(f'"{name}"' for name in MAIN_COLUMNS)


class Unknown(Exception):
    """Something was asked that this server has no answer to."""


@dataclass(frozen=True)
class Statement:
    """An open read: its rows and how many."""

    spans: Spans
    rows: int


class Avatica:
    """The answers, by the names of Avatica's requests."""

    def __init__(self, table: CannedTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._statements: dict[tuple[str, int], Statement | None] = {}
        self._last_statement = 0
        # Its own parts only: the recorded answers name the statement and the server of the recording.
        self._columns = responses_pb2.ResultSetResponse.FromString(table.recording.columns)
        self._explain = responses_pb2.ExecuteResponse.FromString(table.recording.explain)

    def answer(self, name: str, request: bytes) -> tuple[str, Pieces]:
        """Name and bytes of the response; raises Unknown."""
        ask = getattr(self, f"_{name}", None)
        if ask is None:
            raise Unknown(f"the canned Query Server has no answer to {name}")
        answered: tuple[str, Pieces] = ask(getattr(requests_pb2, name).FromString(request))
        return answered

    def _OpenConnectionRequest(self, request: Any) -> tuple[str, Pieces]:
        return _message(responses_pb2.OpenConnectionResponse())

    def _CloseConnectionRequest(self, request: Any) -> tuple[str, Pieces]:
        with self._lock:
            for key in [key for key in self._statements if key[0] == request.connection_id]:
                del self._statements[key]
        return _message(responses_pb2.CloseConnectionResponse())

    def _ConnectionSyncRequest(self, request: Any) -> tuple[str, Pieces]:
        return _message(responses_pb2.ConnectionSyncResponse(conn_props=request.conn_props))

    def _CreateStatementRequest(self, request: Any) -> tuple[str, Pieces]:
        statement = self._new_statement(request.connection_id)
        return _message(
            responses_pb2.CreateStatementResponse(connection_id=request.connection_id, statement_id=statement)
        )

    def _CloseStatementRequest(self, request: Any) -> tuple[str, Pieces]:
        with self._lock:
            self._statements.pop((request.connection_id, request.statement_id), None)
        return _message(responses_pb2.CloseStatementResponse())

    def _ColumnsRequest(self, request: Any) -> tuple[str, Pieces]:
        if (request.schema_pattern, request.table_name_pattern) != ("", TABLE):
            raise Unknown(
                f"the canned Query Server knows the columns of {TABLE}, not of "
                f"{request.schema_pattern}.{request.table_name_pattern}"
            )
        answer = responses_pb2.ResultSetResponse()
        answer.CopyFrom(self._columns)
        answer.connection_id = request.connection_id
        answer.statement_id = self._new_statement(request.connection_id)
        return _message(answer)

    def _PrepareAndExecuteRequest(self, request: Any) -> tuple[str, Pieces]:
        found = _WINDOW.fullmatch(request.sql)
        if found is None or found[2] not in ("COUNT(*)", _ALL_COLUMNS):
            raise Unknown(f"the canned Query Server has no answer to this statement: {request.sql}")
        since_ms, until_ms = (_milliseconds(text) for text in (found[3], found[4]))
        key = request.connection_id, request.statement_id
        if found[1]:
            answer = responses_pb2.ExecuteResponse()
            answer.CopyFrom(self._explain)
            answer.results[0].connection_id, answer.results[0].statement_id = key
            return _message(answer)
        spans = self._table.between(since_ms, until_ms)
        rows = sum(high - low for _, low, high in spans)
        if found[2] == "COUNT(*)":
            return _message(_count(rows, *key))
        with self._lock:
            self._statements[key] = Statement(spans, rows)
        first = min(request.first_frame_max_size or FIRST_FRAME_ROWS, FIRST_FRAME_ROWS)
        result = responses_pb2.ResultSetResponse(
            connection_id=key[0], statement_id=key[1], own_statement=True, update_count=2**64 - 1
        ).SerializeToString()
        result += _field(4, [self._table.recording.signature])[0]
        frame = b"".join(self._frame(Statement(spans, rows), 0, first))
        return f"{RESPONSES}ExecuteResponse", _field(1, [result, *_field(5, [frame])])

    def _FetchRequest(self, request: Any) -> tuple[str, Pieces]:
        with self._lock:
            statement = self._statements.get((request.connection_id, request.statement_id))
        if statement is None:
            return _message(responses_pb2.FetchResponse(missing_statement=True))
        return f"{RESPONSES}FetchResponse", _field(1, self._frame(statement, request.offset, request.frame_max_size))

    def _frame(self, statement: Statement, offset: int, most: int) -> Pieces:
        pieces, rows = self._table.pieces(statement.spans, offset, most)
        done = offset + rows >= statement.rows
        head = (b"\x08" + varint(offset) if offset else b"") + (b"\x10\x01" if done else b"")
        return [head, *pieces]

    def _new_statement(self, connection_id: str) -> int:
        with self._lock:
            self._last_statement += 1
            self._statements[connection_id, self._last_statement] = None
            return self._last_statement


def _message(message: Any) -> tuple[str, Pieces]:
    return RESPONSES + type(message).__name__, [message.SerializeToString()]


def _field(number: int, pieces: Pieces) -> Pieces:
    """A field of bytes around ``pieces``; the head is joined with the first, which is small."""
    head = varint(number << 3 | 2) + varint(sum(len(piece) for piece in pieces))
    return [head + bytes(pieces[0]), *pieces[1:]]


def _count(rows: int, connection_id: str, statement_id: int) -> Any:
    number = common_pb2.TypedValue(type=common_pb2.LONG, number_value=rows)
    cell = common_pb2.ColumnValue(value=[number], scalar_value=number)
    kind = common_pb2.AvaticaType(id=-5 & 0xFFFFFFFF, name="BIGINT", rep=common_pb2.PRIMITIVE_LONG)
    column = common_pb2.ColumnMetaData(column_name="COUNT(1)", label="COUNT(1)", type=kind)
    result = responses_pb2.ResultSetResponse(
        connection_id=connection_id,
        statement_id=statement_id,
        own_statement=True,
        signature=common_pb2.Signature(columns=[column]),
        first_frame=common_pb2.Frame(done=True, rows=[common_pb2.Row(value=[cell])]),
        update_count=2**64 - 1,
    )
    return responses_pb2.ExecuteResponse(results=[result])


def _milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


class Handler(BaseHTTPRequestHandler):
    """One connection; requests follow each other on it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        """One request of the protocol."""
        wire = common_pb2.WireMessage.FromString(self.rfile.read(int(self.headers["content-length"])))
        try:
            status, (name, pieces) = 200, self.server.avatica.answer(wire.name.rpartition("$")[2], wire.wrapped_message)
        except Unknown as fault:
            print(f"canned: {fault}", file=sys.stderr, flush=True)
            error = responses_pb2.ErrorResponse(error_message=str(fault), error_code=1, sql_state="00000")
            status, (name, pieces) = 500, _message(error)
        head = _field(1, [name.encode()])[0]
        body = [bytes(head), *_field(2, pieces)]
        self.send_response_only(status)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(sum(len(piece) for piece in body)))
        self.end_headers()
        for piece in body:
            self.wfile.write(piece)


class Server(ThreadingHTTPServer):
    """The server and what it answers from."""

    daemon_threads = True

    def __init__(self, avatica: Avatica) -> None:
        self.avatica = avatica
        super().__init__(("127.0.0.1", 0), Handler)


@dataclass(frozen=True)
class Canned:
    """A canned server that runs: where it is, what it costs by ``pid``, how many rows its table has."""

    url: str
    pid: int
    rows: int


@contextlib.contextmanager
def canned(recording: Path, start_ms: int, repeats: int) -> Iterator[Canned]:
    """A canned server in a process of its own. Raises RuntimeError with its words when it does not start."""
    command = [sys.executable, "-m", "benchmarks.canned", str(recording)]
    command += ["--start-ms", str(start_ms), "--repeats", str(repeats)]
    process = subprocess.Popen(dies_with_us(command), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the canned Query Server ended with {process.wait(READY_TIMEOUT_S)}: see above")
        yield Canned(pid=process.pid, **json.loads(line))
    finally:
        process.terminate()
        process.wait(READY_TIMEOUT_S)


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.canned", description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--start-ms", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    options = parser.parse_args()
    recording = load(options.recording, MAIN_COLUMNS.index(TIME_COLUMN))
    assert recording.rows[:1] == bytes([ROWS_TAG]), "the recording has no rows"
    server = Server(Avatica(CannedTable(recording, options.start_ms, options.repeats)))
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    print(json.dumps({"url": url, "rows": len(recording) * options.repeats}), flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
