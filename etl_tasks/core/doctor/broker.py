"""Rules about Redis and the workers on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from etl_tasks.core.doctor.facts import RedisFacts, WorkerFacts
from etl_tasks.core.doctor.findings import Opinion, fail, ok, warn

QUEUES = ("plan", "extract", "backfill", "publish")
# Queues that Celery makes for itself: events, remote control and their replies.
_CELERY_S_OWN = ("celeryev", "celery.pidbox")
ADDRESS = "postgres"
"""Of an installation: where its journal's database is, which may be written in more than one way."""
START_A_WORKER = "start a worker: celery -A etl_tasks worker"


def eviction_opinion(facts: RedisFacts) -> Opinion:
    """A Redis that evicts forgets messages and results."""
    if facts.policy == "noeviction":
        return ok("maxmemory-policy noeviction")
    return fail(
        f"maxmemory-policy {facts.policy}: Redis throws messages away when it is full",
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    )


def persistence_opinion(facts: RedisFacts) -> Opinion:
    """A Redis that keeps nothing costs a sweep after each restart, not rows."""
    if facts.append_only:
        return ok("append-only file on")
    if facts.saves is None or facts.saves:
        return ok(f"snapshots {facts.saves}" if facts.saves else "the server does not tell its snapshots")
    return warn(
        "neither append-only file nor snapshots: a restart of Redis loses what waits, which the sweeper sends again",
        "CONFIG SET appendonly yes, and in redis.conf",
    )


def workers_opinion(workers: Sequence[WorkerFacts]) -> Opinion:
    """Whether anybody works."""
    if not workers:
        return fail("no worker answers", f"{START_A_WORKER} (under a supervisor)")
    return ok(f"{len(workers)} answer: {', '.join(sorted(worker.name for worker in workers))}")


def queue_opinions(ours: Sequence[WorkerFacts], waiting: Mapping[str, int]) -> list[Opinion]:
    """Whether every queue has somebody who takes from it."""
    taken = {queue for worker in ours for queue in worker.queues}
    deserted = [queue for queue in QUEUES if queue not in taken]
    if not deserted:
        return [ok(", ".join(f"{queue} {waiting.get(queue, 0)}" for queue in QUEUES) + " waiting, each has a worker")]
    return [
        fail(
            f"no worker takes the queue {queue}, where {waiting.get(queue, 0)} messages wait",
            f"{START_A_WORKER} -Q {queue}, or one without -Q, which takes all four",
        )
        for queue in deserted
    ]


def neighbour_opinions(
    workers: Sequence[WorkerFacts], declared: Collection[str], installation: Mapping[str, str]
) -> list[Opinion]:
    """Whether this database of Redis is ours alone: two installations take each other's messages.

    ``declared`` are the queues that anybody ever declared in it.
    """
    own_number = "give each installation a database number of its own in REDIS_URL (redis://host:6379/1)"
    found = []
    for worker in workers:
        if different := differences(worker, installation):
            cure = f"{own_number}, and restart its workers"
            found.append(
                fail(
                    f"the worker {worker.name} is of another installation ({different}), and each takes the other's "
                    "messages from this database of Redis",
                    cure,
                )
            )
        elif _elsewhere(worker, installation):
            theirs = worker.conf["etl_installation"].get(ADDRESS)
            found.append(
                warn(
                    f"the worker {worker.name} has its journal in {theirs}, we in {installation[ADDRESS]}",
                    f"write the same PG_DSN everywhere; if these are two databases, {own_number}",
                )
            )
    strange = sorted(queue for queue in declared if queue not in QUEUES and not _of_celery(queue))
    if strange:
        found.append(
            warn(
                f"this database of Redis has queues of another application: {', '.join(strange[:5])}",
                "give each application a database number of its own in REDIS_URL: unacknowledged messages of both lie "
                "in one place, under the visibility time-out of whoever looks first",
            )
        )
    return found or [ok("this database of Redis is ours alone")]


def differences(worker: WorkerFacts, installation: Mapping[str, str]) -> str:
    """How a worker's installation differs from ours in what it carries; empty when it is ours."""
    theirs = worker.conf.get("etl_installation")
    if not isinstance(theirs, Mapping):
        routes = worker.conf.get("task_routes")
        ours = isinstance(routes, Mapping) and any(name.startswith("etl_tasks.") for name in routes)
        return "an older version of this system, restart it" if ours else "another application"
    return ", ".join(
        f"{name} {theirs.get(name)}"
        for name, value in installation.items()
        if name != ADDRESS and theirs.get(name) != value
    )


def _elsewhere(worker: WorkerFacts, installation: Mapping[str, str]) -> bool:
    return bool(worker.conf["etl_installation"].get(ADDRESS) != installation[ADDRESS])


def _of_celery(queue: str) -> bool:
    return any(own in queue for own in _CELERY_S_OWN)


def ladder_opinions(
    rungs: Sequence[tuple[str, float]],
    publish_rungs: Sequence[tuple[str, float]],
    workers: Sequence[WorkerFacts],
    limits: Mapping[str, Any],
) -> list[Opinion]:
    """Time-outs < soft limit < hard limit < visibility time-out, here and in every worker that runs.

    ``rungs`` are (name, seconds) from the shortest to the longest; ``limits`` is what a worker's configuration must
    say, by the names of Celery.
    """
    found = []
    for ladder in (rungs, publish_rungs):
        for (lower, low_s), (upper, high_s) in pairwise(ladder):
            if low_s >= high_s:
                found.append(
                    fail(
                        f"{lower} ({low_s:g} s) is not below {upper} ({high_s:g} s)", f"lower {lower} or raise {upper}"
                    )
                )
    for worker in workers:
        theirs = worker_limits(worker)
        different = [name for name, value in limits.items() if theirs.get(name) != value]
        if different:
            said = ", ".join(f"{name} {theirs.get(name)} instead of {limits[name]}" for name in different)
            found.append(
                fail(
                    f"the worker {worker.name} runs with {said}",
                    f"restart {worker.name} with this host's .env: the shortest visibility time-out counts for all",
                )
            )
    said = " < ".join(f"{name} {seconds:g} s" for name, seconds in rungs)
    return found or [ok(said)]


def worker_limits(worker: WorkerFacts) -> dict[str, Any]:
    """The limits in a worker's configuration, in seconds; None for what it does not say."""
    options = worker.conf.get("broker_transport_options")
    return {
        "visibility_timeout": options.get("visibility_timeout") if isinstance(options, Mapping) else None,
        "task_soft_time_limit": worker.conf.get("task_soft_time_limit"),
        "task_time_limit": worker.conf.get("task_time_limit"),
    }
