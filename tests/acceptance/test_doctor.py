"""``doctor`` finds what is planted, by the right check and with a cure that names it; a healthy system has no fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, iso, midnight, ms, named_settings
from devstack.oracle import Rows
from devstack.stack import Stack
from devstack.worker import Worker, beat_command
from tests.acceptance.doctor_faults import Fault
from tests.acceptance.doctor_faults_clickhouse import FAULTS

SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=6)


@pytest.fixture(scope="module")
def loaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment with an index on the time column and a day published; nobody works."""
    settings = {
        **named_settings(stack, "doctor"),
        "PHX_QUERY_HINT": 'INDEX("ACC_DOCTOR" "ACC_DOCTOR_BY_OPD")',
        "PHX_INITIAL_SLICE_MIN": "120",
        "PUBLISH_EVERY_MINUTES": "60",
    }
    deployment = Deployment(stack, tmp_path_factory.mktemp("doctor"), settings)
    deployment.create()
    # What an earlier session wrote into tables of these names is none of this one's.
    deployment.each_shard("SYSTEM FLUSH LOGS")
    deployment.each_shard("TRUNCATE TABLE system.query_log")
    try:
        deployment.seeder.execute('CREATE INDEX ACC_DOCTOR_BY_OPD ON ACC_DOCTOR ("opd")')
        deployment.seed(Rows(DatasetSpec(rows=400, days=1, seed=77, until_ms=ms(SINCE + timedelta(days=1)))))
        worker = deployment.start_worker()
        deployment.cli("run", "--since", iso(SINCE), "--until", iso(UNTIL))
        worker.stop()
        deployment.workers.clear()
        yield deployment
    finally:
        stack.up()
        deployment.close()


def ask(deployment: Deployment, *checks: str, **settings: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the findings by check."""
    done = deployment.cli("doctor", "--json", *checks, expect=None, **settings)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["checks"]:
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


def test_a_healthy_system_has_neither_warning_nor_fail(loaded: Deployment) -> None:
    loaded.start_worker()
    beat = Worker(
        beat_command(loaded.scratch / "beat"), {**loaded.process_env, "STEP_MIN": "1"}, loaded.scratch / "beat.log"
    )
    try:
        loaded.until(
            lambda: loaded.journal("SELECT 1 FROM {j} WHERE task_id IS NOT NULL"), "beat has planned a run", 150
        )
        code, found = ask(loaded)
    finally:
        beat.stop()
        loaded.stop_workers()
        loaded.journal("UPDATE {j} SET status = 'error', ts_end = clock_timestamp() WHERE ts_end IS NULL")
        loaded.journal("UPDATE {j} SET task_id = NULL")

    assert {each["verdict"] for findings in found.values() for each in findings} == {"ok"}, found
    assert code == 0
    assert {each.check for each in FAULTS} <= found.keys()
    loaded.each_shard("SYSTEM FLUSH LOGS")
    kinds = loaded.each_shard(
        "SELECT DISTINCT query_kind FROM system.query_log WHERE startsWith(query_id, 'etl-doctor')"
    )
    assert kinds == [[("Select",)], [("Select",)]], "doctor only reads"


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.name)
def test_a_planted_fault_is_found_with_its_cure(loaded: Deployment, planted: Fault) -> None:
    with planted.plant(loaded) as settings:
        code, found = ask(loaded, planted.check, **settings)

    fitting = [
        each
        for each in found[planted.check]
        if each["verdict"] == planted.verdict and planted.found in each["found"] and planted.cure in each["cure"]
    ]
    assert fitting, found[planted.check]
    assert code == (1 if planted.verdict == "fail" else 0)
    # What is planted is all that is wrong: the checks before it are fine.
    assert {each["verdict"] for name, findings in found.items() if name != planted.check for each in findings} <= {
        "ok"
    }, found


def test_there_are_faults_enough() -> None:
    assert len(FAULTS) >= 20


def test_the_checks_of_other_services_go_on_where_one_is_away(loaded: Deployment, stack: Stack) -> None:
    stack.stop("redis")
    try:
        code, found = ask(loaded)
    finally:
        stack.start("redis")

    verdicts = {name: {each["verdict"] for each in findings} for name, findings in found.items()}
    assert code == 1
    assert verdicts["redis"] == {"fail"}
    for name in ("redis-eviction", "redis-persistence", "workers", "queues", "neighbours"):
        assert verdicts[name] == {"not checked"}
    for name in ("postgres", "journal", "clickhouse", "misplaced-keys", "phoenix", "types", "clocks"):
        assert verdicts[name] == {"ok"}


def test_a_check_that_is_not_there_is_a_usage_error(loaded: Deployment) -> None:
    said = loaded.cli("doctor", "hearts", expect=2)
    assert "no check hearts" in said.stderr
    assert "misplaced-keys" in said.stderr
