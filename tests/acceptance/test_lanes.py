"""Two lanes, two planners, and the commands of Celery as the README names them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, iso, midnight, ms
from devstack.oracle import Change, Rows

Deploy = Callable[..., Deployment]


def test_a_publish_while_the_other_lane_loads_the_same_day(deploy: Deploy) -> None:
    since, until = midnight(1), midnight(0)
    deployment = deploy("lanes", PHX_INITIAL_SLICE_MIN="30", PUBLISH_EVERY_SLICES="6", PHX_QUERY_OVERLAP_MINUTES="0")
    spec = DatasetSpec(rows=1500, days=1, seed=71, until_ms=ms(until))
    deployment.seed(Rows(spec))
    deployment.start_worker(concurrency=3)
    for manual in (False, True):
        deployment.celery(
            "call",
            "etl_tasks.plan_interval",
            "--kwargs",
            json.dumps({"since": iso(since), "until": iso(until), "manual": manual}),
        )
    scheduled = deployment.wait_for_new_run(0)
    manual_run = deployment.wait_for_new_run(scheduled)
    deployment.seed(Change(spec, rows=100, since_ms=ms(since), until_ms=ms(until), version=3))
    ended = [deployment.wait_for_run(run_id) for run_id in (scheduled, manual_run)]

    assert [run.status for run in ended] == ["ok", "ok"]
    assert {run.process_name for run in ended} == {"codes_lanes", "manual_codes_lanes"}
    overlapping = deployment.journal(
        "SELECT count(*) AS n FROM {j}_slices a JOIN {j}_slices b ON a.run_id < b.run_id AND a.partition = b.partition "
        "AND a.window_from < b.window_to AND b.window_from < a.window_to "
        "AND a.started_at < b.finished_at AND b.started_at < a.finished_at"
    )[0].n
    assert overlapping == 0, "no two lanes read an overlapping window at the same time"
    publishes = deployment.journal(
        "SELECT ts_start, ts_end FROM {j} WHERE process_name LIKE '%:dedup' ORDER BY ts_start"
    )
    assert len(publishes) >= 2
    assert all(a.ts_end <= b.ts_start for a, b in pairwise(publishes)), "one publish at a time"
    # The change was made while both read: a third run brings what neither saw.
    deployment.cli("run", "--manual", "--since", iso(since), "--until", iso(until))
    assert deployment.assert_exact(since, until) == 1500


def test_two_planners_at_once_make_one_run_and_one_skipped(deploy: Deploy) -> None:
    since, until = midnight(1), midnight(1) + timedelta(hours=2)
    deployment = deploy("planners", PHX_INITIAL_SLICE_MIN="60")
    planners = [
        subprocess.Popen(
            [sys.executable, "-m", "etl_tasks", "run", "--since", iso(since), "--until", iso(until)],
            cwd=ROOT,
            env=deployment.process_env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    deployment.wait_for_new_run(deployment.wait_for_new_run(0))
    deployment.start_worker()
    outputs = [planner.communicate(timeout=120)[0] for planner in planners]

    codes = sorted(planner.returncode for planner in planners)
    assert codes == [0, 1], outputs
    assert sorted(run.status for run in deployment.runs()) == ["ok", "skipped"]
    loser = outputs[[planner.returncode for planner in planners].index(1)]
    assert "active run" in loser
    assert len({s.run_id for s in deployment.journal("SELECT run_id FROM {j}_slices")}) == 1


def test_beat_plans_and_flower_watches(deploy: Deploy) -> None:
    deployment = deploy("beat", STEP_MIN="1", FLOWER_BASIC_AUTH="watch:over")
    deployment.seed(Rows(DatasetSpec(rows=100, days=1, seed=73, until_ms=ms(midnight(0)))))
    deployment.start_worker()
    since = midnight(1)
    deployment.cli("run", "--since", iso(since), "--until", iso(since + timedelta(hours=1)))
    before = deployment.runs()[-1].id
    port = 25555
    processes = []
    try:
        for arguments in (
            ("beat", "--schedule", str(deployment.scratch / "beat-schedule")),
            ("flower", f"--port={port}"),
        ):
            with (deployment.scratch / f"{arguments[0]}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "celery", "-A", "etl_tasks", *arguments],
                        cwd=ROOT,
                        env=deployment.process_env,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        run = deployment.wait_for_run(deployment.wait_for_new_run(before, timeout_s=100))
        assert run.status == "ok"
        assert run.details["from_watermark"] is True
        url = f"http://127.0.0.1:{port}/api/workers?refresh=1"
        assert "worker0" in _get(url, "watch:over")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=10)
        listening = {
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"
        }
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening, "Flower is for this machine unless told otherwise"
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait(20)


def _get(url: str, user_and_password: str, patience_s: float = 40) -> str:
    import base64

    token = base64.b64encode(user_and_password.encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                text: str = response.read().decode()
                if "worker" in text or time.monotonic() > deadline:
                    return text
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)
