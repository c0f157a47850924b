"""The check of a publish's buffer against real ClickHouse: what it must find before CLEAN is touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from etl_tasks.adapters.clickhouse import publish_sql
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.client import Connection, single
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig
from etl_tasks.core.publishing import StageMetric
from etl_tasks.errors import CountMismatch
from tests.integration.test_publish import DAY, PARTITION, World, rows, world

__all__ = ["world"]

INSTANT = f"fromUnixTimestamp64Milli(toInt64({DAY.start_ms}), 'UTC')"


UNKNOWN = "SELECT no_such_function(1) FROM {buffer}"
"""What an old server makes of the quick look."""


@pytest.mark.parametrize("quick", [publish_sql.NOT_ASCENDING, UNKNOWN])
def test_a_key_that_stands_in_two_rows_of_the_buffer_leaves_clean_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, quick: str
) -> None:
    monkeypatch.setattr(publish_sql, "NOT_ASCENDING", quick)
    world.load(rows(100))
    world.publish(distinct=100)
    world.load(rows(100, id="new"))

    def repeat(metric: StageMetric) -> None:
        if metric.stage == "optimize_buf":
            buffer = Fence.of(world.config, PARTITION, world.token).buffer
            world.shards[1].execute(f"INSERT INTO {buffer} SELECT * FROM {buffer} ORDER BY c LIMIT 3")

    with pytest.raises(CountMismatch, match=r"has 3 keys in more than one row: CLEAN was left as it was"):
        world.publish(on_stage=repeat)
    assert world.clean() == sorted(rows(100))
    assert world.leftovers() == []


@pytest.mark.parametrize("quick", ["SELECT count() + 1 FROM {buffer}", UNKNOWN])
def test_the_groups_decide_where_the_quick_look_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch, quick: str
) -> None:
    """It finds suspects that are no repeats, or an old server does not know what it is made of."""
    monkeypatch.setattr(publish_sql, "NOT_ASCENDING", quick)
    world.load(rows(100))
    world.publish(distinct=100)
    assert world.clean() == sorted(rows(100))


@pytest.mark.parametrize(
    ("key_type", "keys", "suspects", "repeated"),
    [
        ("String", ["", "", "a", "b"], 1, 1),
        ("String", ["", "a", "aa", "b"], 0, 0),
        ("UInt64", [0, 0, 0, 1], 2, 1),
        ("UInt64", [0, 1, 2, 3], 0, 0),
        ("Nullable(String)", ["a", None, None, "b"], 2, 1),  # NULL compares with nothing: the groups are counted
        ("Nullable(String)", ["a", "b", None], 1, 0),
        ("Float64", ["nan", "nan", 1, 2], 2, 1),
        ("Float64", ["nan", 1, 2], 1, 0),
        ("Date32", ["1970-01-01", "1970-01-01", "1960-01-01"], 1, 1),  # what a row without predecessor is given
    ],
)
def test_repeats_are_found_whatever_the_keys_are(
    own_clickhouse: Callable[..., ClickHouseConfig], key_type: str, keys: list[object], suspects: int, repeated: int
) -> None:
    """Both questions of the check, asked of keys of one column beside the time; only the second one is exact."""
    config = own_clickhouse("test_check")
    connection = Connection(config, config.hosts[0])
    names = {"buffer": f"{config.database}.buffer", "ts": "opd", "key": "k, opd"}
    try:
        connection.execute(f"CREATE DATABASE IF NOT EXISTS {config.database}", tag="test")
        connection.execute(
            f"CREATE TABLE {names['buffer']} (k {key_type}, opd DateTime64(3, 'UTC')) ENGINE = MergeTree "
            "PARTITION BY toYYYYMMDD(opd) ORDER BY (k, opd) SETTINGS allow_nullable_key = 1",
            tag="test",
        )
        for key in keys:
            value = "NULL" if key is None else f"'{key}'"
            connection.execute(
                f"INSERT INTO {names['buffer']} SELECT CAST({value} AS {key_type}), {INSTANT}", tag="test"
            )
        found = [
            single(connection.execute(sql.format(**names), {"partition": PARTITION}, tag="test"))[0]
            for sql in (publish_sql.NOT_ASCENDING, publish_sql.REPEATED_KEYS)
        ]
        assert found == [suspects, repeated]
    finally:
        connection.execute(f"DROP DATABASE IF EXISTS {config.database} SYNC", tag="test")
        connection.close()
