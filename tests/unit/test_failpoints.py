"""Failpoints do nothing until they are armed, and then once, for the ids they were armed for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devstack.deployment import ROOT
from devstack.failpoints import VARIABLE, Failpoints
from etl_tasks import failpoints as product
from etl_tasks.failpoints import Failpoint

COME_BY = (
    "import sys; from etl_tasks.failpoints import Failpoint, reach; "
    "[reach(Failpoint.SLICE_CLAIMED, slice=int(slice)) for slice in sys.argv[1:]]; print('passed')"
)


def come_by(directory: Path | None, *slices: int) -> subprocess.CompletedProcess[str]:
    """A process that comes by ``slice.claimed`` once for each slice."""
    env = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if directory is not None:
        env[VARIABLE] = str(directory)
    return subprocess.run(
        [sys.executable, "-c", COME_BY, *map(str, slices)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_test_and_the_product_mean_the_same_variable() -> None:
    assert product.VARIABLE == VARIABLE


def test_unarmed_failpoints_do_nothing(tmp_path: Path) -> None:
    assert come_by(None, 1).stdout == "passed\n"
    assert come_by(tmp_path, 1).stdout == "passed\n"


def test_a_kill_goes_off_once_and_for_its_ids_only(tmp_path: Path) -> None:
    armed = Failpoints(tmp_path).arm("slice.claimed", "kill", slice=2)
    assert come_by(tmp_path, 1, 3).stdout == "passed\n"
    assert armed.hits() == []
    assert come_by(tmp_path, 1, 2, 3).returncode == -9
    (hit,) = armed.hits()
    assert hit["slice"] == "2"
    assert come_by(tmp_path, 2).stdout == "passed\n"


def test_one_without_a_count_goes_off_every_time(tmp_path: Path) -> None:
    armed = Failpoints(tmp_path).arm("slice.claimed", "kill", times=None)
    assert [come_by(tmp_path, 1).returncode for _ in range(2)] == [-9, -9]
    assert len(armed.hits()) == 2
    armed.disarm()
    assert come_by(tmp_path, 1).returncode == 0


def test_a_held_thread_goes_on_when_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    armed = Failpoints(tmp_path).arm("slice.claimed", "hold")
    armed.release()
    monkeypatch.setattr(product, "_directory", str(tmp_path))
    product.reach(Failpoint.SLICE_CLAIMED, slice=1)
    assert [hit["pid"] for hit in armed.hits()] == [os.getpid()]


def test_a_hold_that_nobody_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Failpoints(tmp_path).arm("slice.claimed", "hold")
    monkeypatch.setattr(product, "_directory", str(tmp_path))
    monkeypatch.setattr(product, "HOLD_AT_MOST_S", 0.1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="a test has not made"):
        product.reach(Failpoint.SLICE_CLAIMED)
    assert time.monotonic() - began < 5


def test_an_unknown_action_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slice.claimed~1.json").write_text(json.dumps({"action": "explode"}))
    monkeypatch.setattr(product, "_directory", str(tmp_path))
    with pytest.raises(ValueError, match="explode"):
        product.reach(Failpoint.SLICE_CLAIMED)
