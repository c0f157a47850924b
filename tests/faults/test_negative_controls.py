"""Each scenario is green on the product and red on one without the safeguard: so the tests of faults can fail.

The third, one shared buffer for all publishes, is in ``test_two_publishers``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.test_killed import alive
from tests.faults.world import LEASE_S, World

SOUND = ("celery", "-A", "etl_tasks")
UNFENCED = ("tests.faults.sabotage", "unfenced-finish")


def messages_are_lost(world: World, timeout_s: float, **settings: str) -> None:
    """Redis loses every message of a run that was planned and not begun."""
    run_id = world.plan()
    with world.broker() as client:
        client.flushdb()
    world.deployment.start_worker(**settings)
    world.assert_exact(run_id, timeout_s)


def a_finished_slice_is_finished_again(world: World, program: Sequence[str]) -> None:
    """A child is frozen with all rows of a slice in RAW; another one does the slice again and ends it; then the first
    goes on, while one slice of the run is still being loaded.
    """
    run_id = world.plan()
    frozen, late, *_ = [one.id for one in world.deployment.slices(run_id)]
    zombie = world.failpoints.arm("slice.inserted", "stop", slice=frozen)
    held = world.failpoints.arm("slice.frame_read", "hold", slice=late)
    world.deployment.start_worker(concurrency=1, program=program)
    pid = int(zombie.wait()["pid"])
    world.deployment.start_worker(concurrency=2, program=program)
    world.deployment.until(
        lambda: [one.id for one in world.deployment.slices(run_id) if one.state != "done"] == [late],
        "all but the held slice are loaded",
        timeout_s=LEASE_S + 60,
    )
    assert alive(pid)
    zombie.resume()
    world.deployment.until(lambda: ended_or_gave_up(world, frozen), "the woken one has ended its slice, or gave it up")
    if program == UNFENCED:
        # With the count of open slices at zero too soon, the run ends over what is still being loaded.
        world.deployment.wait_for_run(run_id)
    held.release()
    world.assert_exact(run_id)


def ended_or_gave_up(world: World, slice_id: int) -> bool:
    """Whether the log has the end of the slice's first attempt."""
    return any(
        f" slice={slice_id} " in line and " attempt=1 " in line and ("slice_done" in line or "slice_lost" in line)
        for line in world.deployment.worker_logs(400).splitlines()
    )


def test_with_the_sweeper_lost_messages_cost_time_only(world: World) -> None:
    messages_are_lost(world, timeout_s=60)


def test_without_the_sweeper_they_are_lost_for_good(world: World) -> None:
    with pytest.raises(AssertionError, match="has not ended"):
        messages_are_lost(world, timeout_s=15, SWEEP_EVERY_S="3600")
    # Not for want of time: the worker is there, and nobody has told it of anything.
    world.deployment.until(lambda: "ready." in world.deployment.worker_logs(), "the worker is ready")
    (run, *_) = [run for run in world.deployment.runs() if run.ts_end is None]
    assert {(one.state, one.attempt) for one in world.deployment.slices(run.id)} == {("planned", 0)}


def test_with_the_fence_a_slice_ends_once(world: World) -> None:
    a_finished_slice_is_finished_again(world, SOUND)


def test_without_the_fence_the_run_is_wrong(world: World) -> None:
    with pytest.raises(AssertionError, match=r"^Differences\(missing=[1-9]"):
        a_finished_slice_is_finished_again(world, UNFENCED)
    assert world.deployment.runs()[-1].status == "ok", "it claims to have done all"
