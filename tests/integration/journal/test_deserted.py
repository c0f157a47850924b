"""The publish lock of a process that is frozen is taken from it; that of one that lives is not."""

from __future__ import annotations

import time

import pytest

from etl_tasks.adapters.journal.deserted import evict_deserted_lock
from etl_tasks.errors import LostOwnership
from tests.integration.journal.world import CLEAN, World, hours

pytestmark = pytest.mark.integration

LEASE_S = 0.3


def evicted(world: World, lease_s: float = LEASE_S) -> bool:
    return evict_deserted_lock(world.another().database, CLEAN, lease_s)


def test_a_silent_holder_without_a_live_publish_loses_the_lock(world: World) -> None:
    with world.journal.publish_lock(CLEAN) as frozen:
        assert frozen.acquired
        assert not evicted(world, lease_s=60), "it has taken the lock just now, and is about to claim"
        time.sleep(LEASE_S + 0.1)
        assert evicted(world)
        with pytest.raises(LostOwnership):
            frozen.verify()
        with world.another().publish_lock(CLEAN) as next_one:
            assert next_one.acquired
            assert not evicted(world, lease_s=60)


def test_a_holder_with_a_live_publish_keeps_it_however_long_it_is_silent(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    with world.journal.publish_lock(CLEAN) as lock:
        claim = world.must_claim_publish()
        time.sleep(LEASE_S + 0.1)
        assert not evicted(world)
        lock.verify()
        world.rows(
            "UPDATE public.inc_processing_partitions SET lease_until = clock_timestamp() - interval '1 s' "
            "WHERE token = %s",
            claim.token,
        )
        time.sleep(LEASE_S + 0.1)
        assert evicted(world)


def test_other_tables_locks_are_left_alone(world: World) -> None:
    with world.journal.publish_lock("stg.other") as other:
        time.sleep(LEASE_S + 0.1)
        assert not evicted(world)
        other.verify()
