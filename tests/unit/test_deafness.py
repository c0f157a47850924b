"""A deaf worker is told from one that is idle, busy, or beside a Redis that is away."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from etl_tasks.core.deafness import Observation, Suspicion, is_deaf, suspect
from etl_tasks.errors import Unreachable
from etl_tasks.pipeline.deafness import DeafnessWatch

PATIENCE_S = 180.0


def deaf_after(*seen: Observation) -> list[bool]:
    suspicion: Suspicion | None = None
    verdicts = []
    for observation in seen:
        suspicion = suspect(suspicion, observation)
        verdicts.append(is_deaf(suspicion, observation.at, PATIENCE_S))
    return verdicts


def look(at: float, *, taken: int = 7, busy: bool = False, queued: int | None = 1) -> Observation:
    return Observation(at, taken, busy, queued)


def test_idle_beside_waiting_work_for_the_whole_patience_is_deaf() -> None:
    assert deaf_after(look(0), look(100), look(179.9), look(180)) == [False, False, False, True]


def test_work_that_has_just_come_to_a_long_idle_worker_is_no_sign() -> None:
    assert deaf_after(look(0, queued=0), look(5000, queued=0), look(5010, queued=3), look(5189)) == [False] * 4


@pytest.mark.parametrize(
    "between",
    [look(100, busy=True), look(100, queued=0), look(100, queued=None), look(100, taken=8)],
    ids=["busy", "empty queue", "Redis away", "took one"],
)
def test_any_sign_of_life_starts_the_patience_anew(between: Observation) -> None:
    later = [look(at, taken=between.taken) for at in (110, 200, 279)]
    assert deaf_after(look(0), between, *later) == [False] * 5
    assert deaf_after(look(0), between, *later, look(300, taken=between.taken))[-1]


def watch(answers: list[int | Unreachable], busy: Sequence[bool] = (), patience_s: float = 0.0) -> DeafnessWatch:
    busy_answers = list(busy)

    def waiting(queues: Sequence[str]) -> int:
        assert list(queues) == ["extract", "publish"]
        answer = answers.pop(0)
        if isinstance(answer, Unreachable):
            raise answer
        return answer

    return DeafnessWatch(
        waiting=waiting,
        queues=lambda: ["extract", "publish"],
        busy=lambda: busy_answers.pop(0) if busy_answers else False,
        patience_s=patience_s,
    )


def test_the_watch_asks_redis_only_while_the_worker_is_idle() -> None:
    answers: list[int | Unreachable] = [0, Unreachable("away"), 2]
    looking = watch(answers, busy=[True, True])
    assert [looking.deaf() for _ in range(5)] == [False, False, False, False, True]
    assert answers == []


def test_a_worker_that_reads_no_queue_is_not_deaf() -> None:
    looking = watch([])
    looking.queues = list
    assert not looking.deaf()


def test_a_message_taken_clears_the_watch() -> None:
    looking = watch([1, 1, 1], patience_s=0.05)
    assert not looking.deaf()
    looking.message_taken()
    assert not looking.deaf()
