"""What the tests of a ClickHouse in trouble share: what runs on a shard now, and how to make its statements last."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_driver import Client

from devstack.deployment import Deployment
from tests.faults.world import SINCE, World

JSON_LOG = {"LOG_FORM": "json"}
"""For a module's ``SETTINGS``: the events of the workers can be read back."""
SLOW_INSERT = {
    # With more than one part in a partition an INSERT waits before it writes: ClickHouse's own brake.
    "parts_to_delay_insert": 1,
    "min_delay_to_insert_ms": 1500,
    "max_delay_to_insert": 2,
}
TOO_MANY_PARTS = {"parts_to_delay_insert": 0, "parts_to_throw_insert": 1}
NO_MERGES = "max_bytes_to_merge_at_max_space_in_pool"
REPEATS = 1_000
CLEAN_ROWS = 60_000
NOON = SINCE + timedelta(hours=12)


def name_of(shard: int) -> str:
    """The part of the stack that is the shard ``shard`` (1, 2)."""
    return f"clickhouse{shard}"


def address_of(world: World, shard: int) -> str:
    """The shard as the product's messages name it."""
    host, port = world.deployment.endpoints[shard - 1]
    return f"{host}:{port}"


def raw(world: World) -> str:
    """RAW's table on each shard."""
    return world.deployment.raw_all.removesuffix("_all")


def clean(world: World) -> str:
    """CLEAN's table on each shard."""
    return world.deployment.settings["CH_CLEAN_TABLE"]


def connect(world: World, shard: int) -> Client:
    """A connection of the test's own to one shard, around whatever stands between it and the product."""
    host, port = world.deployment.endpoints[shard - 1]
    settings = world.deployment.settings
    return Client(host, port, user=settings["CH_USER"], password=settings["CH_PASSWORD"])


class Watch:
    """Looks at the statements of one shard, every few milliseconds, over one connection; a context manager."""

    def __init__(self, world: World, shard: int) -> None:
        self._world = world
        self._shard = shard
        self._client = connect(world, shard)

    def __enter__(self) -> Watch:
        self.running("etl", "")  # connected before it matters
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()

    def running(self, tag: str, words: str) -> list[str]:
        """The ids of statements with ``words`` in them that run now and began with the query id ``tag``…"""
        rows = self._client.execute(
            "SELECT query_id FROM system.processes "
            "WHERE startsWith(initial_query_id, %(tag)s) AND position(query, %(words)s) > 0",
            {"tag": tag, "words": words},
        )
        return [query for (query,) in rows]

    def wait_for(self, tag: str, words: str, timeout_s: float = 120) -> list[str]:
        """The same, once there is one; AssertionError when none comes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := self.running(tag, words):
                return found
            time.sleep(0.002)
        raise AssertionError(
            f"no {words} of {tag}… came to shard {self._shard} in {timeout_s:g} s\n"
            f"{self._world.deployment.describe()}\n{self._world.deployment.worker_logs()}"
        )

    def wait_gone(self, query_id: str, timeout_s: float = 40) -> None:
        """Wait until the statement has ended."""
        deadline = time.monotonic() + timeout_s
        while self.running(query_id, ""):
            assert time.monotonic() < deadline, f"{query_id} still runs"
            time.sleep(0.005)

    def kill(self, query_id: str) -> None:
        """End the statement as an operator does."""
        killed = self._client.execute(f"KILL QUERY WHERE query_id = '{query_id}' ASYNC")
        assert killed, f"{query_id} had ended before it could be killed"


@contextlib.contextmanager
def table_settings(world: World, shard: int, table: str, settings: dict[str, int]) -> Iterator[None]:
    """Settings of a MergeTree for as long as the block runs; the shard is started when it is down at the end."""
    given = ", ".join(f"{name} = {value}" for name, value in settings.items())
    world.deployment.query(f"ALTER TABLE {table} MODIFY SETTING {given}", shard=shard - 1)
    try:
        yield
    finally:
        world.stack.start(name_of(shard))
        world.deployment.query(f"ALTER TABLE {table} RESET SETTING {', '.join(settings)}", shard=shard - 1)


@contextlib.contextmanager
def slow_inserts(world: World, shard: int) -> Iterator[None]:
    """Every INSERT into the shard's RAW lasts more than a second."""
    with table_settings(world, shard, raw(world), SLOW_INSERT):
        yield


@contextlib.contextmanager
def raw_merges_stopped(world: World) -> Iterator[None]:
    """RAW keeps every repeat."""
    world.deployment.each_shard(f"SYSTEM STOP MERGES {raw(world)}")
    try:
        yield
    finally:
        world.deployment.each_shard(f"SYSTEM START MERGES {raw(world)}")


@contextlib.contextmanager
def raw_volume(deployment: Deployment, shard: int) -> Iterator[None]:
    """The shard's RAW has every row of the loaded hours a thousand times more, in older versions that lose."""
    table = deployment.raw_all.removesuffix("_all")
    # A merge would drop what loses; as a setting of the table it outlives a restart.
    deployment.query(f"ALTER TABLE {table} MODIFY SETTING {NO_MERGES} = 1", shard=shard - 1)
    deployment.query(
        f"INSERT INTO {table} "
        "SELECT r.* REPLACE (ingested_at - toIntervalDay(1) AS ingested_at, repeat('x', 400) AS ag) "
        f"FROM {table} AS r FINAL CROSS JOIN numbers({REPEATS}) AS n SETTINGS optimize_on_insert = 0",
        shard=shard - 1,
    )
    # A row of a window that no test loads: while RAW has such, a publish reads the rows and does not take whole parts.
    deployment.query(
        f"INSERT INTO {table} (c, t, opd, ingested_at) VALUES", [("beside", 1, NOON, datetime.now(UTC))], shard - 1
    )
    try:
        yield
    finally:
        deployment.stack.start(name_of(shard))
        deployment.query(f"ALTER TABLE {table} RESET SETTING {NO_MERGES}", shard=shard - 1)
        deployment.query(f"OPTIMIZE TABLE {table} FINAL", shard=shard - 1)


@contextlib.contextmanager
def clean_volume(deployment: Deployment, shard: int) -> Iterator[None]:
    """The shard's CLEAN has thousands of long rows in the afternoon of the day, which no test loads."""
    table = deployment.settings["CH_CLEAN_TABLE"]
    deployment.query(
        f"INSERT INTO {table} (c, t, opd, ag, ingested_at) "
        "SELECT concat('volume', toString(number)), 1, %(noon)s, randomPrintableASCII(1500), now64(3) "
        f"FROM numbers({CLEAN_ROWS})",
        {"noon": NOON},
        shard - 1,
    )
    try:
        yield
    finally:
        deployment.stack.start(name_of(shard))
        deployment.query(
            f"ALTER TABLE {table} DELETE WHERE opd >= %(noon)s SETTINGS mutations_sync = 1", {"noon": NOON}, shard - 1
        )


def bring_back(world: World, shard: int) -> float:
    """Start the shard again; the moment when it answered."""
    world.stack.start(name_of(shard))
    return time.time()


def away_for_5_s(world: World, shard: int) -> float:
    """``kill -9`` of the shard, 5 s, its start; the moment when it answered again."""
    world.stack.kill(name_of(shard))
    time.sleep(5)
    return bring_back(world, shard)


def events(world: World, name: str) -> list[dict[str, Any]]:
    """The workers' log lines of one event so far."""
    found = []
    for log in sorted(world.deployment.scratch.glob("worker*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):  # (half written)
                    parsed = json.loads(line)
                    if parsed.get("event") == name:
                        found.append(parsed)
    return found


def publish_rows(world: World) -> list[Any]:
    """The publishes' own rows of the journal, oldest first."""
    return world.deployment.journal("SELECT * FROM {j} WHERE process_name LIKE '%:dedup' ORDER BY id")
