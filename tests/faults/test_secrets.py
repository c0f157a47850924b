"""No password is to be read anywhere but in the settings: a night of runs and failures at DEBUG, and then everything
that the system has said, written and stored is searched for each of them.

The passwords of PostgreSQL, Redis and ClickHouse are the real ones; those of the Query Server and Flower are made here,
and so are the wrong ones with which each service is asked in turn.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from devstack import passwords
from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, iso, midnight, ms, named_settings
from devstack.oracle import Rows
from devstack.stack import Stack
from devstack.worker import beat_command, worker_command

SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=2)
INTERVAL = ("--since", iso(SINCE), "--until", iso(UNTIL))
WRONG = "wrong" + secrets.token_hex(12)
MADE = {name: name + secrets.token_hex(12) for name in ("pqs", "pqsurl", "flower")}
LOGIN = f"ann:{MADE['flower']}"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FLOWER_PORT = free_port()


class Suspicious(BaseHTTPRequestHandler):
    """A Query Server that refuses us, and repeats what it was sent in its answer, as some proxies' error pages do."""

    def do_POST(self) -> None:
        body = f"<html>refused: {self.headers.get('Authorization')} {MADE['pqs']}</html>".encode()
        self.send_response(401)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Night:
    """The deployment, its processes, and what they let be seen: ``said`` by its place."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.said: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self._logs: dict[str, Path] = {}

    def start(self, name: str, command: Sequence[str], **settings: str) -> None:
        """A process of the product with a log of its own."""
        log = self._logs[name] = self.deployment.scratch / f"{name}.log"
        env = {**self.deployment.process_env, **settings}
        with log.open("wb") as stream:
            self.processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def worker(self, name: str, queues: str = "plan,extract,backfill,publish", **settings: str) -> None:
        """A worker at DEBUG."""
        self.start(name, [*worker_command(name, 1, queues), "--loglevel", "DEBUG"], **settings)

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return self._logs[name].read_text(errors="replace")

    def spoke(self, name: str, *words: str) -> bool:
        """Whether a process has said one of the words."""
        return any(word in self.log(name) for word in words)

    def commands(self, *commands: tuple[str, Sequence[str], dict[str, str]]) -> None:
        """Run commands (name, arguments, settings) side by side; what they said is remembered, whatever came of it."""
        running = [
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env={**self.deployment.process_env, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _, arguments, settings in commands
        ]
        for (name, _, _), process in zip(commands, running, strict=True):
            try:
                out, _ = process.communicate(timeout=180)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate(timeout=10)
            self.said[f"{name} (exit {process.returncode})"] = out

    def end(self) -> None:
        """End every process that this night started, and read the logs."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        self.processes.clear()
        for name, log in self._logs.items():
            self.said[f"log of {name}"] = log.read_text(errors="replace")


def wrong(url: str) -> str:
    """The URL with another password."""
    scheme, _, rest = url.partition("://")
    user = rest.partition(":")[0]
    return f"{scheme}://{user}:{WRONG}@{rest.partition('@')[2]}"


def web(path: str, login: str | None = LOGIN) -> str:
    """A page of Flower."""
    # What changes something at a worker is asked by POST.
    data = b"" if path.startswith("/api/worker/shutdown") else None
    request = urllib.request.Request(f"http://127.0.0.1:{FLOWER_PORT}{path}", data)
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode(errors="replace"))


def status(path: str, login: str | None) -> int:
    """How Flower answers."""
    try:
        web(path, login)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


@pytest.fixture(scope="module")
def tokens(stack: Stack) -> dict[str, str]:
    """Every password by what it belongs to, and the forms in which HTTP carries it."""
    stored = passwords.load(stack.config.state_dir)
    plain = {**{name: stored[name] for name in ("postgres", "redis", "clickhouse")}, **MADE, "wrong": WRONG}
    logins = {"flower's header": LOGIN, "pqs's header": f"ann:{MADE['pqs']}", "wrong header": f"ann:{WRONG}"}
    return {**plain, **{name: base64.b64encode(text.encode()).decode() for name, text in logins.items()}}


@pytest.fixture(scope="module")
def night(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Everything that can go wrong for a reason of passwords or services, done once."""
    base = named_settings(stack, "secrets")
    server, _, number = base["REDIS_URL"].rpartition("/")
    settings = {
        **base,
        "PG_LOCK_DSN": base["PG_DSN"],
        "REDIS_RESULT_URL": f"{server}/{int(number) + 1}",
        "PQS_URL": base["PQS_URL"].replace("://", f"://ann:{MADE['pqsurl']}@"),
        "PQS_AUTH": "basic",
        "PQS_USER": "ann",
        "PQS_PASSWORD": MADE["pqs"],
        "FLOWER_BASIC_AUTH": LOGIN,
        "PHX_INITIAL_SLICE_MIN": "10",
        "PHX_QUERY_OVERLAP_MINUTES": "0",
        "SWEEP_EVERY_S": "1",
        "LEASE_S": "4",
    }
    deployment = Deployment(stack, tmp_path_factory.mktemp("secrets"), settings)
    deployment.create()
    deployment.seed(Rows(DatasetSpec(rows=600, days=1, seed=81, until_ms=ms(SINCE + timedelta(days=1)))))
    made = Night(deployment)
    refusing = ThreadingHTTPServer(("127.0.0.1", 0), Suspicious)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    try:
        live(made, stack, f"http://ann:{MADE['pqsurl']}@127.0.0.1:{refusing.server_port}/")
        yield made
    finally:
        refusing.shutdown()
        refusing.server_close()
        made.end()
        stack.up()
        redis.Redis.from_url(settings["REDIS_RESULT_URL"]).flushdb()
        deployment.close()


def live(night: Night, stack: Stack, refusing_url: str) -> None:
    """The night itself."""
    deployment, settings = night.deployment, night.deployment.settings
    celery = [sys.executable, "-m", "celery", "-A", "etl_tasks"]
    bad = {
        "PG_DSN": wrong(settings["PG_DSN"]),
        "PG_LOCK_DSN": wrong(settings["PG_LOCK_DSN"]),
        "REDIS_URL": wrong(settings["REDIS_URL"]),
        "REDIS_RESULT_URL": wrong(settings["REDIS_RESULT_URL"]),
        "CH_PASSWORD": WRONG,
        "PQS_URL": refusing_url,
    }
    away = {
        "PG_DSN": re.sub(r"@[^/]*/", "@127.0.0.1:1/", settings["PG_DSN"]),
        "PQS_URL": f"http://ann:{MADE['pqsurl']}@127.0.0.1:1/",
    }
    run, log = ("etl_tasks", "--log", "DEBUG", "run", "--manual", *INTERVAL), ("etl_tasks", "--log", "DEBUG")
    # A run that is well, watched by all.
    night.worker("worker_well")
    night.start("beat", [*beat_command(deployment.scratch / "beat"), "--loglevel", "DEBUG"])
    night.start("flower", [*celery, "flower", f"--port={FLOWER_PORT}", "--logging=debug", "--inspect_timeout=10000"])
    night.commands(("run", run, {}))
    # A task that ends in a traceback, and one that is refused.
    night.commands(
        *(
            (f"call {arguments}", ("celery", "-A", "etl_tasks", "call", "etl_tasks.finalize_run", "-a", arguments), {})
            for arguments in ('["x", "y"]', '["1; DROP TABLE x"]')
        )
    )
    deployment.until(lambda: "Traceback" in night.log("worker_well"), "a task ends in a traceback", 60)
    inspect(night)
    # Redis goes while workers hold connections to it, and comes back.
    stack.stop("redis")
    deployment.until(lambda: "Cannot connect" in night.log("worker_well"), "the worker misses Redis", 60)
    back = threading.Timer(40, stack.start, ["redis"])
    back.start()
    night.commands(("run without Redis", run, {}))
    back.join()
    night.processes[0].terminate()
    # Each service refuses in turn: a worker of each kind, side by side, and a run for each to fail at.
    end_all = "UPDATE {j} SET status = 'error', ts_end = clock_timestamp() WHERE ts_end IS NULL"
    deployment.journal(end_all)
    queues = {"CH_PASSWORD": "backfill", "PQS_URL": "backfill", "REDIS_URL": "plan", "PG_DSN": "plan"}
    for name, taken in queues.items():
        night.worker(f"worker_{name}", taken, **{name: bad[name]})
    for name in ("CH_PASSWORD", "PQS_URL"):  # the one that is ready first would take all there is
        deployment.until(partial(night.spoke, f"worker_{name}", "ready."), f"{name}'s worker is ready", 90)
    deployment.plan(SINCE, UNTIL)
    deployment.until(lambda: "Redis refused us" in night.log("worker_REDIS_URL"), "Redis refuses", 90)
    deployment.until(lambda: "refused us" in night.log("worker_PG_DSN"), "PostgreSQL refuses", 90)
    for name in ("CH_PASSWORD", "PQS_URL"):
        failed = partial(night.spoke, f"worker_{name}", "slice_ended_in_error", "slice_given_back")
        deployment.until(failed, f"{name} fails", 90)
    for process in night.processes[-len(queues) :]:
        process.terminate()
    deployment.journal(end_all)
    night.worker("worker_PG_LOCK_DSN", PG_LOCK_DSN=bad["PG_LOCK_DSN"])
    night.worker("worker_REDIS_RESULT_URL", "backfill", REDIS_RESULT_URL=bad["REDIS_RESULT_URL"])
    deployment.plan(SINCE, UNTIL)
    deployment.until(lambda: "PG_LOCK_DSN" in night.log("worker_PG_LOCK_DSN"), "the lock is refused", 90)
    # One reconcile at a time.
    for name in ("CH_PASSWORD", "PQS_URL"):
        night.commands((f"reconcile, wrong {name}", (*log, "reconcile", *INTERVAL), {name: bad[name]}))
    night.commands(
        ("reconcile, away PQS_URL", (*log, "reconcile", *INTERVAL), {"PQS_URL": away["PQS_URL"]}),
        ("status, away PG_DSN", (*log, "status"), {"PG_DSN": away["PG_DSN"]}),
    )
    night.commands(
        *((f"run, wrong {name}", run, {name: bad[name]}) for name in ("REDIS_URL", "CH_PASSWORD", "PQS_URL")),
        *((f"{name}, wrong PG_DSN", (*log, name), {"PG_DSN": bad["PG_DSN"]}) for name in ("status", "migrate")),
        ("resume", (*log, "resume", "999"), {}),
        ("config", ("etl_tasks", "config"), {}),
        ("config --json", ("etl_tasks", "config", "--json"), {}),
        ("config, faults", ("etl_tasks", "config"), {"PG_DSN": f"{WRONG}", "FLOWER_BASIC_AUTH": WRONG}),
        ("status --json", ("etl_tasks", "status", "--json"), {}),
        ("report", ("celery", "-A", "etl_tasks", "report"), {}),
    )
    night.said["journal"] = journal_dump(deployment)
    night.said["clickhouse"] = clickhouse_dump(deployment)
    night.end()
    # A message that nobody takes, so that the search sees one as it waits.
    night.commands(("call, kept", ("celery", "-A", "etl_tasks", "call", "etl_tasks.finalize_run", "-a", "[1]"), {}))
    night.said["redis"] = redis_dump(deployment)


def inspect(night: Night) -> None:
    """What a worker tells whoever asks, by Celery and by Flower, and what every process shows of its command line."""
    names = ("active", "reserved", "scheduled", "registered", "active_queues", "stats", "report", "conf")
    night.commands(
        *((f"inspect {name}", ("celery", "-A", "etl_tasks", "inspect", "--timeout", "20", name), {}) for name in names),
        ("inspect conf with defaults", ("celery", "-A", "etl_tasks", "inspect", "-t", "20", "conf", "true"), {}),
    )
    deadline = time.monotonic() + 90
    worker = ""
    while not worker:
        try:
            found = json.loads(web("/api/workers?refresh=1"))
            worker = next((name for name in found if name.startswith("worker_well")), "")
        except OSError:
            assert time.monotonic() < deadline, night.log("flower")
        time.sleep(0.5)
    tasks = json.loads(web("/api/tasks"))
    pages = ["/", "/workers", f"/worker/{quote(worker)}", "/api/workers?refresh=1", "/broker", "/tasks", "/api/tasks"]
    pages += [f"/task/{next(iter(tasks))}", f"/api/task/info/{next(iter(tasks))}", "/api/queues/length", "/metrics"]
    for page in pages:
        night.said[f"flower {page.split('?')[0].split('%40')[0]}"] = web(page)
    for page in [*pages[:-1], "/api/worker/shutdown/x"]:
        for login in (None, f"ann:{WRONG}"):
            assert status(page, login) == 401, f"{page} for {login or 'nobody'}"
    lines = []
    for process in [path for path in Path("/proc").iterdir() if path.name.isdecimal()]:
        try:
            lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    night.said["process list"] = "\n".join(lines)


def journal_dump(deployment: Deployment) -> str:
    """Every column of every row of every table of the journal."""
    loading = ("", "_slices", "_run_partitions", "_partitions", "_rejects", "_read_limits", "_read_turns")
    suffixes = (*loading, "_fences", "_reconciles", "_totals")
    rows = [deployment.journal(f"SELECT t::text AS row FROM {{j}}{suffix} t") for suffix in suffixes]
    return "\n".join(row.row for table in rows for row in table)


def redis_dump(deployment: Deployment) -> str:
    """Every key and value of the broker's and the results' databases."""
    texts: list[str] = []
    for url in (deployment.settings["REDIS_URL"], deployment.settings["REDIS_RESULT_URL"]):
        with redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace") as opened:
            client: Any = opened  # Its methods have one type for two clients.
            for key in client.scan_iter("*", count=1000):
                read = {
                    "string": (client.get,),
                    "list": (client.lrange, 0, -1),
                    "hash": (client.hgetall,),
                    "set": (client.smembers,),
                    "zset": (client.zrange, 0, -1),
                }[client.type(key)]
                value = read[0](key, *read[1:])
                texts.append(f"{url.rsplit('/', 1)[1]} {key} {value}")
    return "\n".join([*texts, *(decoded(text) for text in texts)])


def decoded(text: str) -> str:
    """The bodies of Celery's messages are base64 of JSON."""
    found = []
    for word in text.replace("'", '"').split('"'):
        try:
            found.append(base64.b64decode(word, validate=True).decode())
        except ValueError:
            continue
    return "\n".join(found)


def clickhouse_dump(deployment: Deployment) -> str:
    """Queries with their settings and exceptions, finished and running."""
    deployment.each_shard("SYSTEM FLUSH LOGS")
    database = deployment.settings["CH_DB"]
    queries = deployment.each_shard(
        "SELECT query, exception, toString(Settings), client_name, query_id, log_comment FROM system.query_log "
        f"WHERE event_time > now() - 3600 AND (position(query, '{database}') > 0 OR exception != '')"
    )
    running = deployment.each_shard("SELECT query, toString(Settings) FROM system.processes")
    return "\n".join(str(row) for shard in (*queries, *running) for row in shard)


def test_the_night_was_as_bad_as_it_should_be(night: Night) -> None:
    """Else the search would show nothing: each fault happened, and each place holds what is to be searched."""
    said = night.said
    assert "run (exit 0)" in said, said
    assert "Redis did not take the message" in said["run without Redis (exit 0)"]
    failed = [name for name in said if "(exit 1)" in name or "(exit 3)" in name]
    assert {name.split(" (")[0] for name in failed} >= {
        *("reconcile, wrong CH_PASSWORD", "reconcile, wrong PQS_URL", "reconcile, away PQS_URL", "status, away PG_DSN"),
        *(f"run, wrong {name}" for name in ("REDIS_URL", "CH_PASSWORD", "PQS_URL")),
        *("status, wrong PG_DSN", "migrate, wrong PG_DSN"),
    }, {name: said[name][-500:] for name in said if "wrong" in name}
    assert "config, faults (exit 2)" in said
    missing: list[str] = []
    for place, words in {
        "log of worker_well": ("Traceback", "Cannot connect to redis://", "slice_done", "results:"),
        "log of beat": ("broker -> redis://", "beat: Starting"),
        "log of flower": ("Broker: redis://",),
        "log of worker_CH_PASSWORD": ("CH_PASSWORD",),
        "log of worker_PQS_URL": ("401",),
        "inspect conf (exit 0)": ("result_backend", "broker_url"),
        "inspect conf with defaults (exit 0)": ("result_backend", "broker_url"),
        "inspect report (exit 0)": ("result_backend",),
        "inspect stats (exit 0)": ("hostname",),
        "report (exit 0)": ("result_backend",),
        "config (exit 0)": ("PQS_PASSWORD",),
        "flower /api/workers": ("worker_well",),
        "flower /worker/worker_well": ("broker", "result_backend"),
        "process list": ("flower", "worker_well"),
        "journal": ("AuthenticationFailed", "127.0.0.1"),
        "redis": ("etl_tasks.", "SUCCESS"),
        "clickhouse": ("INSERT INTO",),
    }.items():
        missing += [
            f"{word} is not in {place}: {said.get(place, '')[-1500:]}"
            for word in words
            if word not in said.get(place, "")
        ]
    assert missing == [], "\n".join(missing) + str(list(said))


def test_no_password_can_be_read_anywhere(night: Night, tokens: dict[str, str]) -> None:
    leaks = [
        f"{place}: {name}'s: …{text[max(0, text.index(token) - 120) : text.index(token)]}<here>"
        for place, text in night.said.items()
        for name, token in tokens.items()
        if token in text
    ]
    assert leaks == [], "\n".join(leaks)
