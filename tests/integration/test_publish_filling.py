"""How a publish fills its buffer on two real ClickHouse nodes: by RAW's parts or by its rows, within its bounds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from etl_tasks.adapters.clickhouse import ClickHouseTarget, publish_sql
from etl_tasks.adapters.clickhouse.client import Connection
from etl_tasks.core.publishing import StageMetric
from etl_tasks.errors import ResourceExhausted
from tests.integration.test_publish import DAY, PARTITION, Row, World, hours, rows, world

__all__ = ["world"]

MANY = 40_000
LITTLE_BYTES = 12_000_000
"""Enough for the small questions of a publish, too little to read ``MANY`` rows and write them."""


def statements(world: World, shard: int, kind: str) -> list[dict[str, str]]:
    """The settings of each statement of this kind that publishes of the test's table ran on a shard."""
    client = world.shards[shard]
    client.execute("SYSTEM FLUSH LOGS")
    found = client.execute(
        "SELECT Settings FROM system.query_log WHERE type = 'QueryStart' AND query_kind = %(kind)s "
        "AND startsWith(query_id, %(tag)s) ORDER BY event_time_microseconds",
        {"kind": kind, "tag": f"etl-publish-{world.config.clean_table}-"},
    )
    return [dict(settings) for (settings,) in found]


def both(world: World, kind: str) -> list[int]:
    """How many statements of this kind each shard ran."""
    return [len(statements(world, shard, kind)) for shard in range(2)]


def clean_parts(world: World, shard: int) -> list[tuple[str, int, int, int]]:
    """CLEAN's parts on a shard: partition, first and last block, rows. One that is written anew has other blocks.

    (Its name is no sign: MATERIALIZE TTL in one partition lets ClickHouse name the parts of all of them anew.)
    """
    found: list[tuple[str, int, int, int]] = world.shards[shard].execute(
        "SELECT partition_id, min_block_number, max_block_number, rows FROM system.parts WHERE active "
        "AND database = %(database)s AND table = 'codes' ORDER BY partition_id, min_block_number",
        {"database": world.config.database},
    )
    return found


def parts_of_other_days(world: World) -> list[list[tuple[str, int, int, int]]]:
    """CLEAN's parts of all partitions but the test's, a list a shard."""
    return [[part for part in clean_parts(world, shard) if part[0] != str(PARTITION)] for shard in range(2)]


def raw_only(world: World, sql: str) -> None:
    """A statement about RAW's local table, on both shards."""
    world.everywhere_do(sql.format(raw=f"{world.config.database}.codes_raw"))


def after_attach_clean(act: Callable[[], None]) -> Callable[[StageMetric], None]:
    """``on_stage`` that acts when RAW has been counted, and not been read."""

    def on_stage(metric: StageMetric) -> None:
        if metric.stage == "attach_clean":
            act()

    return on_stage


def buffers_made(world: World) -> list[str]:
    """The engines of both shards' buffers amid a publish of ten rows."""
    world.load(rows(10))
    made: list[str] = []

    def look() -> None:
        for client in world.shards:
            made.extend(
                engine
                for (engine,) in client.execute(
                    "SELECT engine_full FROM system.tables WHERE database = %(database)s "
                    "AND startsWith(name, 'codes_dedup_buf_')",
                    {"database": world.config.database},
                )
            )

    world.publish(distinct=10, on_stage=after_attach_clean(look))

    assert len(made) == 2
    assert world.clean() == sorted(rows(10))
    return made


def clean_codecs(world: World) -> list[Any]:
    """What each shard's only part of CLEAN is compressed with."""
    return world.everywhere(
        "SELECT any(default_compression_codec) FROM system.parts "
        f"WHERE database = '{world.config.database}' AND table = 'codes' AND active HAVING count() = 1"
    )


def test_the_buffer_is_merged_in_large_blocks_that_the_server_bounds_in_bytes(world: World) -> None:
    made = buffers_made(world)

    assert all("merge_max_block_size = 65536" in engine for engine in made)
    ((most_bytes,),) = world.shards[0].execute(
        "SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'merge_max_block_size_bytes'"
    )
    assert 0 < most_bytes <= 64 << 20


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("SELECT 0, 0", set()),
        ("SELECT 1, 0", {"merge_max_block_size"}),  # one that knows no codec, or has one for all its tables
        ("SELECT 0, 1", {"default_compression_codec"}),
        ("SELECT no_such_function(1)", set()),
    ],
)
def test_a_server_is_told_of_merges_what_it_knows(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: str, told: set[str]
) -> None:
    monkeypatch.setattr(publish_sql, "MERGE_SETTINGS", answer)
    for engine in buffers_made(world):
        assert {name for name in ("merge_max_block_size", "default_compression_codec") if name in engine} == told


def test_a_published_part_is_compressed_as_quickly_as_an_insert(world: World) -> None:
    """The server would choose by a part's size: the buffer says it whatever the size."""
    raw_only(world, "ALTER TABLE {raw} MODIFY SETTING default_compression_codec = 'ZSTD(9)'")
    made = buffers_made(world)
    assert all("default_compression_codec = 'LZ4'" in engine for engine in made)
    assert clean_codecs(world) == ["LZ4", "LZ4"]


def test_clean_says_what_its_parts_are_compressed_with(world: World) -> None:
    world.everywhere_do(f"ALTER TABLE {world.config.clean_table} MODIFY SETTING default_compression_codec = 'ZSTD(7)'")
    world.load(rows(100))
    world.publish(distinct=100)
    assert clean_codecs(world) == ["ZSTD(7)", "ZSTD(7)"]
    assert world.clean() == sorted(rows(100))


def test_a_published_part_is_recompressed_when_clean_says_so(world: World) -> None:
    """As the README has it, with a minute in place of days: the rows are of yesterday."""
    world.everywhere_do(
        f"ALTER TABLE {world.config.clean_table} MODIFY SETTING merge_with_recompression_ttl_timeout = 0"
    )
    world.everywhere_do(
        f"ALTER TABLE {world.config.clean_table} "
        "MODIFY TTL toDateTime(opd) + INTERVAL 1 MINUTE RECOMPRESS CODEC(ZSTD(5))"
    )
    world.load(rows(100))
    world.publish(distinct=100)

    deadline = time.monotonic() + 30
    while clean_codecs(world) != ["ZSTD(5)", "ZSTD(5)"] and time.monotonic() < deadline:
        time.sleep(0.1)

    assert clean_codecs(world) == ["ZSTD(5)", "ZSTD(5)"]
    assert world.clean() == sorted(rows(100))


def test_a_day_that_raw_has_for_the_first_time_is_written_once(world: World) -> None:
    world.load(rows(1000))
    world.load(rows(300, first=500, id="new"))

    result = world.publish(distinct=1000)

    assert world.clean() == sorted(rows(500) + rows(300, first=500, id="new") + rows(200, first=800))
    assert sum(shard.rows_after for shard in result.shards) == 1000
    assert both(world, "Insert") == [0, 0]
    assert world.leftovers() == []


def test_a_day_that_is_loaded_again_whole_wins_over_what_clean_has(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    raw_only(world, "TRUNCATE TABLE {raw}")
    world.load(rows(600, first=200, id=None))

    result = world.publish(hours(0, 3), distinct=600)

    assert world.clean() == sorted(rows(200) + rows(600, first=200, id=None) + rows(200, first=800))
    assert sum(shard.rows_before for shard in result.shards) == 1000
    assert both(world, "Insert") == [0, 0]


def test_a_rebuild_takes_the_parts_of_raw(world: World) -> None:
    world.load(rows(500))
    world.publish(distinct=500)
    raw_only(world, "TRUNCATE TABLE {raw}")
    world.load(rows(300, id="raw"))

    world.publish(windows=[], rebuild=True, lost=[DAY])

    assert world.clean() == sorted(rows(300, id="raw"))
    assert both(world, "Insert") == [0, 0]


def test_rows_of_other_windows_are_left_in_raw(world: World) -> None:
    world.load(rows(720))

    world.publish(hours(0, 1), distinct=360)

    assert world.clean() == sorted(rows(360))
    assert both(world, "Insert") == [1, 1]


def test_a_load_that_goes_on_meanwhile_is_seen_before_the_parts_are_taken(world: World) -> None:
    world.load(rows(360))

    world.publish(
        hours(0, 1), distinct=360, on_stage=after_attach_clean(lambda: world.load(rows(360, first=360, id="too early")))
    )

    assert world.clean() == sorted(rows(360))
    assert both(world, "Insert") == [1, 1]


def test_rows_that_slip_in_with_the_parts_are_given_back(world: World) -> None:
    world.load(rows(360, first=1000))
    world.publish(hours(2, 4), distinct=360)
    raw_only(world, "TRUNCATE TABLE {raw}")
    world.load(rows(360))

    def as_many_others() -> None:
        # As many rows go as come: the count before the parts are taken cannot tell.
        for client in world.shards:
            raw = f"{world.config.database}.codes_raw"
            ((there,),) = client.execute(f"SELECT count() FROM {raw}")
            ((gone,),) = client.execute(f"SELECT count() FROM (SELECT c FROM {raw} ORDER BY c LIMIT 50)")
            assert gone == 50 < there
            client.execute(
                f"ALTER TABLE {raw} DELETE WHERE c IN (SELECT c FROM {raw} ORDER BY c LIMIT 50) "
                "SETTINGS mutations_sync = 1, allow_nondeterministic_mutations = 1"
            )
            client.execute(
                f"INSERT INTO {raw} (c, t, opd, id, ingested_at) SELECT concat('slip', toString(number)), 1, "
                f"fromUnixTimestamp64Milli(toInt64({hours(1, 2).start_ms}) + number), 'too early', now64(3) "
                "FROM numbers(50)"
            )

    result = world.publish(hours(0, 1), on_stage=after_attach_clean(as_many_others))

    clean = world.clean()
    assert len(clean) == 360 + 260
    assert {row[3] for row in clean} == {"old"}
    assert sum(shard.rows_before for shard in result.shards) == 360
    assert both(world, "Drop")[0] >= 1
    # The first publish took the parts; the second one had them, gave them back and read the rows.
    assert both(world, "Insert") == [1, 1]
    assert world.leftovers() == []


def test_parts_that_clickhouse_refuses_are_read_instead(world: World) -> None:
    raw_only(world, "ALTER TABLE {raw} ADD INDEX by_id id TYPE set(100)")
    world.load(rows(500))

    world.publish(distinct=500)

    assert world.clean() == sorted(rows(500))
    assert both(world, "Insert") == [1, 1]


def test_a_raw_of_other_defaults_is_read(world: World) -> None:
    raw_only(
        world, "ALTER TABLE {raw} MODIFY COLUMN ingested_at DateTime64(3, 'UTC') DEFAULT toDateTime64(0, 3, 'UTC')"
    )
    world.load(rows(500))

    world.publish(distinct=500)

    assert world.clean() == sorted(rows(500))
    assert both(world, "Insert") == [1, 1]


def test_a_shard_without_new_rows_keeps_its_part_and_gets_no_statement_that_writes(world: World) -> None:
    world.load(rows(1000))
    world.publish(distinct=1000)
    before = [clean_parts(world, shard) for shard in range(2)]
    wrote = [sum(both(world, kind)[shard] for kind in ("Create", "Alter", "Insert", "Optimize")) for shard in range(2)]
    world.load([("one key", 1, DAY.end_ms - 500, "new", None)])

    result = world.publish(hours(23, 24), distinct=1)

    (skipped,) = [shard.shard - 1 for shard in result.shards if shard.skipped]
    assert clean_parts(world, skipped) == before[skipped]
    assert clean_parts(world, 1 - skipped) != before[1 - skipped]
    now = [sum(both(world, kind)[shard] for kind in ("Create", "Alter", "Insert", "Optimize")) for shard in range(2)]
    assert now[skipped] == wrote[skipped]
    assert now[1 - skipped] > wrote[1 - skipped]


def test_a_partition_that_is_not_published_keeps_its_part(world: World) -> None:
    yesterday: list[Row] = [("other day", 1, DAY.start_ms - 1000, "old", None)]
    world.load(yesterday)
    for client in world.shards:
        client.execute(
            f"INSERT INTO {world.config.clean_table} SELECT * FROM {world.config.database}.codes_raw "
            f"WHERE toYYYYMMDD(opd) <> {PARTITION}"
        )
    before = parts_of_other_days(world)
    assert sum(len(parts) for parts in before) == 1
    world.load(rows(100))

    world.publish(distinct=100)

    assert parts_of_other_days(world) == before
    assert world.clean() == sorted(yesterday + rows(100))


def bounded(world: World, **bounds: int) -> ClickHouseTarget:
    return ClickHouseTarget(dataclasses.replace(world.config, **bounds))


def test_the_statements_of_a_publish_carry_its_bounds(world: World) -> None:
    world.load(rows(720))
    target = bounded(world, publish_max_threads=1, publish_max_memory_bytes=512_000_000)
    world.publish(hours(0, 1), distinct=360, target=target)
    target.close()

    for shard in range(2):
        (insert,) = statements(world, shard, "Insert")
        (optimize,) = statements(world, shard, "Optimize")
        for settings in (insert, optimize):
            assert (settings["max_threads"], settings["max_memory_usage"]) == ("1", "512000000")
        # A thirty-second part of the memory for a block.
        assert insert["min_insert_block_size_bytes"] == "16000000"
        counts = [each for each in statements(world, shard, "Select") if each.get("optimize_aggregation_in_order")]
        assert counts
        assert {(each["max_threads"], each["max_memory_usage"]) for each in counts} == {("1", "512000000")}


def test_without_bounds_of_ours_the_server_s_hold_and_blocks_stay_small(world: World) -> None:
    ((threads,),) = world.shards[0].execute("SELECT value FROM system.settings WHERE name = 'max_threads'")
    world.load(rows(720))
    world.publish(hours(0, 1), distinct=360)
    (insert,) = statements(world, 0, "Insert")
    assert insert.get("max_threads", threads) == threads
    assert insert["min_insert_block_size_bytes"] == "64000000"


def test_a_publish_that_hits_its_memory_bound_says_so_and_loses_nothing(world: World) -> None:
    world.load(rows(100))
    world.publish(hours(0, 1), distinct=100)
    before = [clean_parts(world, shard) for shard in range(2)]
    raw_only(
        world,
        f"INSERT INTO {{raw}} (c, t, opd, id, ag, ingested_at) SELECT concat('wide', toString(number)), 1, "
        f"fromUnixTimestamp64Milli(toInt64({DAY.start_ms}) + number), 'wide', randomPrintableASCII(1500), now64(3) "
        f"FROM numbers({MANY})",
    )
    # A row of another window, so that the rows are read and not taken as parts.
    world.load([("beside", n, hours(5, 6).start_ms, None, None) for n in range(50)])
    world.load([(f"beside {n}", 1, hours(5, 6).start_ms, None, None) for n in range(50)])
    little = bounded(world, publish_max_memory_bytes=LITTLE_BYTES, publish_max_threads=1)

    with pytest.raises(ResourceExhausted, match=r"MEMORY_LIMIT_EXCEEDED \(241\)"):
        world.publish(hours(0, 1), distinct=100 + MANY, target=little)
    little.close()

    assert [clean_parts(world, shard) for shard in range(2)] == before
    assert world.clean() == sorted(rows(100))
    assert world.leftovers() == []
    # The same work with a bound that it can do with: its blocks are made to fit.
    enough = bounded(world, publish_max_memory_bytes=600_000_000, publish_max_threads=1)
    world.publish(hours(0, 1), distinct=100 + MANY, target=enough)
    enough.close()
    assert world.everywhere(f"SELECT count() FROM {world.config.clean_table} WHERE id = 'wide'") == [MANY, MANY]
    assert len(world.clean()) == 100 + 2 * MANY


def test_every_setting_that_a_publish_sends_is_known_to_the_server(world: World) -> None:
    connection = Connection(world.config, world.config.hosts[0])
    try:
        sent: dict[str, Any] = {"max_threads": 1, "max_memory_usage": 10**9, "min_insert_block_size_bytes": 10**6}
        assert connection.execute("SELECT getSetting('min_insert_block_size_bytes')", tag="test", settings=sent) == [
            (10**6,)
        ]
    finally:
        connection.close()
