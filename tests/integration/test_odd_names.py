"""A % in names, which the driver puts parameters in by, against two real ClickHouse nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget
from etl_tasks.adapters.clickhouse.ddl import apply
from etl_tasks.adapters.clickhouse.examination import ClickHouseExamination
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.publishing import LoadedWindow, PublishRequest
from etl_tasks.core.target_table import TargetTable
from etl_tasks.core.windows import Window
from tests.integration.test_publish import World, nothing

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
PARTITION = 20250808
TIME, KEY, VALUE = "at 100%", "%(partition)s", "share %d %"
TABLE = TargetTable(
    columns=((KEY, "String"), (TIME, "DateTime64(3, 'UTC')"), (VALUE, "Nullable(Int32)")),
    key=(KEY, TIME),
    ts_column=TIME,
    ts_units="timestamp",
)


@pytest.fixture
def percents(own_clickhouse: Callable[..., ClickHouseConfig]) -> Iterator[World]:
    """The tables of ``TABLE``, empty, in a database of this test's own."""
    config = own_clickhouse("test_percent", ts_column=TIME)
    apply(config, table=lambda: TABLE)
    world = World(config)
    try:
        yield world
    finally:
        world.drop()


def test_percent_signs_in_names_are_loaded_published_counted_read_and_examined(percents: World) -> None:
    def load(values: list[int], version: int) -> None:
        keys = [f"key {number}" for number in range(len(values))]
        times = [DAY.start_ms + number * 3_600_000 for number in range(len(values))]
        target.insert(ColumnBatch([KEY, TIME, VALUE], [keys, times, values], len(values)), version)

    def publish(token: int, *, rebuild: bool = False) -> None:
        windows = [] if rebuild else [LoadedWindow(1, DAY, 20)]
        request = PublishRequest(PARTITION, token, windows, rebuild)
        result = target.publish(request, checkpoint=nothing, before_replace=nothing, on_stage=lambda _: None)
        assert not result.short_windows
        assert sum(shard.rows_after for shard in result.shards) == 20

    target: ClickHouseTarget = percents.target
    names = percents.config
    target.check_tables([KEY, TIME, VALUE], [KEY, TIME])
    load([0] * 20, percents.version + 1)
    publish(1)
    load(list(range(20)), percents.version + 2)
    publish(2)
    publish(3, rebuild=True)

    for table in (names.raw_table, names.clean_all_table):
        hours = [Window(MIDNIGHT + timedelta(hours=n), MIDNIGHT + timedelta(hours=n + 1)) for n in range(24)]
        assert target.count_windows(table, hours) == [1] * 20 + [0] * 4
        assert target.count_windows(table, [DAY]) == [20]
        assert sorted(target.rows(table, DAY, [TIME, KEY, VALUE])) == [
            (DAY.start_ms + number * 3_600_000, f"key {number}", number) for number in range(20)
        ]

    examination = ClickHouseExamination(names)
    try:
        cluster, sharding = examination.sharding()
        assert cluster and sharding
        found = examination.misplaced(cluster, sharding)
        assert (sum(each.rows for each in found), sum(each.misplaced for each in found)) == (20, 0)
    finally:
        examination.close()
