"""``reconcile`` and ``--repair`` on real services and workers: what differs and why, what mends it, what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, iso, midnight, ms
from devstack.oracle import CleanRow, Late, Rows

Deploy = Callable[..., Deployment]
SINCE = midnight(1)
LOADED = SINCE + timedelta(hours=6)
UNTIL = SINCE + timedelta(hours=7)
INTERVAL = ("--since", iso(SINCE), "--until", iso(UNTIL))
SPEC = DatasetSpec(rows=960, days=1, seed=5, until_ms=ms(midnight(0)))
HOURLY = {"PHX_INITIAL_SLICE_MIN": "60", "PHX_QUERY_OVERLAP_MINUTES": "0"}


def hour(number: int) -> tuple[datetime, datetime]:
    return SINCE + timedelta(hours=number), SINCE + timedelta(hours=number + 1)


def victims(deployment: Deployment, number: int, count: int) -> list[CleanRow]:
    """Rows of that hour, the first ones by time."""
    found = sorted(deployment.expected(*hour(number)), key=lambda row: (int(str(row[2])), str(row[0])))
    assert len(found) > count, "else this shows nothing"
    return found[:count]


def where(rows: Sequence[CleanRow]) -> str:
    keys = (
        f"(hex(c) = '{str(row[0]).encode().hex().upper()}' AND t = {row[1]} AND toUnixTimestamp64Milli(opd) = {row[2]})"
        for row in rows
    )
    return " OR ".join(keys)


def delete(deployment: Deployment, rows: Sequence[CleanRow]) -> None:
    """Behind the system's back, as somebody with a client might."""
    table = deployment.settings["CH_CLEAN_TABLE"]
    deployment.each_shard(f"ALTER TABLE {table} DELETE WHERE {where(rows)} SETTINGS mutations_sync = 2")


def change(deployment: Deployment, rows: Sequence[CleanRow]) -> None:
    table = deployment.settings["CH_CLEAN_TABLE"]
    deployment.each_shard(f"ALTER TABLE {table} UPDATE pn = 'x' WHERE {where(rows)} SETTINGS mutations_sync = 2")


def reconciles(deployment: Deployment) -> list[Any]:
    return deployment.journal("SELECT * FROM {j}_reconciles ORDER BY id")


def differing(deployment: Deployment, reconcile_id: int) -> list[tuple[datetime, datetime]]:
    rows = deployment.journal(
        "SELECT lower(d) AS f, upper(d) AS t FROM {j}_reconciles r, unnest(differing) AS d WHERE r.id = %s ORDER BY 1",
        reconcile_id,
    )
    return [(row.f, row.t) for row in rows]


def read(deployment: Deployment, run_id: int) -> list[tuple[datetime, datetime]]:
    return [(each.window_from, each.window_to) for each in deployment.slices(run_id)]


def json_of(deployment: Deployment, *arguments: str, expect: int) -> Any:
    return json.loads(deployment.cli("reconcile", *arguments, "--json", expect=expect).stdout)


def test_what_differs_is_named_and_mended_and_the_journal_shows_both(deploy: Deploy) -> None:
    deployment = deploy("reconcile", **HOURLY)
    deployment.seed(Rows(SPEC))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(LOADED))
    deployment.assert_exact(SINCE, LOADED)
    delete(deployment, victims(deployment, 1, 3))
    change(deployment, victims(deployment, 2, 2))
    deployment.seed(Late(SPEC, rows=4, since_ms=ms(hour(3)[0]), until_ms=ms(hour(3)[1]), version=1))
    (twin,) = victims(deployment, 4, 1)
    table = deployment.settings["CH_CLEAN_TABLE"]
    deployment.each_shard(
        f"INSERT INTO {table} (c, t, opd) SELECT concat(c, ' extra'), t, opd FROM {table} WHERE {where([twin])}"
    )
    in_hour_6 = len(deployment.expected(*hour(6)))

    by_count = json_of(deployment, *INTERVAL, expect=1)

    assert by_count["causes"] == {"not_loaded": 1, "behind": 2, "extra": 1}, "a count does not see changed rows"
    assert [each["clean"] - each["source"] for each in by_count["slices"]] == [0, -3, 0, -4, 1, 0, -in_hour_6]
    asked_again = [each["asked_again"] for each in by_count["slices"]]
    assert asked_again == [False, True, False, True, True, False, False], "nothing can have come to what was not loaded"

    by_hash = json_of(deployment, *INTERVAL, "--hash", expect=1)

    assert by_hash["causes"] == {"not_loaded": 1, "behind": 3, "extra": 1}
    found = [(each["missing"], each["differing"], each["extra"], each["cause"]) for each in by_hash["slices"]]
    assert found == [
        (0, 0, 0, "equal"),
        (3, 0, 0, "behind"),
        (0, 2, 0, "behind"),
        (4, 0, 0, "behind"),
        (0, 0, 1, "extra"),
        (0, 0, 0, "equal"),
        (in_hour_6, 0, 0, "not_loaded"),
    ]

    said = deployment.cli("reconcile", *INTERVAL, "--hash", "--repair", expect=1)

    (first, repaired) = deployment.runs()
    assert (repaired.status, repaired.manual) == ("ok", True)
    assert read(deployment, repaired.id) == [hour(1), hour(2), hour(3), hour(6)], "just what lacked something"
    assert "repair: 4 of 5 slices repaired" in said.stdout
    assert "deletes in the source are not carried" in said.stdout
    assert said.stdout.splitlines()[-1] == "reconciled: DIFFERENT (every column of every row)"
    left = deployment.clean_difference(SINCE, UNTIL)
    assert (left.missing, left.differing, left.repeated, left.extra) == (0, 0, 0, 1)
    before, after = reconciles(deployment)[-2:]
    assert (before.status, before.missing, before.changed, before.extra) == ("different", 3 + 4 + in_hour_6, 2, 1)
    assert (before.windows, before.details["repair"]["run"]) == (7, repaired.id)
    assert differing(deployment, before.id) == [(hour(1)[0], hour(4)[1]), hour(6)]
    assert (after.status, after.repairs, after.repair_run_id, after.windows) == ("different", before.id, repaired.id, 5)
    assert (after.missing, after.changed, after.extra) == (0, 0, 1)
    assert differing(deployment, after.id) == [hour(4)]

    # Only an extra row is left: there is nothing to load, and nothing is.
    said = deployment.cli("reconcile", *INTERVAL, "--repair", expect=1)
    assert "repair: no slice repaired (nothing here can be mended by it)" in said.stdout
    assert [run.id for run in deployment.runs()] == [first.id, repaired.id]

    deployment.each_shard(f"ALTER TABLE {table} DELETE WHERE endsWith(c, ' extra') SETTINGS mutations_sync = 2")
    delete(deployment, victims(deployment, 5, 2))
    mended = json_of(deployment, *INTERVAL, "--repair", expect=0)
    assert (mended["exact"], mended["repair"]["before_exact"]) == (True, False)
    assert mended["repair"]["runs"] == [deployment.runs()[-1].id]
    assert read(deployment, deployment.runs()[-1].id) == [hour(5)]
    deployment.assert_exact(SINCE, UNTIL)
    runs = [run.id for run in deployment.runs()]
    assert deployment.cli("reconcile", *INTERVAL, "--hash", "--repair").stdout.splitlines()[-1] == (
        "reconciled: exact (every column of every row)"
    )
    assert [run.id for run in deployment.runs()] == runs
    newest = reconciles(deployment)[-1]
    assert (newest.status, newest.windows, newest.source_rows) == ("exact", 7, len(deployment.expected(SINCE, UNTIL)))


def test_what_is_loaded_and_owed_is_only_published(deploy: Deploy) -> None:
    deployment = deploy("reconcileowed", **HOURLY, ALWAYS_PUBLISH_AT_END="0", PUBLISH_EVERY_MINUTES="600")
    deployment.seed(Rows(SPEC))
    deployment.start_worker()
    run_id = deployment.plan(SINCE, UNTIL)
    assert deployment.wait_for_run(run_id).status == "ok"
    assert deployment.rows(deployment.clean_all, SINCE, UNTIL) == []

    said = deployment.cli("reconcile", *INTERVAL, expect=1)

    assert "7 slices: loaded, not published yet: --repair publishes them now" in said.stdout

    said = deployment.cli("reconcile", *INTERVAL, "--repair")

    assert f"{SINCE:%Y%m%d}  published" in said.stdout
    assert "repair: 7 of 7 slices repaired" in said.stdout
    assert [run.id for run in deployment.runs()] == [run_id], "nothing is read again"
    deployment.assert_exact(SINCE, UNTIL)

    # Owed, and not enough: what came late is loaded in a second round, and published although runs do not wait for it.
    deployment.plan(*hour(2))
    deployment.wait_for_run(deployment.runs()[-1].id)
    late = Late(SPEC, rows=4, since_ms=ms(hour(2)[0]), until_ms=ms(hour(2)[1]), version=1)
    deployment.seed(late)
    deployment.cli("reconcile", *INTERVAL, "--repair")
    assert read(deployment, deployment.runs()[-1].id) == [hour(2)]
    deployment.assert_exact(SINCE, UNTIL)


def test_raw_has_forgotten_what_is_older_than_its_ttl(deploy: Deploy) -> None:
    deployment = deploy("reconcileraw", **HOURLY, CH_RAW_TTL_HOURS="1")
    deployment.seed(Rows(SPEC))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(LOADED))
    raw = deployment.raw_all.replace("_all", "")
    deployment.each_shard(f"TRUNCATE TABLE {raw}")  # what its TTL would have done by the day after

    said = deployment.cli("reconcile", "--since", iso(SINCE), "--until", iso(LOADED))

    rows = len(deployment.expected(SINCE, LOADED))
    assert f"RAW has forgotten 6 slices ({rows} rows): its TTL has passed, which decides nothing" in said.stdout


def test_the_last_day_up_to_the_watermark_and_the_exit_codes(deploy: Deploy) -> None:
    deployment = deploy("reconcilelast", **HOURLY)
    deployment.seed(Rows(SPEC))

    assert "no watermark yet" in deployment.cli("reconcile", expect=2).stderr
    assert reconciles(deployment) == []

    deployment.start_worker()
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(LOADED))
    last = json_of(deployment, "--last", "2h", expect=0)
    assert (last["since"], last["until"]) == (iso(LOADED - timedelta(hours=2)), iso(LOADED))
    assert last["source"] == len(deployment.expected(*hour(4))) + len(deployment.expected(*hour(5)))
    (day,) = [json_of(deployment, expect=0)]
    assert (day["since"], day["until"]) == (iso(LOADED - timedelta(days=1)), iso(LOADED))
    for wrong in (
        ("--last", "soon"),
        ("--last", "1d", *INTERVAL),
        ("--since", iso(SINCE)),
        ("--since", iso(SINCE), "--until", "2025-08-08T00:00:00"),
    ):
        deployment.cli("reconcile", *wrong, expect=2)
    assert len(reconciles(deployment)) == 2, "what cannot be meant is not begun"

    # A service that is away is no difference, and is kept.
    said = deployment.cli("reconcile", expect=3, PQS_URL="http://127.0.0.1:9")
    assert "PQS_URL" in said.stderr
    newest = reconciles(deployment)[-1]
    assert (newest.status, newest.windows) == ("error", 0)
    assert "PQS_URL" in newest.details["error"]
    future = datetime.now(UTC) + timedelta(days=2)
    nothing = deployment.cli("reconcile", "--since", iso(future), "--until", iso(future + timedelta(hours=1)), expect=3)
    assert "reconciled: nothing" in nothing.stdout


def test_one_at_a_time_and_a_dead_one_is_closed_by_the_next(deploy: Deploy) -> None:
    deployment = deploy("reconcilealone", **HOURLY)
    deployment.seed(Rows(SPEC))
    # Killed as it waits for the source, which has stopped answering.
    deployment.stack.pause("pqs")
    try:
        command = [sys.executable, "-m", "etl_tasks", "reconcile", *INTERVAL]
        env = deployment.process_env
        victim = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deployment.until(lambda: reconciles(deployment), "the reconcile has begun", 60)
            said = deployment.cli("reconcile", *INTERVAL, expect=3)
            assert f"is under way, number {reconciles(deployment)[0].id}, since" in said.stderr
        finally:
            victim.kill()
            victim.wait(20)
    finally:
        deployment.stack.resume("pqs")
    (dead,) = reconciles(deployment)
    assert dead.status == "running"

    deployment.until(
        lambda: deployment.cli("reconcile", *INTERVAL, expect=None).returncode == 1, "the lock is free", 60
    )

    dead = reconciles(deployment)[0]
    assert (dead.status, dead.details["error"]) == ("error", "ended without a word: its process died")
    assert dead.ended_at is not None
    assert [each.status for each in reconciles(deployment)[1:]] == ["different"]


def test_a_repair_beside_another_run_by_hand_says_so_and_does_nothing(deploy: Deploy) -> None:
    deployment = deploy("reconcilebusy", **HOURLY)
    deployment.seed(Rows(SPEC))
    other = deployment.plan(*hour(0))  # nobody is there to load it

    said = deployment.cli("reconcile", *INTERVAL, "--repair", expect=1)

    assert f"manual_codes_reconcilebusy has an active run already: run {other} is" in said.stderr
    assert "repair: no slice repaired (nothing was begun)" in said.stdout
    (only,) = reconciles(deployment)
    assert (only.status, "repair" in only.details) == ("different", False)


def test_beat_compares_repairs_and_looks_again(deploy: Deploy) -> None:
    """A worker with one slot: the repair must not wait for it inside the reconcile."""
    deployment = deploy(
        "reconcilebeat",
        **HOURLY,
        STEP_MIN="1440",
        RECONCILE_EVERY_MINUTES="1",
        RECONCILE_LAST_HOURS="3",
        RECONCILE_BY_HASH="1",
        RECONCILE_REPAIR="1",
    )
    deployment.seed(Rows(SPEC))
    deployment.start_worker(concurrency=1)
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(LOADED))
    delete(deployment, victims(deployment, 4, 3))
    delete(deployment, victims(deployment, 0, 1))  # before what is compared

    with beat(deployment):
        first = deployment.until(lambda: ended(deployment, 1), "beat's first reconcile", 300)[0]
        assert (first.status, first.missing, first.by_hash) == ("different", 3, True)
        assert (first.since, first.until) == (hour(3)[0], hour(5)[1])
        assert first.details["asked_by"] == "schedule"
        begun = deployment.until(lambda: reconciles(deployment)[0].details.get("repair"), "its repair", 180)
        run = deployment.wait_for_run(begun["run"], timeout_s=180)
        assert (run.status, read(deployment, run.id)) == ("ok", [hour(4)])
        _, check, second = deployment.until(lambda: ended(deployment, 3), "the next one looks again", 300)[:3]

    assert (check.status, check.repairs, check.repair_run_id, check.windows) == ("exact", first.id, run.id, 1)
    assert (second.status, second.repairs, second.windows) == ("exact", None, 3)
    left = deployment.clean_difference(SINCE, LOADED)
    assert (left.missing, left.differing, left.extra) == (1, 0, 0), "the hour before is not its"


def ended(deployment: Deployment, count: int) -> list[Any]:
    """All reconciles, once ``count`` of them have ended."""
    found = reconciles(deployment)
    return found if sum(each.ended_at is not None for each in found) >= count else []


@contextmanager
def beat(deployment: Deployment) -> Iterator[None]:
    schedule = str(deployment.scratch / "beat-schedule")
    with (deployment.scratch / "beat.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "etl_tasks", "beat", "--schedule", schedule],
            cwd=ROOT,
            env=deployment.process_env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)
