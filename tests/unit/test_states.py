"""The journal's states as DESIGN draws them."""

from __future__ import annotations

from enum import StrEnum
from itertools import product

import pytest

from etl_tasks.core.states import (
    ACTIVE_RUN_STATUSES,
    OPEN_SLICE_STATES,
    PartitionState,
    PublishState,
    RunStatus,
    SliceState,
    dedup_process,
    is_allowed,
    process_for,
)

ALLOWED: dict[type[StrEnum], set[str]] = {
    RunStatus: {
        "planned running",
        "planned ok",
        "planned error",
        "planned skipped",
        "running ok",
        "running error",
    },
    SliceState: {
        "planned running",
        "planned error",
        "running running",
        "running planned",
        "running done",
        "running split",
        "running error",
        "done planned",
        "done error",
    },
    PublishState: {
        "idle due",
        "due running",
        "due error",
        "running running",
        "running idle",
        "running due",
        "running error",
        "error due",
    },
    PartitionState: {
        "waiting loading",
        "waiting done",
        "loading publishing",
        "loading done",
        "publishing loading",
        "publishing done",
    },
}


@pytest.mark.parametrize("kind", ALLOWED, ids=lambda kind: kind.__name__)
def test_transitions(kind: type[StrEnum]) -> None:
    found = {f"{before} {after}" for before, after in product(kind, kind) if is_allowed(before, after)}
    assert found == ALLOWED[kind]


def test_states_of_two_kinds_are_not_compared() -> None:
    with pytest.raises(TypeError, match="one kind"):
        is_allowed(RunStatus.PLANNED, SliceState.RUNNING)
    # Equal as text, and yet not the same: a run that runs may not be planned again, a slice may.
    assert is_allowed(SliceState.RUNNING, SliceState.PLANNED)
    assert not is_allowed(RunStatus.RUNNING, RunStatus.PLANNED)


def test_active_and_open() -> None:
    # What is not active never moves again, and what is active always can.
    for status in RunStatus:
        assert (status in ACTIVE_RUN_STATUSES) == any(is_allowed(status, after) for after in RunStatus)
    assert {str(state) for state in OPEN_SLICE_STATES} == {"planned", "running"}


def test_texts_are_those_of_the_journal() -> None:
    assert [str(status) for status in RunStatus] == ["planned", "running", "ok", "error", "skipped"]
    assert [str(state) for state in SliceState] == ["planned", "running", "done", "split", "error"]
    assert [str(state) for state in PublishState] == ["idle", "due", "running", "error"]
    assert [str(state) for state in PartitionState] == ["waiting", "loading", "publishing", "done"]


def test_lanes() -> None:
    assert process_for("codes_history_increment", manual=False) == "codes_history_increment"
    assert process_for("codes_history_increment", manual=True) == "manual_codes_history_increment"
    assert dedup_process("codes_history_increment") == "codes_history_increment:dedup"
