"""A stage that is left while its threads are at work."""

from __future__ import annotations

import threading
import time

import pytest

from etl_tasks.adapters.clickhouse import stages as stages_module
from etl_tasks.adapters.clickhouse.stages import Stages
from etl_tasks.errors import LostOwnership
from etl_tasks.threads import Crew


def test_a_stage_that_was_left_is_interrupted_until_its_threads_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages_module, "CHECKPOINT_EVERY_S", 0.05)
    monkeypatch.setattr(stages_module, "INTERRUPT_EVERY_S", 0.5)
    ended = {"quick": threading.Event(), "deaf": threading.Event(), "heeding": threading.Event()}
    ended["quick"].set()
    interrupted: list[str] = []

    def work(name: str) -> None:
        assert ended[name].wait(20)

    def checkpoint() -> None:
        (quick,) = [job for job, name in stages._running.items() if name == "quick"]
        assert quick.wait(20)
        raise LostOwnership("a newer publish has begun")

    def interrupt(name: str) -> None:
        interrupted.append(name)
        # The deaf one was about to connect when it was interrupted for the first time.
        if name == "heeding" or interrupted.count(name) == 3:
            ended[name].set()

    with Crew(3, "publish") as crew:
        stages: Stages[str] = Stages(crew, 20260101, lambda metric: None, [], lambda name: None)
        with pytest.raises(LostOwnership):
            stages.run("insert_dedup", work, list(ended), checkpoint)
        before = time.monotonic()
        stages.end(interrupt)
        assert time.monotonic() - before < 10
    assert interrupted.count("deaf") == 3
    assert interrupted.count("heeding") >= 1
    assert "quick" not in interrupted


def test_a_stage_that_has_ended_is_not_interrupted() -> None:
    with Crew(1, "publish") as crew:
        stages: Stages[str] = Stages(crew, 20260101, lambda metric: None, [], lambda name: None)
        stages.run("check", lambda name: None, ["one"])
        stages.end(lambda name: pytest.fail(f"{name} had ended"))
