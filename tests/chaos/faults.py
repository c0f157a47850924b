"""The faults that are drawn, each against one real process, service, message or session. Every one heals by itself."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg2
import redis
from clickhouse_driver import errors as clickhouse_errors

from devstack.deployment import Deployment
from devstack.failpoints import Failpoints
from devstack.process import Identity, family, identify
from devstack.supervisor import Supervisor

FROZEN_S = (0.5, 4.0)
DOWN_S = (0.0, 2.0)
ARMED_AT_MOST_S = 20.0
QUEUES = ("extract", "backfill", "publish", "plan")
PLACES: Sequence[tuple[str, dict[str, str]]] = (
    ("plan.committed", {}),
    ("slice.claimed", {}),
    ("slice.frame_read", {}),
    ("slice.inserted", {}),
    ("slice.finished", {}),
    ("publish.claimed", {}),
    ("publish.before_replace", {}),
    ("publish.done", {}),
    ("publish.finished", {}),
    ("finalize", {}),
    *(
        ("publish.stage", {"stage": stage, "when": when})
        for stage in ("drop_buf", "attach_clean", "insert_dedup", "optimize_buf", "check", "replace_clean")
        for when in ("before", "after")
    ),
)


class NothingToBreak(Exception):
    """There is nothing at this moment that the fault could hit; another one is drawn."""


@dataclass(frozen=True)
class Fault:
    """``weight``: how often it is drawn. ``part``: what is away while it lasts; no second fault hits that meanwhile."""

    name: str
    weight: int
    part: str | None
    strike: Callable[[random.Random], None]


class Faults:
    """The faults of one deployment under one supervisor. A fault that did not happen raises NothingToBreak."""

    def __init__(
        self,
        deployment: Deployment,
        supervisor: Supervisor,
        workers: Sequence[str],
        lease_s: float,
    ) -> None:
        self._deployment = deployment
        self._stack = deployment.stack
        self._supervisor = supervisor
        self._workers = workers
        self._lease_s = lease_s
        assert deployment.failpoints is not None, "the workers must have been started with failpoints"
        self._failpoints: Failpoints = deployment.failpoints

    def all(self) -> list[Fault]:
        """Every fault."""
        shards = ("clickhouse1", "clickhouse2")
        return [
            Fault("child killed", 8, None, self._kill_child),
            Fault("child frozen", 5, None, self._freeze_child),
            Fault("killed at a failpoint", 20, None, self._arm),
            Fault("worker killed", 2, None, self._kill_worker),
            Fault("worker stopped", 2, None, self._stop_worker),
            Fault("worker frozen", 2, None, self._freeze_worker),
            Fault("postgres backend ended", 6, None, self._end_backend),
            Fault("postgres backends all ended", 2, None, self._end_backends),
            Fault("postgres killed", 2, "postgres", self._on(self._kill, "postgres")),
            Fault("postgres frozen", 2, "postgres", self._on(self._freeze, "postgres")),
            Fault("redis killed", 3, "redis", self._on(self._kill, "redis")),
            Fault("redis killed and emptied", 2, "redis", self._kill_and_empty_redis),
            Fault("redis frozen", 2, "redis", self._on(self._freeze, "redis")),
            Fault("redis flushed", 3, "redis", self._flush),
            Fault("redis connections ended", 3, "redis", self._end_redis_connections),
            Fault("message lost", 4, "redis", self._lose_message),
            Fault("messages doubled", 3, "redis", self._double_messages),
            Fault("chord keys lost", 2, "redis", self._lose_chord_keys),
            *(Fault(f"{shard} killed", 2, shard, self._on(self._kill, shard)) for shard in shards),
            *(Fault(f"{shard} frozen", 2, shard, self._on(self._freeze, shard)) for shard in shards),
            Fault("clickhouse statement killed", 6, None, self._kill_statement),
            Fault("query server killed", 2, "pqs", self._on(self._kill, "pqs")),
            Fault("query server frozen", 3, "pqs", self._on(self._freeze, "pqs")),
            Fault("hbase frozen", 1, "hbase", self._on(self._freeze, "hbase")),
        ]

    @staticmethod
    def _on(strike: Callable[[str, random.Random], None], part: str) -> Callable[[random.Random], None]:
        return lambda chance: strike(part, chance)

    # -- processes ------------------------------------------------------------------------------------------------

    def _main(self, chance: random.Random) -> Identity:
        pid = self._supervisor.pid(chance.choice(self._workers))
        found = identify(pid) if pid else None
        if found is None:
            raise NothingToBreak
        return found

    def _child(self, chance: random.Random) -> Identity:
        children = family(self._main(chance))[1:]
        if not children:
            raise NothingToBreak
        return chance.choice(children)

    def _kill_child(self, chance: random.Random) -> None:
        _send(self._child(chance), signal.SIGKILL)

    def _freeze_child(self, chance: random.Random) -> None:
        """For less or for more than a lease: then its work was taken over when it goes on."""
        self._freeze_process(self._child(chance), chance.uniform(0.3, 2.5) * self._lease_s)

    def _kill_worker(self, chance: random.Random) -> None:
        _send(self._main(chance), signal.SIGKILL)

    def _stop_worker(self, chance: random.Random) -> None:
        _send(self._main(chance), signal.SIGTERM)

    def _freeze_worker(self, chance: random.Random) -> None:
        self._freeze_process(self._main(chance), chance.uniform(*FROZEN_S))

    def _freeze_process(self, process: Identity, seconds: float) -> None:
        _send(process, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send(signal.SIGCONT)

    def _arm(self, chance: random.Random) -> None:
        """Whoever comes by next dies there; when nobody does for some time, the place is free again."""
        name, where = chance.choice(PLACES)
        armed = self._failpoints.arm(name, "kill", **where)
        deadline = time.monotonic() + ARMED_AT_MOST_S
        while time.monotonic() < deadline and not armed.hits():
            time.sleep(0.1)
        armed.disarm()
        if not armed.hits():
            raise NothingToBreak

    # -- services -------------------------------------------------------------------------------------------------

    def _kill(self, part: str, chance: random.Random) -> None:
        self._stack.kill(part)
        time.sleep(chance.uniform(*DOWN_S))
        self._stack.start(part)

    def _freeze(self, part: str, chance: random.Random) -> None:
        self._stack.pause(part)
        try:
            time.sleep(chance.uniform(*FROZEN_S))
        finally:
            self._stack.resume(part)

    def _kill_and_empty_redis(self, _: random.Random) -> None:
        """As a Redis without persistence comes back."""
        self._stack.kill("redis")
        kept = list((self._stack.config.state_dir / "redis").glob("*.aof"))
        for file in kept:
            file.unlink()
        self._stack.start("redis")
        if not kept:
            raise NothingToBreak

    # -- sessions and statements ----------------------------------------------------------------------------------

    def _end_backends_of(self, pids: Sequence[int]) -> None:
        with _quietly():
            ended = self._deployment.journal("SELECT pg_terminate_backend(pid) AS ended FROM unnest(%s) AS pid", pids)
        if not any(row.ended for row in ended):
            raise NothingToBreak

    def _ours(self) -> list[int]:
        with _quietly():
            rows = self._deployment.journal(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%etl_tasks%' AND pid <> pg_backend_pid()"
            )
        if not rows:
            raise NothingToBreak
        return [int(row.pid) for row in rows]

    def _end_backend(self, chance: random.Random) -> None:
        self._end_backends_of([chance.choice(self._ours())])

    def _end_backends(self, _: random.Random) -> None:
        self._end_backends_of(self._ours())

    def _kill_statement(self, chance: random.Random) -> None:
        shard = chance.randrange(2)
        with _quietly():
            running = self._deployment.query(
                "SELECT query_id FROM system.processes WHERE startsWith(query_id, 'etl-')", shard=shard
            )
            if not running:
                raise NothingToBreak
            (victim,) = chance.choice(running)
            killed = self._deployment.query("KILL QUERY WHERE query_id = %(victim)s ASYNC", {"victim": victim}, shard)
        if not killed:
            raise NothingToBreak

    # -- messages -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _redis(self) -> Iterator[redis.Redis]:
        with _quietly(), redis.Redis.from_url(self._deployment.settings["REDIS_URL"], socket_timeout=3) as client:
            yield client

    def _flush(self, _: random.Random) -> None:
        with self._redis() as client:
            if not client.dbsize():
                raise NothingToBreak
            client.flushall()

    def _end_redis_connections(self, _: random.Random) -> None:
        with self._redis() as client:
            if not client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"):
                raise NothingToBreak

    def _lose_message(self, chance: random.Random) -> None:
        with self._redis() as client:
            if client.rpop(chance.choice(QUEUES)) is None:
                raise NothingToBreak

    def _double_messages(self, chance: random.Random) -> None:
        queue = chance.choice(QUEUES)
        with self._redis() as client:
            messages: list[bytes] = client.lrange(queue, 0, 20)  # type: ignore[assignment]
            if not messages:
                raise NothingToBreak
            client.lpush(queue, *messages)

    def _lose_chord_keys(self, _: random.Random) -> None:
        with self._redis() as client:
            keys: list[bytes] = [*client.scan_iter("celery-taskset-meta-*"), *client.scan_iter("*.s")]
            if not keys:
                raise NothingToBreak
            client.delete(*keys)


def _send(process: Identity, number: int) -> None:
    if not process.alive():
        raise NothingToBreak
    process.send(number)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The service that was to be asked is away: that is another fault's doing."""
    try:
        yield
    except (psycopg2.Error, redis.RedisError, clickhouse_errors.Error, OSError, EOFError) as error:
        raise NothingToBreak from error
