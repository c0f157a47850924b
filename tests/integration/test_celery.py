"""Celery as it is configured: what real workers take, refuse and survive."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Exchange, Producer

from devstack.deployment import ROOT, Deployment, named_settings
from devstack.stack import Stack
from devstack.worker import Worker

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def deployment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Settings of its own; the journal comes by itself, tables are not needed."""
    made = Deployment(
        stack, tmp_path_factory.mktemp("celery"), {**named_settings(stack, "celery"), "SWEEP_EVERY_S": "1"}
    )
    made.destroy()
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(deployment: Deployment) -> Worker:
    started = deployment.start_worker(concurrency=1)
    wait_for(lambda: "ready." in log_of(started), "the worker is ready", started)
    return started


def log_of(worker: Worker) -> str:
    return worker.log.read_text(errors="replace")


def wait_for(condition: Callable[[], Any], what: str, worker: Worker, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {timeout_s} s\n{log_of(worker)[-6000:]}"
        time.sleep(0.05)


def python(deployment: Deployment, code: str, *arguments: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**deployment.process_env, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(deployment: Deployment, messages: list[tuple[str, list[Any], dict[str, Any]]]) -> list[Any]:
    """Send the messages as anybody could who reaches Redis; the state and result of each task."""
    code = (
        "import json, sys, time; from pathlib import Path; from etl_tasks.celery import app\n"
        "messages = json.loads(Path(sys.argv[1]).read_text())\n"
        "sent = [app.send_task(name, args=args, kwargs=kwargs) for name, args, kwargs in messages]\n"
        "until = time.monotonic() + 30\n"
        "while not all(task.ready() for task in sent) and time.monotonic() < until: time.sleep(0.05)\n"
        "print(json.dumps([[task.state, repr(task.result)] for task in sent]))"
    )
    written = deployment.scratch / "messages.json"
    written.write_text(json.dumps(messages))
    answers: list[Any] = json.loads(python(deployment, code, str(written)))
    return answers


def test_the_configuration_in_force(deployment: Deployment) -> None:
    code = (
        "import json; from etl_tasks.celery import app; import etl_tasks.tasks; c = app.conf\n"
        "tasks = {n: [t.acks_late, t.reject_on_worker_lost, t.soft_time_limit or c.task_soft_time_limit,"
        " t.time_limit or c.task_time_limit, t.max_retries, app.amqp.router.route({}, n)['queue'].name]"
        " for n, t in app.tasks.items() if n.startswith('etl_tasks.')}\n"
        "print(json.dumps({'accept': c.accept_content, 'results': c.result_accept_content, 'task': c.task_serializer,"
        " 'prefetch': c.worker_prefetch_multiplier, 'queues': [q.name for q in c.task_queues],"
        " 'create': c.task_create_missing_queues, 'visibility': c.broker_transport_options['visibility_timeout'],"
        " 'beat': {k: [v['task'], v['schedule'], v['options']] for k, v in c.beat_schedule.items()},"
        " 'tasks': tasks}))"
    )
    found = json.loads(python(deployment, code, STEP_MIN="7"))
    assert (found["accept"], found["results"], found["task"]) == (["json"], ["json"], "json")
    assert (found["prefetch"], found["create"]) == (1, False)
    assert found["queues"] == ["plan", "extract", "backfill", "publish"]
    assert found["beat"] == {
        "incremental": ["etl_tasks.plan_interval", 420.0, {"queue": "plan", "expires": 420.0}],
    }
    ordinary, publish = [55 * 60, 60 * 60], [170 * 60, 180 * 60]
    limits = {name: facts[2:4] for name, facts in found["tasks"].items()}
    assert limits.pop("etl_tasks.dedup_publish") == publish
    assert all(limit == ordinary for limit in limits.values())
    assert found["visibility"] == 12 * 3600 > max(publish)
    assert all(facts[:2] == [True, True] for facts in found["tasks"].values()), "late acks, reject on worker lost"
    assert {name.partition(".")[2]: facts[5] for name, facts in found["tasks"].items()} == {
        "plan_interval": "plan",
        "finalize_run": "plan",
        "sweep": "plan",
        "extract_load_slice": "extract",
        "dedup_publish": "publish",
        "reconcile": "extract",
    }


def test_beat_has_a_reconcile_only_where_it_is_asked_for(deployment: Deployment) -> None:
    code = (
        "import json; from etl_tasks.celery import app; e = app.conf.beat_schedule['reconcile']\n"
        "print(json.dumps([e['task'], e['schedule'], e['options']]))"
    )
    found = json.loads(python(deployment, code, RECONCILE_EVERY_MINUTES="90"))
    assert found == ["etl_tasks.reconcile", 5400.0, {"queue": "extract", "expires": 5400.0}], (
        "a queue that no backfill fills"
    )


def test_what_waited_in_its_queue_for_too_long_is_said(deployment: Deployment, worker: Worker) -> None:
    code = (
        "from datetime import UTC, datetime; from etl_tasks.celery import app\n"
        "print(app.send_task('etl_tasks.reconcile', expires=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).id)"
    )
    task_id = python(deployment, code).strip()
    wait_for(lambda: "task_expired" in log_of(worker), "the worker says that it drops the message", worker)
    (line,) = [each for each in log_of(worker).splitlines() if "task_expired" in each]
    assert "name=etl_tasks.reconcile" in line
    assert f"task={task_id}" in line
    assert "expired_at=2026-01-02T03:04:05+00:00" in line


def test_a_ladder_of_time_outs_that_cannot_hold_is_refused_at_start(deployment: Deployment) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "etl_tasks", "worker"],
        cwd=ROOT,
        env={
            **deployment.process_env,
            "PHX_READ_TIMEOUT_S": "300",
            "TASK_SOFT_TIME_LIMIT_MIN": "5",
            "PUBLISH_TIME_LIMIT_MIN": "800",
            "VISIBILITY_TIMEOUT_H": "12",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    for name in ("PHX_READ_TIMEOUT_S", "TASK_SOFT_TIME_LIMIT_MIN", "PUBLISH_TIME_LIMIT_MIN", "VISIBILITY_TIMEOUT_H"):
        assert name in done.stdout + done.stderr


def test_a_pickle_message_is_refused(deployment: Deployment, worker: Worker, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    headers = {"lang": "py", "task": "etl_tasks.sweep", "id": "pickled", "root_id": "pickled", "parent_id": None}
    with Connection(deployment.settings["REDIS_URL"]) as connection:
        Producer(connection, Exchange("plan")).publish(
            ((Bomb(),), {}, {}), serializer="pickle", headers=headers, routing_key="plan"
        )
    wait_for(lambda: "ContentDisallowed" in log_of(worker), "the message is refused", worker)

    ((state, _),) = call(deployment, [("etl_tasks.sweep", [], {})])

    assert state == "SUCCESS", "the worker goes on with the next message"
    assert not (tmp_path / "exploded").exists()


def test_arguments_of_any_kind_harm_nothing(deployment: Deployment, worker: Worker) -> None:
    not_ids: list[Any] = ["1", "1; DROP TABLE x", -1, 0, 2**70, True, None, 1.5, float("nan"), [1] * 5000, {"a": 1}]
    times = {"since": "2025-08-08T00:00:00Z", "until": "2025-08-09T00:00:00Z"}
    not_plans: list[dict[str, Any]] = [
        {"since": times["since"]},
        {**times, "manual": "yes"},
        {**times, "since": "x" * 100_000},
        {**times, "since": "'; DROP TABLE x; --"},
        {**times, "until": 20250809},
        {**times, "until": times["since"]},
        {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T00:00:00Z", "manual": True},
    ]
    messages: list[tuple[str, list[Any], dict[str, Any]]] = [
        (f"etl_tasks.{task}", [value], {})
        for task in ("extract_load_slice", "dedup_publish", "finalize_run")
        for value in not_ids
    ]
    messages += [("etl_tasks.dedup_publish", [2**40], {}), ("etl_tasks.dedup_publish", [20251399], {})]
    messages += [("etl_tasks.plan_interval", [], kwargs) for kwargs in not_plans]
    before = log_of(worker)

    answers = call(deployment, messages)

    # Only what could be an id comes back: a partition of no calendar is simply never due.
    assert answers == [["SUCCESS", "20251399" if args == [20251399] else "None"] for _, args, _ in messages]
    assert deployment.runs() == []
    said = log_of(worker)[len(before) :]
    assert said.count("UsageError") == len(messages) - 1
    assert "Traceback" not in said
    assert max(map(len, said.splitlines())) < 2000
    # A message with other arguments than the task has is a failed task, told and gone.
    ((state, _),) = call(deployment, [("etl_tasks.extract_load_slice", [1, 2], {"no_such": 3})])
    assert state == "FAILURE"
    with redis.Redis.from_url(deployment.settings["REDIS_URL"]) as client:
        wait_for(lambda: not client.hlen("unacked"), "nothing is kept for another try", worker)
        assert [client.llen(queue) for queue in ("plan", "extract", "publish")] == [0, 0, 0]


def test_a_worker_that_redis_left_deaf_ends_for_its_supervisor(deployment: Deployment) -> None:
    deployment.stop_workers()
    # Deaf as Redis leaves them: the main runs, its timers too, and no socket wakes it.
    deafened = (
        "import sys; from celery import signals; import etl_tasks.main_loop as m; from etl_tasks.celery import app\n"
        "m.DEAF_AFTER_S = 3.0\n"
        "@signals.worker_ready.connect\n"
        "def deafen(sender, **_):\n"
        "    hub = sender.hub\n"
        "    hub.call_later(1.0, hub.on_tick.clear)\n"
        "    hub.call_repeatedly(0.05, lambda: hub.on_tick or hub.readers.clear())\n"
        "app.worker_main(['worker', '--concurrency', '1', '--without-gossip', '--without-mingle', '-n', 'deaf@%h',"
        " '-l', 'INFO', '-Q', 'plan'])\n"
    )
    log = deployment.scratch / "worker_deaf.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", deafened],
            cwd=ROOT,
            env=deployment.process_env,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 20
        while "ready." not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        for _ in range(3):
            deployment.celery("call", "etl_tasks.sweep")
        assert process.wait(45) is not None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    said = log.read_text()
    assert "worker_deaf" in said, said[-4000:]
