"""A rebuild against two real ClickHouse nodes: CLEAN from RAW alone, and what it must not take."""

from __future__ import annotations

import pytest

from etl_tasks.errors import TerminalError
from tests.integration.test_publish import DAY, PARTITION, World, hours, rows, world

__all__ = ["world"]


def test_rows_that_raw_does_not_have_go_and_changed_ones_are_mended(world: World) -> None:
    world.load(rows(400))
    world.publish(distinct=400)
    clean = world.config.clean_table
    for client in world.shards:
        client.execute(f"ALTER TABLE {clean} UPDATE id = 'bad' WHERE 1 SETTINGS mutations_sync = 2")
        client.execute(f"INSERT INTO {clean} (c, t, opd) SELECT 'foreign' || c, t, opd FROM {clean}")

    result = world.publish(windows=[], rebuild=True, least_rows=400, lost=[hours(0, 1 + 1 / 6)])

    assert world.clean() == sorted(rows(400))
    assert sum(shard.rows_before for shard in result.shards) == 800
    assert world.leftovers() == []


def test_fewer_rows_than_agreed_leave_clean_alone(world: World) -> None:
    world.load(rows(400))
    world.publish(distinct=400)
    for client in world.shards:
        raw = f"{world.config.database}.codes_raw"
        client.execute(f"ALTER TABLE {raw} DELETE WHERE c = '010460''%7' SETTINGS mutations_sync = 2")

    with pytest.raises(TerminalError, match=f"RAW has 399 keys of {PARTITION} by now, and had 400"):
        world.publish(windows=[], rebuild=True, least_rows=400)

    assert world.clean() == sorted(rows(400))
    assert world.leftovers() == []
    world.publish(windows=[], rebuild=True, least_rows=399, lost=[hours(0, 1 / 6)])
    assert len(world.clean()) == 399


def test_what_one_hour_has_gained_does_not_hide_what_another_has_lost(world: World) -> None:
    """RAW forgot ten rows of the first ten minutes and got as many of another hour since the rebuild was asked for."""
    world.load(rows(400))
    world.publish(distinct=400)
    for client in world.shards:
        raw = f"{world.config.database}.codes_raw"
        forgotten = f"opd < fromUnixTimestamp64Milli({DAY.start_ms + 100_000})"
        client.execute(f"ALTER TABLE {raw} DELETE WHERE {forgotten} SETTINGS mutations_sync = 2")
    world.load(rows(10, first=3600))
    asked = {"windows": [], "rebuild": True, "least_rows": 400}

    for agreed in ([], [hours(10, 11)], [hours(1 / 6, 1)]):
        with pytest.raises(TerminalError, match=r"fewer keys .* than CLEAN has rows in 1 windows \(first .*T00:00:00Z"):
            world.publish(lost=agreed, **asked)
        assert world.clean() == sorted(rows(400))
        assert world.leftovers() == []

    world.publish(lost=[hours(0, 1 / 6)], **asked)
    assert world.clean() == sorted(rows(390, first=10) + rows(10, first=3600))


def test_a_shard_that_a_rebuild_would_have_to_empty_is_named_and_nothing_changes(world: World) -> None:
    """A REPLACE of nothing is refused; half a rebuild would leave that shard's rows."""
    one_shard = [("same", n % 200, DAY.start_ms + n * 1000, "x", None) for n in range(500)]
    world.load(one_shard)
    world.publish(distinct=500)
    (empty,) = [
        n for n, rows_ in enumerate(world.everywhere(f"SELECT count() FROM {world.config.clean_table}")) if not rows_
    ]
    there = world.shards[empty]
    there.execute(f"INSERT INTO {world.config.clean_table} (c, t, opd) VALUES", [("foreign", 1, DAY.start)])

    with pytest.raises(TerminalError, match=f"CLEAN has 1 rows of {PARTITION} on .* and RAW none.*DROP PARTITION"):
        world.publish(windows=[], rebuild=True)

    assert len(world.clean()) == 501
    there.execute(f"ALTER TABLE {world.config.clean_table} DROP PARTITION {PARTITION}")
    world.publish(windows=[], rebuild=True)
    assert world.clean() == sorted(one_shard)
