"""Repeats within one block on their way through real ClickHouse: RAW keeps them, a publish shows one."""

from __future__ import annotations

from tests.integration.test_publish import DAY, World, world

__all__ = ["world"]


def test_a_block_is_stored_as_it_came_and_published_once_a_key(world: World) -> None:
    """The server would sort repeats out of each block, for half of what the whole insert costs it."""
    world.load([("same", 1, DAY.start_ms, "one", None), ("same", 1, DAY.start_ms, "other", None)])
    assert world.everywhere(f"SELECT count() FROM {world.config.raw_table}") == [2, 2], "each node sees all of it"

    world.publish(distinct=1)

    ((c, t, opd, id, exd),) = world.clean()
    assert (c, t, opd, exd) == ("same", 1, DAY.start_ms, None)
    assert id == "other", "of two rows of one version the one that came last"
