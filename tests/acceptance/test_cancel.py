"""``cancel`` among real workers: slices held amid their read, publishes before and after their first REPLACE."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, midnight, ms
from devstack.failpoints import Failpoints
from devstack.oracle import Rows

Deploy = Callable[..., Deployment]
SINCE = midnight(1)
SLICE = timedelta(minutes=30)
MIDDLE, UNTIL = SINCE + 16 * SLICE, SINCE + 24 * SLICE
PARTITION = int(f"{SINCE:%Y%m%d}")
SPEC = DatasetSpec(rows=2400, days=1, seed=17, until_ms=ms(midnight(0)))
SETTINGS = {"PHX_INITIAL_SLICE_MIN": "30", "PHX_QUERY_OVERLAP_MINUTES": "0", "LEASE_S": "12"}
PATIENCE_S = 180.0


@pytest.fixture
def deployment(deploy: Deploy) -> Iterator[Deployment]:
    """A day with rows, none of which is loaded; no worker runs."""
    made = deploy("cancel", **SETTINGS)
    made.failpoints = Failpoints(made.scratch / "failpoints")
    made.seed(Rows(SPEC))
    yield made
    made.failpoints.clear()


def publish_row(deployment: Deployment) -> Any:
    (row,) = deployment.journal("SELECT * FROM {j}_partitions WHERE partition = %s", PARTITION)
    return row


def test_slices_in_hand_stop_others_go_on_and_resume_loads_the_rest(deployment: Deployment) -> None:
    assert deployment.failpoints is not None
    run_id = deployment.plan(SINCE, MIDDLE, manual=False)
    slices = deployment.slices(run_id)
    held = [deployment.failpoints.arm("slice.frame_read", "hold", slice=slices[at].id) for at in (4, 5)]
    deployment.start_worker(concurrency=2)
    for each in held:
        each.wait(timeout_s=PATIENCE_S)
    other = deployment.plan(MIDDLE, UNTIL)

    said = deployment.cli("cancel", str(run_id), "--reason", "the wrong day")

    assert f"run {run_id} of codes_cancel is cancelled: 4 slices loaded, which stay, 12 not loaded" in said.stdout
    assert "2 slices are being read by a worker, which stops within 3 s" in said.stdout
    assert f"to load the rest: python -m etl_tasks resume {run_id}" in said.stdout
    run = deployment.wait_for_run(run_id, timeout_s=1)
    assert run.status == "error"
    assert re.fullmatch(r"cancelled by \S+@\S+: the wrong day", run.details["error"])
    assert run.watermark == slices[4].window_from, "up to the earliest hole"
    # Both children were held, and nobody lets them go: they notice, and take what the other run wants.
    assert deployment.wait_for_run(other, PATIENCE_S).status == "ok", deployment.describe()
    deployment.until(lambda: deployment.worker_logs(1000).count("slice_lost") >= 2, "both notice", PATIENCE_S)
    states = [(each.state, each.error_kind) for each in deployment.slices(run_id)]
    assert states == [("done", None)] * 4 + [("error", "RunEnded")] * 12
    # What it had loaded is in CLEAN, exactly, and nothing of what it had not.
    deployment.until(lambda: publish_row(deployment).publish_state == "idle", "all is published", PATIENCE_S)
    deployment.assert_exact(SINCE, slices[4].window_from)
    assert deployment.rows(deployment.clean_all, slices[4].window_from, MIDDLE) == []
    deployment.assert_exact(MIDDLE, UNTIL)
    for id_, message in ((run_id, "has ended already (error)"), (999999, "the journal has no run 999999")):
        assert message in deployment.cli("cancel", str(id_), expect=2).stderr
    publish = publish_row(deployment).publish_run_id
    assert "is a publish, which is not cancelled" in deployment.cli("cancel", str(publish), expect=2).stderr

    said = deployment.cli("resume", str(run_id))

    assert re.search(r"ok: .* 12 slices, 0 splits, 1 of 1 partition published", said.stdout), said.stdout
    deployment.assert_exact(SINCE, UNTIL)


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("publish.before_replace", {}),
        # On the first shard CLEAN is new already.
        ("publish.stage", {"stage": "replace_clean", "when": "before", "shard": 2}),
    ],
)
def test_a_publish_under_way_goes_on_to_its_end(deployment: Deployment, place: str, where: dict[str, Any]) -> None:
    assert deployment.failpoints is not None
    held = deployment.failpoints.arm(place, "hold", **where)
    run_id = deployment.plan(SINCE, MIDDLE)
    deployment.start_worker(concurrency=2)
    token = held.wait(timeout_s=PATIENCE_S)["token"]
    if where:
        deployment.until(lambda: deployment.query(f"SELECT 1 FROM {deployment.settings['CH_CLEAN_TABLE']}"), "REPLACE")

    said = deployment.cli("cancel", str(run_id))

    assert f"the publish of {PARTITION} is under way and goes on to its end" in said.stdout
    assert "it had loaded all of its windows: nothing is left to resume" in said.stdout
    held.release()
    deployment.until(lambda: publish_row(deployment).publish_state == "idle", "it has ended", PATIENCE_S)
    (publish,) = deployment.journal("SELECT * FROM {j} WHERE process_name LIKE '%:dedup'")
    assert (publish.status, str(publish.details["token"])) == ("ok", token), "the same, not another one"
    deployment.assert_exact(SINCE, MIDDLE)
    assert deployment.wait_for_run(run_id, timeout_s=1).status == "error"
    assert "nothing to resume" in deployment.cli("resume", str(run_id), expect=2).stderr
    assert deployment.cli("gaps").stdout.splitlines()[-1] == "gaps: none"
