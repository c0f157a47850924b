"""A short spell of random faults; ``make chaos`` is the long one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.chaos.harness import Chaos

SECONDS = 45.0
SEED = int(os.environ.get("CHAOS_SEED", "20261125"))


@pytest.mark.timeout(900)
def test_random_faults_for_a_while_break_no_promise(stack: Stack, tmp_path: Path) -> None:
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    chaos = Chaos(stack, tmp_path, SEED, print)

    report = chaos.run(SECONDS)

    assert report.good, f"seed {SEED}: {report}\n{chaos.deployment.worker_logs(200)}"
    assert report.runs["ok"] >= 1, f"no run ended well under fire, so nothing of it was shown: {report}"
    assert sum(report.runs.values()) >= 2, report
    assert report.slices >= 2 * 60, "each run is of at least 60 slices"
    assert report.compared_rows > 1000, report
    assert sum(report.faults.values()) >= 8, "too few faults to show anything"
    assert report.looks > 100, report
