"""Columns that stay bytes, sent to a real ClickHouse with every compression, come back as they were."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from clickhouse_driver import Client

from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget
from etl_tasks.adapters.clickhouse.ddl import apply
from etl_tasks.core.batch import ColumnBatch, SourceColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.windows import Window
from tests.unit.byte_columns import as_bytes

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
VERSION = DAY.end_ms
TYPES = {
    "c": "VARCHAR",
    "t": "UNSIGNED_TINYINT",
    "opd": "TIMESTAMP",
    "id": "VARCHAR",
    "st": "UNSIGNED_TINYINT",
    "exd": "TIMESTAMP",
    "tt": "BIGINT",
    "ch": "VARCHAR ARRAY",
    "pg": "UNSIGNED_SMALLINT",
}
CORNERS: dict[str, list[Any]] = {
    "id": ["it's", '"quoted"', "back\\slash \\n", "tab\t\r\n", "東京 🧀", "x" * 127, "x" * 128, None],
    "st": [0, 255, None, 1, 2, 3, 4, 5],
    "exd": [253402300799999, -62135596800000, -1, 0, 1, None, 7, -86400001],
    "tt": [-(2**63), 2**63 - 1, None, 0, 1, 2, 3, 4],
    "ch": [[], ["a"], ["", "b'"], ["x"] * 50, [], ["я" * 100], [], [""]],
    "pg": [65535, 0, None, 1, 2, 3, 4, 5],
}
Compression = Literal["lz4", "lz4hc", "zstd", "none"]


@pytest.fixture
def config(own_clickhouse: Callable[..., ClickHouseConfig]) -> Iterator[ClickHouseConfig]:
    """Settings for tables that are there and empty."""
    config = own_clickhouse("test_native_block")
    host = config.hosts[0]
    try:
        apply(config)
        yield config
    finally:
        for each in config.hosts:
            client = Client(host.name, port=each.port, user=config.user, password=config.password)
            client.execute(f"DROP DATABASE IF EXISTS {config.database} SYNC")
            client.disconnect()


def batch(count: int, **columns: list[Any]) -> ColumnBatch:
    """Keys a second apart from midnight on, and more columns."""
    keys: dict[str, list[Any]] = {
        "c": [f"010460'%{n}" for n in range(count)],
        "t": [n % 90 for n in range(count)],
        "opd": [DAY.start_ms + n * 1000 + 7 for n in range(count)],
    }
    return ColumnBatch([*keys, *columns], [*keys.values(), *columns.values()], count)


def coerced(target: ClickHouseTarget, config: ClickHouseConfig, sent: ColumnBatch) -> ColumnBatch:
    """The batch as a slice brings it to the target."""
    plan = CoercionPlan.build(
        [SourceColumn(name, TYPES[name]) for name in sent.names],
        target.columns(config.raw_table),
        key=("c", "t", "opd"),
        datetime64_range_ms=target.datetime64_range_ms(),
    )
    in_bytes = ColumnBatch(sent.names, [as_bytes(list(column)) for column in sent.columns], sent.rows)
    found = plan.apply(in_bytes)
    assert not found.misfits and not any(isinstance(column, list) for column in found.batch.columns)
    return found.batch


def sent_and_found(config: ClickHouseConfig, sent: ColumnBatch, *, in_bytes: bool) -> tuple[Any, Any]:
    with closing(ClickHouseTarget(config, tag=f"test-{uuid.uuid4().hex[:8]}")) as target:
        target.insert(coerced(target, config, sent) if in_bytes else sent, VERSION)
        found = sorted(target.rows(config.raw_table, DAY, [*sent.names, config.version_column]))
    return sorted(zip(*sent.columns, [VERSION] * sent.rows, strict=True)), found


@pytest.mark.parametrize("in_bytes", [True, False])
@pytest.mark.parametrize("compression", ["lz4", "lz4hc", "zstd", "none"])
def test_corner_cases_come_back_exactly(config: ClickHouseConfig, compression: Compression, in_bytes: bool) -> None:
    sent, found = sent_and_found(
        replace(config, compression=compression),
        batch(8, **{k: list(v) for k, v in CORNERS.items()}),
        in_bytes=in_bytes,
    )
    assert found == sent


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_a_block_of_many_pieces_comes_back_exactly(config: ClickHouseConfig, compression: Compression) -> None:
    """Some 20 MB: more than a piece a column, and texts that lie across two pieces."""
    count = 20_000
    columns: dict[str, list[Any]] = {
        "id": [None if n % 7 == 0 else f"{n}-" + "xyz" * (n % 400) for n in range(count)],
        "ch": [[f"{n}.{m}" for m in range(n % 5)] for n in range(count)],
        "tt": [None if n % 11 == 0 else n * n for n in range(count)],
    }
    sent, found = sent_and_found(replace(config, compression=compression), batch(count, **columns), in_bytes=True)
    assert found == sent


def test_a_column_whose_type_changed_after_the_batch_was_coerced_is_written_by_its_new_type(
    config: ClickHouseConfig,
) -> None:
    with closing(ClickHouseTarget(config)) as target:
        sent = coerced(target, config, batch(3, st=[1, None, 255], pg=[7, 8, None]))
        for host in config.hosts:
            client = Client(host.name, port=host.port, user=config.user, password=config.password)
            for table in (config.raw_table, config.raw_table.removesuffix("_all")):
                client.execute(f"ALTER TABLE {table} MODIFY COLUMN st Nullable(UInt32)")
            client.disconnect()
        (changed,) = (column.type for column in target.columns(config.raw_table) if column.name == "st")
        assert changed == "Nullable(UInt32)"
        target.insert(sent, VERSION)
        found = sorted(target.rows(config.raw_table, DAY, ["c", "st", "pg"]))
    assert found == [("010460'%0", 1, 7), ("010460'%1", None, 8), ("010460'%2", 255, None)]
