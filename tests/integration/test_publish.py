"""Publishing against two real ClickHouse nodes: what readers of CLEAN see, whatever happens in between."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_driver import Client

from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget, Host
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.ddl import apply
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.publishing import LoadedWindow, PublishRequest, PublishResult, StageMetric
from etl_tasks.core.windows import EPOCH, Window
from etl_tasks.errors import CountMismatch, LostOwnership, TerminalError, TransientError, Unreachable

STAGES = [
    "drop_buf",
    "attach_clean",
    "insert_dedup",
    "optimize_buf",
    "check",
    "replace_clean",
    "materialize_ttl",
    "drop_buf_cleanup",
]
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
PARTITION = int(f"{MIDNIGHT:%Y%m%d}")
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
Row = tuple[str, int, int, str | None, int | None]
"""c, t, opd in ms, id, exd in ms."""


def nothing() -> None:
    """A callback that agrees to everything."""


class World:
    """The tables of one test on both nodes, and direct connections to look behind the curtain."""

    def __init__(self, config: ClickHouseConfig) -> None:
        self.config = config
        self.target = ClickHouseTarget(config)
        self.shards = [
            Client(host.name, port=host.port, user=config.user, password=config.password) for host in config.hosts
        ]
        self.version = int(time.time() * 1000)
        self.token = self.version

    def load(self, rows: Sequence[Row], *, version: int | None = None) -> None:
        """Insert rows into RAW under a version newer than all before."""
        self.version += 1
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.target.insert(ColumnBatch(["c", "t", "opd", "id", "exd"], columns, len(rows)), version or self.version)

    def publish(self, window: Window = DAY, distinct: int = 0, **changes: Any) -> PublishResult:
        """Publish one window under a newer token."""
        self.token += 1
        callbacks: dict[str, Callable[..., None]] = {
            name: changes.pop(name, default)
            for name, default in {
                "checkpoint": nothing,
                "before_replace": nothing,
                "on_stage": lambda metric: None,
            }.items()
        }
        target = changes.pop("target", self.target)
        windows = changes.pop("windows", [LoadedWindow(1, window, distinct)])
        request = dataclasses.replace(PublishRequest(PARTITION, self.token, windows), **changes)
        result: PublishResult = target.publish(request, **callbacks)
        return result

    def clean(self) -> list[Row]:
        """CLEAN over all shards, times in ms."""
        return sorted(
            self.shards[0].execute(
                "SELECT c, t, toUnixTimestamp64Milli(opd), id, toUnixTimestamp64Milli(exd) "
                f"FROM {self.config.clean_all_table}"
            )
        )

    def everywhere(self, sql: str) -> list[Any]:
        """The first value that each shard answers."""
        return [client.execute(sql)[0][0] for client in self.shards]

    def everywhere_do(self, sql: str) -> None:
        """The statement on each shard."""
        for client in self.shards:
            client.execute(sql)

    def leftovers(self) -> list[str]:
        """Buffers that are still there."""
        prefix = self.config.dedup_buf_table.partition(".")[2] + "_"
        sql = f"SELECT name FROM system.tables WHERE database = %(db)s AND startsWith(name, '{prefix}')"
        return [name for client in self.shards for (name,) in client.execute(sql, {"db": self.config.database})]

    def drop(self) -> None:
        """Remove every trace."""
        self.target.close()
        for client in self.shards:
            client.execute(f"DROP DATABASE IF EXISTS {self.config.database} SYNC")
            client.disconnect()


@pytest.fixture
def world(own_clickhouse: Callable[..., ClickHouseConfig]) -> Iterator[World]:
    """Empty tables in a database of this test's own."""
    config = own_clickhouse("test_publish", publish_drain_timeout_s=20.0)
    apply(config)
    world = World(config)
    try:
        yield world
    finally:
        world.drop()


def rows(count: int, *, first: int = 0, id: str | None = "old", exd: int | None = None) -> list[Row]:
    """Keys ``first .. first + count``, ten seconds apart from midnight on."""
    return [(f"010460'%{n}", 1, DAY.start_ms + n * 10_000 + 7, id, exd) for n in range(first, first + count)]


def hours(start: float, end: float) -> Window:
    """A window of the test's day."""
    return Window(MIDNIGHT + timedelta(hours=start), MIDNIGHT + timedelta(hours=end))


def test_publish_shows_each_key_once_in_its_latest_version(world: World) -> None:
    world.load(rows(1000))
    world.load(rows(200, first=100, id="new"))
    seen: list[StageMetric] = []
    result = world.publish(distinct=1000, on_stage=seen.append)
    assert world.clean() == sorted(rows(100) + rows(200, first=100, id="new") + rows(700, first=300))
    assert [metric.stage for metric in seen] == STAGES
    assert list(result.stages) == seen
    assert sum(shard.rows_after for shard in result.shards) == 1000
    assert {shard.rows_before for shard in result.shards} == {0}
    assert not result.short_windows
    assert world.leftovers() == []


def test_the_latest_row_wins_whole_even_where_it_says_null(world: World) -> None:
    world.load(rows(10, id="value", exd=DAY.start_ms))
    world.publish(distinct=10)
    world.load(rows(10, id=None, exd=None))
    world.publish(distinct=10)
    assert world.clean() == sorted(rows(10, id=None, exd=None))


def test_an_older_read_that_is_inserted_late_does_not_win(world: World) -> None:
    world.load(rows(10, id="new"), version=world.version + 1000)
    world.publish(distinct=10)
    world.load(rows(10, id="old"), version=world.version + 500)
    world.publish(distinct=10)
    assert world.clean() == sorted(rows(10, id="new"))


def test_a_tie_of_versions_gives_one_whole_row_of_the_two(world: World) -> None:
    tied = world.version + 1000
    world.load(rows(50, id="one", exd=None), version=tied)
    world.publish(distinct=50)
    world.load(rows(50, id=None, exd=DAY.start_ms), version=tied)
    world.publish(distinct=50)
    clean = world.clean()
    assert [row[:3] for row in clean] == sorted(row[:3] for row in rows(50))
    assert {row[3:] for row in clean} <= {("one", None), (None, DAY.start_ms)}


def test_a_backfill_of_two_hours_keeps_the_other_twenty_two_when_raw_has_expired(world: World) -> None:
    world.load(rows(8640))
    world.publish(distinct=8640)
    for client in world.shards:
        client.execute(f"TRUNCATE TABLE {world.config.database}.codes_raw")
    world.load(rows(720, first=3600, id="again"))
    result = world.publish(hours(10, 12), distinct=720)
    assert world.clean() == sorted(rows(3600) + rows(720, first=3600, id="again") + rows(4320, first=4320))
    assert sum(shard.rows_before for shard in result.shards) == 8640


def test_rows_outside_the_windows_wait_for_their_own_publish(world: World) -> None:
    world.load(rows(8640))
    world.publish(hours(0, 1), distinct=360)
    assert world.clean() == sorted(rows(360))
    world.publish(windows=[LoadedWindow(2, hours(1, 2), 360), LoadedWindow(3, hours(1.5, 3), 540)])
    assert world.clean() == sorted(rows(1080))


def test_a_day_whose_rows_are_all_on_one_shard(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    one = [("same", n % 200, DAY.start_ms + n * 1000, "x", None) for n in range(500)]
    for client in world.shards:
        client.execute(f"TRUNCATE TABLE {world.config.database}.codes_raw")
        client.execute(f"ALTER TABLE {world.config.clean_table} DROP PARTITION {PARTITION}")
    world.load(one)
    result = world.publish(distinct=500)
    assert world.clean() == sorted(one)
    assert sorted(shard.skipped for shard in result.shards) == [False, True]


def test_a_shard_with_nothing_new_keeps_its_rows_and_counts_as_published(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    world.load([("one key", 1, DAY.end_ms - 500, "new", None)])
    result = world.publish(hours(23, 24), distinct=1)
    assert len(world.clean()) == 1001
    assert sorted((shard.skipped, shard.rows_after - shard.rows_before) for shard in result.shards) == [
        (False, 1),
        (True, 0),
    ]


def test_nothing_new_anywhere_is_a_publish_that_changes_nothing(world: World) -> None:
    world.load(rows(100))
    world.publish(distinct=100)
    for client in world.shards:
        client.execute(f"TRUNCATE TABLE {world.config.database}.codes_raw")
    result = world.publish(distinct=100)
    assert all(shard.skipped for shard in result.shards)
    assert not result.short_windows
    assert world.publish(windows=[]).short_windows == ()
    assert world.clean() == sorted(rows(100))


def test_a_window_that_falls_short_leaves_clean_alone_and_is_named(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    world.load(rows(10, id="new"))
    full, short = LoadedWindow(7, hours(0, 1), 360), LoadedWindow(8, hours(1, 2), 361)
    result = world.publish(windows=[full, short])
    assert result.short_windows == (short,)
    assert world.clean() == sorted(rows(1000))
    assert world.leftovers() == []


def test_a_loss_of_clean_rows_in_the_buffer_raises_and_leaves_clean_alone(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    world.load(rows(10, id="new"))

    def lose(metric: StageMetric) -> None:
        if metric.stage == "optimize_buf":
            buffer = Fence.of(world.config, PARTITION, world.token).buffer
            for client in world.shards:
                client.execute(f"ALTER TABLE {buffer} DELETE WHERE id = 'old'", settings={"mutations_sync": 1})

    with pytest.raises(CountMismatch, match="CLEAN was left as it was"):
        world.publish(on_stage=lose)
    assert world.clean() == sorted(rows(1000))
    assert world.leftovers() == []


def test_repeats_that_clean_had_are_no_loss(world: World) -> None:
    world.load(rows(100))
    world.publish(distinct=100)
    for client in world.shards:
        client.execute(f"INSERT INTO {world.config.clean_table} SELECT * FROM {world.config.clean_table}")
    assert len(world.clean()) == 200
    world.load(rows(100, id="new"))
    world.publish(distinct=100)
    assert world.clean() == sorted(rows(100, id="new"))


def test_rebuild_takes_raw_alone_and_may_shrink(world: World) -> None:
    world.load(rows(500))
    world.publish(distinct=500)
    for client in world.shards:
        client.execute(f"TRUNCATE TABLE {world.config.database}.codes_raw")
    with pytest.raises(TerminalError, match="no rows"):
        world.publish(windows=[], rebuild=True)
    assert len(world.clean()) == 500
    world.load(rows(300, id="raw"))
    world.publish(windows=[], rebuild=True, lost=[DAY])
    assert world.clean() == sorted(rows(300, id="raw"))


def test_far_dates_and_dates_before_1970_come_through(world: World) -> None:
    far = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - EPOCH) / timedelta(milliseconds=1)) + 999
    early = int((datetime(1960, 2, 29, 1, 2, 3, tzinfo=UTC) - EPOCH) / timedelta(milliseconds=1)) - 1
    loaded = [("far", 1, DAY.start_ms, "x", far), ("early", 1, DAY.start_ms + 1, "x", early)]
    world.load(loaded)
    world.publish(distinct=2)
    assert world.clean() == sorted(loaded)


def test_published_again_from_another_host_no_key_is_there_twice(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    turned = ClickHouseTarget(dataclasses.replace(world.config, hosts=world.config.hosts[::-1]))
    try:
        world.publish(distinct=1000, target=turned)
    finally:
        turned.close()
    assert world.clean() == sorted(rows(1000))


def test_the_host_at_the_head_of_the_list_may_be_dead(world: World) -> None:
    world.load(rows(100))
    hosts = (Host("127.0.0.1", 1), *world.config.hosts)
    target = ClickHouseTarget(dataclasses.replace(world.config, hosts=hosts))
    try:
        world.publish(distinct=100, target=target)
    finally:
        target.close()
    assert world.clean() == sorted(rows(100))


def test_an_older_holder_finds_no_table_for_its_replace(world: World) -> None:
    world.load(rows(100))
    older = ClickHouseTarget(world.config)
    newer_published = []

    def overtaken() -> None:
        world.load(rows(100, id="new"))
        newer_published.append(world.publish(distinct=100))

    with pytest.raises(LostOwnership):
        world.publish(distinct=100, target=older, before_replace=overtaken)
    older.close()
    assert len(newer_published) == 1
    assert world.clean() == sorted(rows(100, id="new"))
    assert world.leftovers() == []


def test_a_newer_publish_is_not_disturbed_by_an_older_one_that_starts_late(world: World) -> None:
    world.load(rows(100))
    late = ClickHouseTarget(world.config)

    def start_late(metric: StageMetric) -> None:
        if metric.stage == "attach_clean":
            with pytest.raises(LostOwnership, match="newer"):
                late.publish(
                    PublishRequest(PARTITION, world.token - 1, [LoadedWindow(1, DAY, 100)]),
                    checkpoint=nothing,
                    before_replace=nothing,
                    on_stage=lambda metric: None,
                )

    world.publish(distinct=100, on_stage=start_late)
    late.close()
    assert world.clean() == sorted(rows(100))


def test_before_replace_may_say_no(world: World) -> None:
    world.load(rows(100))

    def no() -> None:
        raise LostOwnership("somebody newer")

    with pytest.raises(LostOwnership, match="somebody newer"):
        world.publish(distinct=100, before_replace=no)
    with pytest.raises(LostOwnership):
        world.publish(distinct=100, checkpoint=no)
    assert world.clean() == []
    assert world.leftovers() == []


def test_statements_of_a_dead_publisher_are_ended_before_the_next_one_begins(world: World) -> None:
    world.load(rows(100))
    tag = Fence.of(world.config, PARTITION, world.token).tag
    config = world.config
    failures: list[Exception] = []

    def linger() -> None:
        host = config.hosts[1]
        client = Client(host.name, port=host.port, user=config.user, password=config.password)
        try:
            client.execute(
                "SELECT sleepEachRow(0.1) FROM numbers(600) SETTINGS max_block_size = 1, "
                "function_sleep_max_microseconds_per_block = 0",
                query_id=f"{tag}-{uuid.uuid4().hex}",
            )
        except Exception as error:
            failures.append(error)
        finally:
            client.disconnect()

    thread = threading.Thread(target=linger)
    thread.start()
    deadline = time.monotonic() + 10
    # Killed while it begins it may end without an error.
    count = f"SELECT count() FROM system.processes WHERE startsWith(query_id, '{tag}') AND read_rows > 0"
    while world.shards[1].execute(count) == [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)
    started = time.monotonic()
    world.publish(distinct=100)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert time.monotonic() - started < 20
    assert len(failures) == 1
    assert len(world.clean()) == 100


def test_a_replace_that_reached_one_shard_only_is_repaired_by_the_next_token(world: World, monkeypatch: Any) -> None:
    from etl_tasks.adapters.clickhouse.publish import PartitionPublish

    world.load(rows(1000))
    world.publish(distinct=1000)
    world.load(rows(1000, id="new"))
    replace = PartitionPublish._replace_partition

    def dies_on_shard_2(self: PartitionPublish, work: Any) -> None:
        if work.shard.number == 2:
            raise Unreachable("shard 2 is gone")
        replace(self, work)

    monkeypatch.setattr(PartitionPublish, "_replace_partition", dies_on_shard_2)
    with pytest.raises(TransientError):
        world.publish(distinct=1000)
    half = world.clean()
    assert {key[:3] for key in half} == {key[:3] for key in rows(1000)}
    assert len(half) == 1000
    monkeypatch.undo()
    world.publish(distinct=1000)
    assert world.clean() == sorted(rows(1000, id="new"))
    assert world.leftovers() == []


def test_what_a_server_leaves_that_died_within_replace_is_put_right_by_the_next_token(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    world.load([*rows(600, id="new"), *rows(50, first=1000, id="new")])

    def dies() -> None:
        # ClickHouse renames the new part into the table and after that an empty one that covers the old: killed in
        # between (by strace, 26.9), it comes back with both.
        buffer = Fence.of(world.config, PARTITION, world.token).buffer
        for client in world.shards:
            client.execute(f"ALTER TABLE {world.config.clean_table} ATTACH PARTITION {PARTITION} FROM {buffer}")
        raise Unreachable("the server is gone")

    with pytest.raises(Unreachable):
        world.publish(distinct=650, before_replace=dies)
    assert len(world.clean()) == 1000 + 1050

    world.publish(distinct=650)

    owed = [*rows(600, id="new"), *rows(400, first=600), *rows(50, first=1000, id="new")]
    assert world.clean() == sorted(owed)
    assert world.leftovers() == []


def test_a_reader_never_sees_the_partition_empty_or_shrunk(world: World) -> None:
    world.load(rows(8000))
    world.publish(distinct=8000)
    stop = threading.Event()
    counts: list[int] = []

    def read() -> None:
        host = world.config.hosts[0]
        client = Client(host.name, port=host.port, user=world.config.user, password=world.config.password)
        while not stop.is_set():
            counts.append(client.execute(f"SELECT count() FROM {world.config.clean_all_table}")[0][0])
        client.disconnect()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 30
    while not counts and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        for step in range(6):
            world.load(rows(100, first=8000 + step * 100))
            world.load(rows(500, first=step * 500, id=f"again {step}"))
            world.publish()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert len(counts) > 20
    assert min(counts) == 8000
    assert len(world.clean()) == 8600


def test_a_published_part_still_expires(world: World) -> None:
    world.load(rows(100))
    world.publish(distinct=100)
    sql = (
        "SELECT toUnixTimestamp(max(delete_ttl_info_max)) FROM system.parts WHERE active "
        f"AND database = '{world.config.database}' AND table = 'codes'"
    )
    deadline = time.monotonic() + 20
    while 0 in world.everywhere(sql) and time.monotonic() < deadline:
        time.sleep(0.1)
    last = int(DAY.start_ms / 1000) + 5 * 86400
    assert all(last <= expires <= last + 1000 for expires in world.everywhere(sql))


def test_each_partition_is_one_part_after_a_publish(world: World) -> None:
    for step in range(5):
        world.load(rows(100, first=step * 100))
    world.publish(distinct=500)
    sql = f"SELECT count() FROM system.parts WHERE active AND database = '{world.config.database}' AND table = 'codes'"
    assert world.everywhere(sql) == [1, 1]


def test_an_interrupted_publish_ends_its_statements_and_drops_its_buffers(world: World) -> None:
    class Interrupted(BaseException):
        pass

    world.load(rows(1000))

    def interrupt(metric: StageMetric) -> None:
        if metric.stage == "insert_dedup":
            raise Interrupted

    with pytest.raises(Interrupted):
        world.publish(distinct=1000, on_stage=interrupt)
    assert world.clean() == []
    assert world.leftovers() == []
    world.publish(distinct=1000)
    assert len(world.clean()) == 1000


def test_a_shard_whose_replica_does_not_answer_is_named(world: World) -> None:
    world.load(rows(10))
    config = dataclasses.replace(world.config, hosts=world.config.hosts[:1], user="nobody")
    target = ClickHouseTarget(config)
    with pytest.raises(TerminalError, match=str(world.config.hosts[0])):
        target.replicas()
    target.close()
    assert world.target.replicas() == [str(host) for host in world.config.hosts]


@pytest.mark.parametrize("stage", ["attach_clean", "insert_dedup", "optimize_buf"])
def test_an_older_holder_that_is_overtaken_in_the_middle_has_lost_ownership(world: World, stage: str) -> None:
    world.load(rows(100))
    older = ClickHouseTarget(world.config)

    def overtaken(metric: StageMetric) -> None:
        if metric.stage == stage:
            world.load(rows(100, id="new"))
            world.publish(distinct=100)

    with pytest.raises(LostOwnership):
        world.publish(distinct=100, target=older, on_stage=overtaken)
    older.close()
    assert world.clean() == sorted(rows(100, id="new"))
    assert world.leftovers() == []
