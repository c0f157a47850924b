"""Where publishes work: told to the successor of one that did not end well, for as long as it may still run."""

from __future__ import annotations

import dataclasses

import pytest

from etl_tasks.adapters.journal.pins import PublishPins
from etl_tasks.core.records import PublishClaim
from etl_tasks.errors import LostOwnership
from tests.integration.journal.world import CLEAN, World, hours

pytestmark = pytest.mark.integration


def claimed(world: World) -> PublishClaim:
    run_id = world.plan([hours(0, 1)]).run_id
    world.load_all(run_id)
    return world.must_claim_publish()


def test_a_publish_that_ends_well_leaves_no_pins(world: World) -> None:
    claim, pins = claimed(world), PublishPins(world.journal.database)
    assert pins.unfinished(claim) == []
    pins.pin(claim, ["ch1:9000", "ch2:9000"], 3600)
    assert pins.unfinished(claim) == ["ch1:9000", "ch2:9000"]
    world.journal.publishes.finish(claim, duration_ms=1, pinned=(), details={})
    assert pins.unfinished(claim) == []


def test_pins_outlive_failed_publishes_and_add_up(world: World) -> None:
    claim, pins = claimed(world), PublishPins(world.journal.database)
    pins.pin(claim, ["ch1:9000"], 3600)
    world.journal.publishes.give_back(claim, TimeoutError("hung"), delay_s=0, refund=False)
    again = world.must_claim_publish()
    assert pins.unfinished(again) == ["ch1:9000"]
    pins.pin(again, ["ch2:9000"], 3600)
    assert pins.unfinished(again) == ["ch1:9000", "ch2:9000"]


def test_a_pin_ends_with_the_hard_limit_of_its_publish(world: World) -> None:
    claim, pins = claimed(world), PublishPins(world.journal.database)
    pins.pin(claim, ["ch1:9000"], -5)
    assert pins.unfinished(claim) == []


def test_only_the_owner_pins(world: World) -> None:
    claim, pins = claimed(world), PublishPins(world.journal.database)
    with pytest.raises(LostOwnership, match=str(claim.partition)):
        pins.pin(dataclasses.replace(claim, token=claim.token - 1), ["ch1:9000"], 3600)
    assert pins.unfinished(claim) == []


def test_pins_of_the_list_form_are_none(world: World) -> None:
    """So it was written before there were moments in it, and so a publish that ends well leaves it."""
    claim, pins = claimed(world), PublishPins(world.journal.database)
    world.rows("UPDATE public.inc_processing_partitions SET pinned = '[\"ch1:9000\"]' WHERE clean_table = %s", CLEAN)
    assert pins.unfinished(claim) == []
    pins.pin(claim, [], 3600)
    assert pins.unfinished(claim) == []
