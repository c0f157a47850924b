"""The table that benchmarks read, on the real Query Server, and the recording of it that is kept between runs."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from phoenixdb.avatica.client import AvaticaClient
from phoenixdb.avatica.proto import common_pb2, requests_pb2, responses_pb2

from benchmarks import recording
from benchmarks.recording import START_MS, WINDOW_MS, varint
from devstack import dataset, phoenix_seed
from devstack.dataset import MAIN_COLUMNS, DatasetSpec
from devstack.oracle import Late
from devstack.phoenix_seed import PhoenixSeeder, timestamp
from devstack.stack import Stack

TABLE = "BENCHMARK_ROWS"
TIME_COLUMN = "opd"
ROWS = 60_000
FRAME_ROWS = 5_000
DAY_MS = 86_400_000


def operation(rows: int = ROWS) -> Late:
    """What is written into the table: distinct keys, evenly over the window."""
    spec = DatasetSpec(rows=0, days=1, seed=91, until_ms=START_MS + DAY_MS)
    return Late(spec, rows, START_MS, START_MS + WINDOW_MS, version=1)


class KeptSource(PhoenixSeeder):
    """The table outlives the deployments that read it."""

    def create_table(self) -> None:
        """Nothing: ``seeded`` makes it."""

    def drop_table(self) -> None:
        """Nothing: the next benchmark reads it again."""


def seeded(stack: Stack) -> None:
    """The table on the real Query Server holds its rows; written only when it does not."""
    began = time.monotonic()
    with PhoenixSeeder(stack.env()["PQS_URL"], table=TABLE) as seeder:
        seeder.create_table()
        if seeder.count() != ROWS:
            seeder.drop_table()
            seeder.create_table()
            seeder.apply(operation())
            print(f"  seeded {ROWS:,} rows in {time.monotonic() - began:.0f} s", flush=True)
        assert seeder.count() == ROWS


def recorded(stack: Stack) -> Path:
    """The directory of the recording; made now, from the real Query Server, when there is none of these very rows."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (dataset, phoenix_seed)]
    name = hashlib.sha256(b"".join([*sources, phoenix_seed.DDL_FILE.read_bytes(), repr(operation()).encode()]))
    directory = stack.config.cache_dir / f"benchmark-rows-{name.hexdigest()[:12]}"
    if not (directory / "rows.bin").exists():
        stack.up(overload=False)
        seeded(stack)
        _record(stack.env()["PQS_URL"], directory)
    return directory


def read_statement(since_ms: int, until_ms: int) -> str:
    """The statement of a plain loop: the window's rows, all columns."""
    names = ", ".join(f'"{name}"' for name in MAIN_COLUMNS)
    return (
        f'SELECT {names} FROM "{TABLE}" '
        f'WHERE "{TIME_COLUMN}" >= {timestamp(since_ms)} AND "{TIME_COLUMN}" < {timestamp(until_ms)}'
    )


def _record(url: str, directory: Path) -> None:
    client = AvaticaClient(url, max_retries=0)
    connection = "recorder"
    client.open_connection(connection, info={})
    client.connection_sync(connection, {"autoCommit": True})
    columns = client._apply(
        requests_pb2.ColumnsRequest(connection_id=connection, schema_pattern="", table_name_pattern=TABLE),
        "ResultSetResponse",
    )
    sql = read_statement(START_MS, START_MS + WINDOW_MS)
    explained = _execute(client, connection, f"EXPLAIN {sql}")
    executed = responses_pb2.ExecuteResponse.FromString(_execute(client, connection, sql))
    result = executed.results[0]
    frame, rows, count = result.first_frame, bytearray(), 0
    while True:
        for row in frame.rows:
            data = row.SerializeToString()
            rows += bytes([recording.ROWS_TAG]) + varint(len(data)) + data
        count += len(frame.rows)
        if frame.done:
            break
        request = requests_pb2.FetchRequest(
            connection_id=connection, statement_id=result.statement_id, offset=count, frame_max_size=FRAME_ROWS
        )
        frame = responses_pb2.FetchResponse.FromString(client._apply(request)).frame
    client.close_connection(connection)
    assert count == ROWS, f"{count} rows came of a table of {ROWS}"
    _assert_strings(result.signature)
    ordered = recording.parse(bytes(rows), MAIN_COLUMNS.index(TIME_COLUMN))
    recording.save(
        directory,
        ordered.rows,
        signature=result.signature.SerializeToString(),
        columns=columns,
        explain=explained,
    )
    print(f"  recorded {count:,} rows, {len(rows) / count:,.0f} bytes each on the wire, in {directory}", flush=True)


def _execute(client: Any, connection: str, sql: str) -> bytes:
    statement = client.create_statement(connection)
    request = requests_pb2.PrepareAndExecuteRequest(
        connection_id=connection, statement_id=statement, sql=sql, first_frame_max_size=FRAME_ROWS
    )
    data: bytes = client._apply(request, "ExecuteResponse")
    return data


def _assert_strings(signature: Any) -> None:
    """A signature whose array has the wrong element type makes phoenixdb read empty bytes (FACTS): no baseline."""
    kind = signature.columns[MAIN_COLUMNS.index("ch")].type.component.rep
    assert kind == common_pb2.STRING, f"the recorded signature calls an array's elements {common_pb2.Rep.Name(kind)}"
