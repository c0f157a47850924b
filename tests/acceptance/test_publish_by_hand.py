"""``publish`` among real workers: what is owed, what is in error, and a CLEAN that is not to be trusted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, midnight, ms
from devstack.oracle import Rows

Deploy = Callable[..., Deployment]
SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=6)
MIDDLE = SINCE + timedelta(hours=2)
DAY = f"{SINCE:%Y%m%d}"
SPEC = DatasetSpec(rows=2400, days=1, seed=23, until_ms=ms(midnight(0)))
SETTINGS = {"PHX_INITIAL_SLICE_MIN": "60", "PHX_QUERY_OVERLAP_MINUTES": "0"}


def publish_row(deployment: Deployment) -> Any:
    (row,) = deployment.journal("SELECT * FROM {j}_partitions WHERE partition = %s", int(DAY))
    return row


def clean_rows(deployment: Deployment) -> int:
    return len(deployment.rows(deployment.clean_all, SINCE, UNTIL))


def gaps(deployment: Deployment, expect: int) -> Any:
    return json.loads(deployment.cli("gaps", "--json", expect=expect).stdout)


def fill(deployment: Deployment, found: Any) -> None:
    """Do as ``gaps`` says."""
    for gap in found["not_loaded"]:
        words = shlex.split(gap["command"])
        assert words[:3] == ["python", "-m", "etl_tasks"]
        deployment.cli(*words[3:])


def forget_in_raw(deployment: Deployment, until: datetime) -> None:
    """RAW as it is when its TTL has passed for what is before ``until``."""
    raw = f"{deployment.settings['CH_DB']}.codes_raw"
    deployment.each_shard(
        f"ALTER TABLE {raw} DELETE WHERE opd < fromUnixTimestamp64Milli({ms(until)}) SETTINGS mutations_sync = 2"
    )


def test_what_is_owed_and_what_is_in_error_is_published_by_hand(deploy: Deploy) -> None:
    deployment = deploy("byhand", **SETTINGS, ALWAYS_PUBLISH_AT_END="0", PUBLISH_EVERY_MINUTES="600")
    deployment.seed(Rows(SPEC))
    deployment.start_worker()
    assert deployment.wait_for_run(deployment.plan(SINCE, MIDDLE)).status == "ok"
    assert clean_rows(deployment) == 0
    # The cadence is to publish it ten hours from now, so it is no gap; by hand it is published at once.
    assert gaps(deployment, expect=0)["not_loaded"] == []

    said = deployment.cli("publish", "--partition", DAY).stdout

    rows = len(deployment.expected(SINCE, MIDDLE))
    assert re.search(rf"^{DAY}  insert_dedup +[\d,]+ ms$", said, re.M), said
    assert re.search(rf"^{DAY}  published: {rows} rows in CLEAN, [\d.]+ s$", said, re.M), said
    deployment.assert_exact(SINCE, MIDDLE)
    assert gaps(deployment, expect=0)["gaps"] is False
    assert "nothing to publish: all that is loaded is published" in deployment.cli("publish", "--partition", DAY).stdout

    assert deployment.wait_for_run(deployment.plan(MIDDLE, UNTIL)).status == "ok"
    buffer = deployment.settings["CH_DEDUP_BUF_TABLE"]
    deployment.each_shard(f"RENAME TABLE {buffer} TO {buffer}_away")
    refused = deployment.cli("publish", "--partition", DAY, expect=1)
    assert f"{DAY}  NOT PUBLISHED: SchemaError" in refused.stderr
    assert publish_row(deployment).publish_state == "error"
    assert "SchemaError" in deployment.cli("gaps", expect=1).stdout
    deployment.each_shard(f"RENAME TABLE {buffer}_away TO {buffer}")
    # Nobody tries again by himself.
    deployment.cli("publish", "--partition", DAY, "--no-wait")
    deployment.until(lambda: publish_row(deployment).publish_state == "idle", "it is published", 120)
    deployment.assert_exact(SINCE, UNTIL)

    for day, message in (
        ("20251301", "no UTC day"),
        ("2025-11-24", "no UTC day"),
        ("20200101", "nothing was ever loaded into partition 20200101"),
    ):
        assert message in deployment.cli("publish", "--partition", day, expect=2).stderr
    assert "--yes is for --rebuild" in deployment.cli("publish", "--partition", DAY, "--yes", expect=2).stderr


def test_a_clean_that_is_not_to_be_trusted_is_made_anew_from_raw(deploy: Deploy) -> None:
    deployment = deploy("rebuild", **SETTINGS)
    deployment.seed(Rows(SPEC))
    deployment.start_worker()
    assert deployment.wait_for_run(deployment.plan(SINCE, UNTIL)).status == "ok"
    rows = deployment.assert_exact(SINCE, UNTIL)
    clean = deployment.settings["CH_CLEAN_TABLE"]
    deployment.each_shard(f"ALTER TABLE {clean} UPDATE pn = 'corrupt' WHERE t < 200 SETTINGS mutations_sync = 2")
    assert deployment.clean_difference(SINCE, UNTIL).differing > rows // 2
    # Published again as ever it keeps what CLEAN has; of RAW alone it is right. Nothing goes, so nothing is asked.
    assert "nothing to publish" in deployment.cli("publish", "--partition", DAY).stdout
    said = deployment.cli("publish", "--partition", DAY, "--rebuild").stdout
    assert f"published: {rows} rows in CLEAN" in said
    deployment.assert_exact(SINCE, UNTIL)

    # Rows of nobody's, in the first hour: whose they are only the source knows.
    deployment.each_shard(
        f"INSERT INTO {clean} (c, t, opd) SELECT 'nobody' || c, t, opd FROM {clean} "
        f"WHERE opd < fromUnixTimestamp64Milli({ms(SINCE + timedelta(hours=1))})"
    )
    foreign = clean_rows(deployment) - rows
    assert foreign == len(deployment.expected(SINCE, SINCE + timedelta(hours=1)))
    refused = deployment.cli("publish", "--partition", DAY, "--rebuild", expect=2)
    assert f"would take {foreign} rows from CLEAN that RAW does not have" in refused.stderr
    assert f"CLEAN has {rows + foreign:,} rows, RAW {rows:,} keys" in refused.stdout
    assert clean_rows(deployment) == rows + foreign
    deployment.cli("publish", "--partition", DAY, "--rebuild", "--yes")
    deployment.assert_exact(SINCE, UNTIL)
    # It may have been RAW that had forgotten: until that is loaded again nobody says that it is there.
    found = gaps(deployment, expect=1)
    assert 3600 - 600 <= found["not_loaded_s"] <= 3600
    fill(deployment, found)
    assert gaps(deployment, expect=0)["gaps"] is False
    deployment.assert_exact(SINCE, UNTIL)


def test_a_rebuild_never_loses_in_silence_what_raw_has_forgotten(deploy: Deploy) -> None:
    deployment = deploy("forgot", **SETTINGS)
    deployment.seed(Rows(SPEC))
    worker = deployment.start_worker()
    assert deployment.wait_for_run(deployment.plan(SINCE, UNTIL)).status == "ok"
    rows = deployment.assert_exact(SINCE, UNTIL)
    lost, kept = len(deployment.expected(SINCE, MIDDLE)), len(deployment.expected(MIDDLE, UNTIL))

    # Asked for while RAW has all, and done when it has not: CLEAN stays.
    worker.stop()
    deployment.workers.clear()
    said = deployment.cli("publish", "--partition", DAY, "--rebuild", "--no-wait").stdout
    assert f"{DAY}  its publish is due now" in said
    forget_in_raw(deployment, MIDDLE)
    deployment.start_worker()
    deployment.until(lambda: not publish_row(deployment).rebuild, "it is refused", 120)
    row = publish_row(deployment)
    assert row.publish_state == "idle", "nothing else is owed"
    assert gaps(deployment, expect=0)["gaps"] is False
    assert f"RAW has {kept} keys of {DAY} by now, and had {rows} when" in row.last_error
    assert row.rebuild_least_rows is None, "a rebuild is asked for once, not for good"
    deployment.assert_exact(SINCE, UNTIL)

    refused = deployment.cli("publish", "--partition", DAY, "--rebuild", expect=2)
    assert f"would take {lost} rows from CLEAN that RAW does not have" in refused.stderr
    deployment.assert_exact(SINCE, UNTIL)

    said = deployment.cli("publish", "--partition", DAY, "--rebuild", "--yes").stdout
    assert f"published: {kept} rows in CLEAN" in said
    assert deployment.rows(deployment.clean_all, SINCE, MIDDLE) == []
    found = gaps(deployment, expect=1)
    assert 2 * 3600 - 600 <= found["not_loaded_s"] <= 2 * 3600
    fill(deployment, found)
    assert deployment.assert_exact(SINCE, UNTIL) == rows

    forget_in_raw(deployment, midnight(0))
    refused = deployment.cli("publish", "--partition", DAY, "--rebuild", "--yes", expect=2)
    assert f"RAW has no rows of {DAY}: a rebuild would leave nothing" in refused.stderr
    deployment.assert_exact(SINCE, UNTIL)
