"""A publish that meets a newer token in ClickHouse than any this journal has given, or was overtaken after all."""

from __future__ import annotations

import pytest

from etl_tasks.errors import LostOwnership, NewerPublish
from tests.integration.journal.world import CLEAN, World, hours

pytestmark = pytest.mark.integration

MET = NewerPublish("a newer publish works on node1", 0)


def test_the_newest_publish_of_a_restored_journal_goes_past_the_token_it_met(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    claim = world.must_claim_publish()
    met = claim.token + 86_400_000

    world.journal.publishes.catch_up(claim, met, MET)

    row = world.partition_row()
    assert (row.publish_state, row.spent, row.error_kind) == ("due", 0, "NewerPublish")
    assert world.must_claim_publish().token == met + 1


def test_a_publish_that_was_overtaken_in_the_journal_changes_nothing(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    older = world.must_claim_publish()
    world.expire_leases()
    newer = world.must_claim_publish()

    with pytest.raises(LostOwnership):
        world.journal.publishes.catch_up(older, newer.token, MET)

    assert world.partition_row().publish_state == "running"
    assert world.journal.publishes.renew(newer, 60)


def test_a_newer_publish_of_another_partition_is_not_overruled(world: World) -> None:
    world.load_all(world.plan([hours(0, 1)]).run_id)
    older = world.must_claim_publish()
    newer_token = world.one(
        "UPDATE public.inc_processing_fences SET token = token + 7 WHERE clean_table = %s RETURNING token", CLEAN
    ).token

    with pytest.raises(LostOwnership):
        world.journal.publishes.catch_up(older, newer_token, MET)

    row = world.partition_row()
    assert (row.publish_state, row.token) == ("running", older.token)


def test_sessions_are_bounded_on_the_servers_side_too(world: World) -> None:
    sql = "SELECT current_setting('{}') AS set"
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives_idle", "TimeZone")
    with world.journal.database.transaction() as transaction:
        for name, value in zip(names, ("30s", "10s", "15", "UTC"), strict=True):
            transaction._cursor.execute(sql.format(name))
            assert transaction._cursor.fetchone().set == value, name
