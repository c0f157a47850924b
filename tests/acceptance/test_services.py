"""A service away or refusing: waited for, failed over, or told with its cure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, iso, midnight, ms, named_settings
from devstack.oracle import Rows
from devstack.stack import Stack

Deploy = Callable[..., Deployment]
SINCE, UNTIL = "2025-08-08T00:00:00Z", "2025-08-09T00:00:00Z"


def test_a_shard_away_at_insert_is_waited_for_without_spending_attempts(deploy: Deploy, stack: Stack) -> None:
    since, until = midnight(1), midnight(1) + timedelta(hours=6)
    deployment = deploy("shardaway", PHX_INITIAL_SLICE_MIN="120", PHX_QUERY_OVERLAP_MINUTES="0")
    deployment.seed(Rows(DatasetSpec(rows=800, days=1, seed=61, until_ms=ms(midnight(0)))))
    deployment.start_worker()
    stack.stop("clickhouse1")
    try:
        call = deployment.celery(
            "call",
            "etl_tasks.plan_interval",
            "--kwargs",
            json.dumps({"since": iso(since), "until": iso(until)}),
        )
        assert call.returncode == 0
        run_id = deployment.wait_for_new_run(0)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            waiting = deployment.journal("SELECT * FROM {j}_slices WHERE attempt > 0 AND state = 'planned'")
            if len(waiting) >= 2:
                break
            time.sleep(0.3)
        assert len(waiting) >= 2, deployment.worker_logs()
        assert all(s.spent == 0 and s.not_before is not None for s in waiting), "an outage spends no attempt"
        assert all("127.0.0.1" in s.last_error for s in waiting)
    finally:
        stack.start("clickhouse1")

    run = deployment.wait_for_run(run_id)

    assert run.status == "ok", deployment.describe()
    deployment.assert_exact(since, until)


def test_a_dead_host_of_the_list_is_passed_over(deploy: Deploy, stack_env: dict[str, str]) -> None:
    since, until = midnight(1), midnight(1) + timedelta(hours=6)
    deployment = deploy("deadhost", PHX_INITIAL_SLICE_MIN="180", CH_HOSTS=f"127.0.0.1:1,{stack_env['CH_HOSTS']}")
    deployment.seed(Rows(DatasetSpec(rows=400, days=1, seed=62, until_ms=ms(midnight(0)))))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(since), "--until", iso(until))
    deployment.assert_exact(since, until)


def test_a_publish_from_another_host_leaves_no_key_twice(deploy: Deploy, stack_env: dict[str, str]) -> None:
    since, until = midnight(1), midnight(0)
    deployment = deploy("otherhost", PHX_INITIAL_SLICE_MIN="240")
    spec = DatasetSpec(rows=900, days=1, seed=63, until_ms=ms(until))
    deployment.seed(Rows(spec))
    worker = deployment.start_worker()
    deployment.cli("run", "--since", iso(since), "--until", iso(until))
    worker.stop()
    hosts = stack_env["CH_HOSTS"].split(",")
    turned = ",".join(reversed(hosts))
    deployment.start_worker(CH_HOSTS=turned)

    deployment.cli("run", "--manual", "--since", iso(since), "--until", iso(until), CH_HOSTS=turned)

    for shard in range(len(hosts)):
        assert not deployment.clean_difference(since, until, shard)
    held = [
        rows[0]
        for rows in deployment.each_shard(
            f"SELECT count(), uniqExact(c, t, opd) FROM {deployment.settings['CH_CLEAN_TABLE']}"
        )
    ]
    assert all(count == distinct for count, distinct in held)
    assert sum(count for count, _ in held) == 900


@pytest.mark.parametrize(
    ("settings", "arguments", "exit_code", "words"),
    [
        (
            {"MAIN_COLUMNS": "c,t,opd,no_such"},
            ("run", "--since", SINCE, "--until", UNTIL),
            1,
            ["no_such", "MAIN_COLUMNS"],
        ),
        (
            {"HBASE_MAIN_TABLE": "NO_SUCH_TABLE"},
            ("run", "--since", SINCE, "--until", UNTIL),
            1,
            ["NO_SUCH_TABLE", "HBASE_MAIN_TABLE"],
        ),
        (
            {"CH_CLEAN_TABLE": "acc_messages.no_such"},
            ("run", "--since", SINCE, "--until", UNTIL),
            1,
            ["acc_messages.no_such", "migrate"],
        ),
        ({}, ("plan", "--since", SINCE, "--until", "2025-08-09T00:00:00"), 2, ["--since", "--until", "BUSINESS_TZ"]),
        ({}, ("plan", "--since", UNTIL, "--until", SINCE), 2, ["2025-08-09", "2025-08-08"]),
        ({}, ("plan", "--since", SINCE, "--until", SINCE), 2, ["2025-08-08"]),
        ({}, ("plan", "--since", "yesterday", "--until", UNTIL), 2, ["yesterday", "2025-08-08T10:00:00Z"]),
        (
            {"STEP_MIN": "0", "CH_PORT": "seven"},
            ("plan", "--since", SINCE, "--until", UNTIL),
            2,
            ["STEP_MIN", "CH_PORT"],
        ),
        (
            {"PG_DSN": "postgresql://etl:canary-5@127.0.0.1:1/etl"},
            ("status",),
            1,
            ["PostgreSQL", "127.0.0.1:1", "PG_DSN"],
        ),
        ({"PG_DSN": "wrong password"}, ("status",), 1, ["PostgreSQL", "password", "PG_DSN"]),
        (
            {"REDIS_URL": "wrong password"},
            ("run", "--manual", "--since", SINCE, "--until", UNTIL),
            1,
            ["Redis", "password", "REDIS_URL"],
        ),
        ({"CH_PASSWORD": "canary-5"}, ("run", "--since", SINCE, "--until", UNTIL), 1, ["ClickHouse", "CH_PASSWORD"]),
    ],
    ids=[
        "unknown column",
        "missing source table",
        "missing target table",
        "mixed naive and aware",
        "since after until",
        "since equals until",
        "not a time",
        "several faults at once",
        "PostgreSQL unreachable",
        "PostgreSQL password",
        "Redis password",
        "ClickHouse password",
    ],
)
def test_every_mistake_is_told_with_its_cure(
    deployment_for_messages: Deployment,
    settings: dict[str, str],
    arguments: tuple[str, ...],
    exit_code: int,
    words: list[str],
) -> None:
    deployment = deployment_for_messages
    for name, value in settings.items():
        if value == "wrong password":
            right = deployment.settings[name]
            settings = {name: right.replace(right.split(":")[2].split("@")[0], "canary-5")}

    said = deployment.cli(*arguments, expect=exit_code, **settings)

    text = said.stdout + said.stderr
    for word in words:
        assert word in text
    assert "Traceback" not in text
    assert "canary-5" not in text, "a password must not be shown"


@pytest.fixture(scope="module")
def deployment_for_messages(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all mistakes; nothing is loaded into it."""
    deployment = Deployment(stack, tmp_path_factory.mktemp("messages"), named_settings(stack, "messages"))
    deployment.create()
    yield deployment
    deployment.close()
