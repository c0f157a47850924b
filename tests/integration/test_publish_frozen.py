"""A publisher that is frozen while it sends a statement: ClickHouse has half of it, and another publish comes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from clickhouse_driver import errors as driver

from etl_tasks.adapters.clickhouse import ClickHouseTarget
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.client import ARRIVAL_S, Connection, Failover
from etl_tasks.adapters.clickhouse.topology import discover, pin
from tests.integration.test_publish import PARTITION, World, rows, world

__all__ = ["world"]

POLL_S = 10
"""How often ClickHouse looks whether it has waited for long enough."""
PATIENCE_S = 4 * (ARRIVAL_S + POLL_S)


@contextmanager
def half_sent(world: World, sql: str, token: int) -> Iterator[Connection]:
    """A publish's connection to the first shard that has sent the first packet of a statement, and not the second."""
    failover = Failover(world.config)
    topology = discover(world.config, failover)
    connection = pin(world.config, topology, topology.shards[0])
    failover.close()
    client = connection._client
    client.establish_connection(connection._known(connection._limits(None)))
    tag = Fence.of(world.config, PARTITION, token).tag
    query_id = f"{tag}-{uuid.uuid4().hex}"
    client.connection.send_query(sql, query_id=query_id)
    deadline = time.monotonic() + 60
    asking = f"SELECT count() FROM system.processes WHERE query_id = '{query_id}'"
    while world.shards[0].execute(asking) == [(0,)]:
        assert time.monotonic() < deadline, "the statement never came"
        time.sleep(0.02)
    try:
        yield connection
    finally:
        connection.close()


def finish(connection: Connection) -> None:
    """Send the second packet of the statement and read the answer."""
    connection._client.connection.send_external_tables([])
    connection._client.receive_result()


def test_a_statement_that_was_half_sent_holds_the_next_publish_up_for_seconds_not_minutes(world: World) -> None:
    world.load(rows(100))
    world.publish(distinct=100)
    older = world.token
    world.load(rows(100, id="new"))
    patient = ClickHouseTarget(replace(world.config, publish_drain_timeout_s=float(PATIENCE_S)))

    with half_sent(world, "SELECT 1", older):
        began = time.monotonic()
        world.publish(distinct=100, target=patient)
        assert time.monotonic() - began < PATIENCE_S

    patient.close()
    assert world.clean() == sorted(rows(100, id="new"))


def test_a_replace_whose_second_half_comes_late_changes_nothing(world: World) -> None:
    world.load(rows(100))
    world.publish(distinct=100)
    older, clean = world.token + 1, world.config.clean_table
    buffer = Fence.of(world.config, PARTITION, older).buffer
    for client in world.shards:
        client.execute(
            f"CREATE TABLE {buffer} AS {world.config.dedup_buf_table} ENGINE = ReplacingMergeTree(ingested_at) "
            "PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t)"
        )
        client.execute(f"INSERT INTO {buffer} (c, t, opd, id) SELECT c, t, opd, 'of the frozen one' FROM {clean}")
    world.token = older
    world.load(rows(100, id="new"))
    patient = ClickHouseTarget(replace(world.config, publish_drain_timeout_s=float(PATIENCE_S)))

    with half_sent(world, f"ALTER TABLE {clean} REPLACE PARTITION {PARTITION} FROM {buffer}", older) as frozen:
        world.publish(distinct=100, target=patient)
        # Awake again, it sends the rest and reads the answer.
        with pytest.raises((driver.Error, OSError, EOFError)):
            finish(frozen)

    patient.close()
    assert world.clean() == sorted(rows(100, id="new"))
    assert world.leftovers() == []
