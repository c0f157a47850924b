"""The commands on real services: what they find there, what they say, and how they exit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, deployed, iso, midnight, ms
from devstack.oracle import Rows
from devstack.stack import Stack

ROWS = 240
SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=6)
INTERVAL = ("--since", iso(SINCE), "--until", iso(UNTIL))
DAY = ("--since", iso(SINCE), "--until", iso(SINCE + timedelta(days=1)))


@pytest.fixture(scope="module")
def loaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """A day with rows, of which six hours are loaded, and what ``run`` said of them."""
    settings = {"PHX_INITIAL_SLICE_MIN": "60", "PHX_QUERY_OVERLAP_MINUTES": "0"}
    with deployed(stack, "cli", tmp_path_factory.mktemp("cli"), **settings) as made:
        made.seed(Rows(DatasetSpec(rows=ROWS, days=1, seed=3, until_ms=ms(SINCE + timedelta(days=1)))))
        made.start_worker(concurrency=1)
        said = made.cli("run", *INTERVAL).stdout
        made.stop_workers()
        yield made, said


@pytest.fixture(scope="module")
def deployment(loaded: tuple[Deployment, str]) -> Deployment:
    """The same, alone."""
    return loaded[0]


def json_of(deployment: Deployment, *arguments: str, expect: int = 0) -> Any:
    """What a command prints as JSON."""
    return json.loads(deployment.cli(*arguments, "--json", expect=expect).stdout)


def test_run_tells_what_came_of_it(loaded: tuple[Deployment, str]) -> None:
    deployment, said = loaded
    expected = len(deployment.expected(SINCE, UNTIL))
    first, *_, partition, last = said.splitlines()
    assert first.endswith("of codes_cli")
    assert partition.startswith(f"{SINCE:%Y%m%d}  published: {expected} rows, 6 slices, 0 splits")
    assert partition.endswith(f"{expected} rows in CLEAN")
    assert f"ok: [{iso(SINCE)}, {iso(UNTIL)}) {expected} rows, 6 slices" in last


def test_status_tells_of_the_run(deployment: Deployment) -> None:
    (lane,) = [each for each in json_of(deployment, "status")["processes"] if each["process"] == "codes_cli"]
    assert lane["watermark"] == iso(UNTIL)
    loaded = lane["runs"][-1]
    assert (loaded["status"], loaded["since"], loaded["covered_until"]) == ("ok", iso(SINCE), iso(UNTIL))
    screen = deployment.cli("status").stdout
    assert f"codes_cli: watermark {iso(UNTIL)}, lag " in screen
    assert "codes_cli:dedup" in screen


def test_reconcile_is_exact_by_count_and_by_content(deployment: Deployment) -> None:
    by_count = json_of(deployment, "reconcile", *INTERVAL)
    expected = len(deployment.expected(SINCE, UNTIL))
    assert (by_count["source"], by_count["raw"], by_count["clean"], by_count["exact"]) == (expected,) * 3 + (True,)
    assert [each["source"] for each in by_count["slices"]] == [
        len(deployment.expected(SINCE + timedelta(hours=hour), SINCE + timedelta(hours=hour + 1))) for hour in range(6)
    ]
    assert "reconciled: exact" in deployment.cli("reconcile", *INTERVAL, "--hash").stdout


def test_reconcile_sees_what_is_not_loaded(deployment: Deployment) -> None:
    found = json_of(deployment, "reconcile", *DAY, expect=1)
    assert (found["source"], found["clean"], found["exact"]) == (ROWS, len(deployment.expected(SINCE, UNTIL)), False)
    assert "reconciled: DIFFERENT" in deployment.cli("reconcile", *DAY, expect=1).stdout


def test_reconcile_names_the_rows_and_columns_that_differ(deployment: Deployment) -> None:
    table = deployment.settings["CH_CLEAN_TABLE"]
    victims = sorted(deployment.expected(SINCE, UNTIL), key=lambda row: int(str(row[2])))[:3]
    lost, changed, moved = ((row[0], row[1], int(str(row[2]))) for row in victims)

    def where(key: tuple[Any, ...]) -> str:
        code = str(key[0]).encode().hex().upper()
        return f"hex(c) = '{code}' AND t = {key[1]} AND toUnixTimestamp64Milli(opd) = {key[2]}"

    extra = (*moved[:2], moved[2] + 1)
    for sql in (
        f"ALTER TABLE {table} DELETE WHERE {where(lost)} SETTINGS mutations_sync = 2",
        f"ALTER TABLE {table} UPDATE pn = 'another', tt = -2 WHERE {where(changed)} SETTINGS mutations_sync = 2",
        f"INSERT INTO {table} (c, t, opd) SELECT c, t, opd + INTERVAL 1 MILLISECOND FROM {table} WHERE {where(moved)}",
    ):
        deployment.each_shard(sql)

    found = json_of(deployment, "reconcile", *INTERVAL, "--hash", expect=1)

    sums = {name: sum(each[name] for each in found["slices"]) for name in ("missing", "extra", "differing", "repeated")}
    assert sums == {"missing": 1, "extra": 1, "differing": 1, "repeated": 0}
    examples = {each["kind"]: each for slice_ in found["slices"] for each in slice_["examples"]}
    assert tuple(examples["missing"]["key"]) == lost
    assert tuple(examples["extra"]["key"]) == extra
    assert tuple(examples["differing"]["key"]) == changed
    assert set(examples["differing"]["columns"]) == {"pn", "tt"}
    assert examples["differing"]["columns"]["pn"][1] == "'another'"
    assert examples["differing"]["columns"]["tt"][1] == "-2"
    # The counts alone would have called it equal: one row lost, one too many in the same hour.
    shown = deployment.cli("reconcile", *INTERVAL, "--hash", expect=1).stdout
    assert "pn: source" in shown
    assert "reconciled: DIFFERENT (every column of every row)" in shown


def test_a_run_without_worker_says_so_and_is_left_to_the_workers(deployment: Deployment) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "etl_tasks", "run", "--manual", *INTERVAL],
        cwd=ROOT,
        env=deployment.process_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has SIGINT ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        run_id = int(first.split()[1])
        refused = deployment.cli("run", "--manual", *INTERVAL, expect=1)
        assert f"skipped: manual_codes_cli has an active run already: run {run_id}" in refused.stderr
        time.sleep(17)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=20)
    assert process.returncode == 130
    assert "no worker has taken anything for 15 s: start one with celery -A etl_tasks worker" in said
    assert f"run {run_id} is left to the workers" in said
    assert "Traceback" not in said
    (lane,) = [each for each in json_of(deployment, "status")["processes"] if each["process"] == "manual_codes_cli"]
    active = [run for run in lane["runs"] if run["active"]]
    assert [run["run"] for run in active] == [run_id]
    assert active[0]["slices"] == {"planned": 6, "running": 0, "done": 0, "split": 0, "error": 0}
    deployment.start_worker(concurrency=1)
    assert deployment.wait_for_run(run_id).status == "ok"
    deployment.stop_workers()


def test_migrate_again_changes_nothing(deployment: Deployment) -> None:
    before = deployment.journal("SELECT id, status, watermark FROM {j} ORDER BY id")
    said = deployment.cli("migrate", "--phoenix").stdout
    assert "complete already (10 tables)" in said
    assert f"the watermark of codes_cli is {iso(UNTIL)}" in said
    assert "ACC_CLI" in said
    assert deployment.journal("SELECT id, status, watermark FROM {j} ORDER BY id") == before


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        (("status",), {"PG_DSN": "postgresql://etl:hunter2@127.0.0.1:9/etl"}, "check PG_DSN"),
        (("reconcile", *INTERVAL), {"PQS_URL": "http://127.0.0.1:9"}, "PQS_URL"),
        (("reconcile", *INTERVAL), {"CH_HOSTS": "127.0.0.1:9"}, "127.0.0.1:9"),
        (("reconcile", *INTERVAL), {"CH_PASSWORD": "hunter2"}, "CH_PASSWORD"),
        (("reconcile", *INTERVAL), {"HBASE_MAIN_TABLE": "ACC_NOWHERE"}, "ACC_NOWHERE"),
        (("reconcile", *INTERVAL), {"MAIN_COLUMNS": "c,t,opd,nonsense"}, "nonsense"),
        (("migrate", "--only", "clickhouse"), {"CH_CLUSTER": "nowhere"}, "nowhere"),
    ],
)
def test_a_failure_is_one_message_that_names_the_cure(
    deployment: Deployment, command: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    # A reconcile that could not compare is not one that found a difference.
    done = deployment.cli(*command, expect=3 if command[0] == "reconcile" else 1, **settings)
    assert said in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
