"""Redis there and not to be heard: silent connections, forgotten ones, a worker gone deaf and replaced."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.relay import Relay
from devstack.supervisor import Supervisor
from devstack.worker import worker_command
from tests.faults.world import SLICES, World

# The worker as it is, with less patience; and the first of them may get stuck: whatever blocks its main, no socket and
# no signal brings it back.
WORKER = """\
import sys
import time
from pathlib import Path

import etl_tasks.main_loop as main_loop
from celery import signals
from etl_tasks.celery import app

main_loop.DEAF_AFTER_S = 3.0
main_loop.EXIT_GRACE_S = 3.0
stuck = Path(sys.argv[1])


@signals.worker_ready.connect
def get_stuck(sender, **_):
    if stuck.parent.exists() and not stuck.exists():
        stuck.touch()
        sender.hub.call_later(0.5, time.sleep, 1e6)


app.worker_main(sys.argv[2:])
"""


@pytest.fixture
def relay(world: World) -> Iterator[Relay]:
    """Between the workers and Redis."""
    with Relay(world.stack.config.port("redis")) as relay:
        yield relay


@pytest.mark.parametrize(("silent_s", "end"), [(35, "restored"), (5, "cut")])
def test_connections_gone_silent_with_messages_under_way(world: World, relay: Relay, silent_s: float, end: str) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan()
    with world.deployment.supervise(workers=1, **through(world, relay)):
        held.wait(times=2)
        relay.silence()
        held.release()
        # Its rows and its row of the journal do not need Redis; what comes after does, and waits for a time-out.
        world.deployment.until(lambda: len(done(world, run_id)) == 2, "what was taken is loaded")
        time.sleep(silent_s)
        assert len(done(world, run_id)) == 2, "a worker was told more by a silent Redis"
        if end == "cut":
            relay.cut()
        relay.restore()

        slices = world.assert_exact(run_id, timeout_s=90)

    assert [one.spent for one in slices] == [1] * SLICES


def test_a_worker_whose_connection_is_forgotten_is_noticed_and_replaced(world: World, relay: Relay) -> None:
    with impatient(world, world.deployment.scratch / "nobody" / "stuck", **through(world, relay)) as supervisor:
        world.deployment.until(lambda: "ready." in world.deployment.worker_logs(), "the worker is ready")
        deaf = supervisor.pid("worker_s1")
        time.sleep(2)  # (its poll is under way)
        relay.forget()
        run_id = world.plan()

        assert supervisor.wait_restarted("worker_s1", deaf, timeout_s=60) != deaf
        world.assert_exact(run_id)

    # By itself or by force: its goodbye to Redis goes over the connection that nobody serves any more.
    assert "worker_deaf " in world.deployment.worker_logs(2000)


def test_a_deaf_worker_that_cannot_even_end_is_ended_by_force(world: World) -> None:
    stuck = world.deployment.scratch / "stuck"
    with impatient(world, stuck) as supervisor:
        world.deployment.until(stuck.exists, "the worker is about to get stuck")
        deaf = supervisor.pid("worker_s1")
        assert deaf is not None
        time.sleep(1)
        run_id = world.plan()

        assert supervisor.wait_restarted("worker_s1", deaf, timeout_s=60) != deaf
        world.assert_exact(run_id)

    assert "worker_deaf_and_stuck" in world.deployment.worker_logs(2000)
    with pytest.raises(ProcessLookupError):
        os.killpg(deaf, 0)  # its children went with it


def through(world: World, relay: Relay) -> dict[str, str]:
    """Redis by way of the relay."""
    here = f":{world.stack.config.port('redis')}/"
    url = world.deployment.settings["REDIS_URL"]
    assert here in url
    return {"REDIS_URL": url.replace(here, f":{relay.port}/")}


def impatient(world: World, stuck: Path, **settings: str) -> Supervisor:
    """A supervised worker that calls itself deaf after seconds; the first one gets stuck if ``stuck`` can be made."""
    deployment = world.deployment
    script = deployment.scratch / "impatient.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script), str(stuck), *worker_command("worker_s1")[5:]]
    return Supervisor({"worker_s1": command}, {**deployment.process_env, **settings}, deployment.scratch)


def done(world: World, run_id: int) -> list[int]:
    """Slices that are loaded."""
    return [one.id for one in world.deployment.slices(run_id) if one.state == "done"]
