"""The journal's states, which may follow which, and the names of its lanes (DESIGN, "The journal")."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

MANUAL_PREFIX = "manual_"
DEDUP_SUFFIX = ":dedup"


class RunStatus(StrEnum):
    """A row of ``inc_processing``; ``planned`` and ``running`` are the active ones."""

    PLANNED = "planned"
    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    SKIPPED = "skipped"


class SliceState(StrEnum):
    """A slice of a run; ``planned`` and ``running`` are the open ones."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    SPLIT = "split"
    ERROR = "error"


class PublishState(StrEnum):
    """The publish of one partition of one CLEAN table, for every lane."""

    IDLE = "idle"
    DUE = "due"
    RUNNING = "running"
    ERROR = "error"


class PartitionState(StrEnum):
    """One partition within one run: not yet released, its slices at work, its publish owed, finished with."""

    WAITING = "waiting"
    LOADING = "loading"
    PUBLISHING = "publishing"
    DONE = "done"


RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    # A run without slices is finalized where it was planned; a stale or beaten plan is skipped; cancel is an error.
    RunStatus.PLANNED: frozenset({RunStatus.RUNNING, RunStatus.OK, RunStatus.ERROR, RunStatus.SKIPPED}),
    RunStatus.RUNNING: frozenset({RunStatus.OK, RunStatus.ERROR}),
    RunStatus.OK: frozenset(),
    RunStatus.ERROR: frozenset(),
    RunStatus.SKIPPED: frozenset(),
}

SLICE_TRANSITIONS: Mapping[SliceState, frozenset[SliceState]] = {
    SliceState.PLANNED: frozenset({SliceState.RUNNING, SliceState.ERROR}),
    # To running again: another attempt takes over an expired lease. To planned: an unreachable service, a graceful
    # stop.
    SliceState.RUNNING: frozenset(
        {SliceState.RUNNING, SliceState.PLANNED, SliceState.DONE, SliceState.SPLIT, SliceState.ERROR}
    ),
    # A publish that finds fewer keys in the window than were counted opens the slice again; where its run has ended,
    # the
    # window counts as not loaded.
    SliceState.DONE: frozenset({SliceState.PLANNED, SliceState.ERROR}),
    SliceState.SPLIT: frozenset(),
    SliceState.ERROR: frozenset(),
}

PUBLISH_TRANSITIONS: Mapping[PublishState, frozenset[PublishState]] = {
    PublishState.IDLE: frozenset({PublishState.DUE}),
    PublishState.DUE: frozenset({PublishState.RUNNING, PublishState.ERROR}),
    # To running again: a newer token takes over. To due: to be tried again, or loads went on meanwhile.
    PublishState.RUNNING: frozenset({PublishState.RUNNING, PublishState.IDLE, PublishState.DUE, PublishState.ERROR}),
    # The next load, or an operator, makes it due again.
    PublishState.ERROR: frozenset({PublishState.DUE}),
}

PARTITION_TRANSITIONS: Mapping[PartitionState, frozenset[PartitionState]] = {
    PartitionState.WAITING: frozenset({PartitionState.LOADING, PartitionState.DONE}),
    # Straight to done: nothing was loaded, or publishing at the end is off.
    PartitionState.LOADING: frozenset({PartitionState.PUBLISHING, PartitionState.DONE}),
    # Back to loading: the publish opened slices again.
    PartitionState.PUBLISHING: frozenset({PartitionState.LOADING, PartitionState.DONE}),
    PartitionState.DONE: frozenset(),
}

ACTIVE_RUN_STATUSES = frozenset({RunStatus.PLANNED, RunStatus.RUNNING})
"""The statuses of which a process may have one run at most (``inc_processing_active_one_uq_idx``)."""

OPEN_SLICE_STATES = frozenset({SliceState.PLANNED, SliceState.RUNNING})
"""The states of slices that still have something to do."""


def is_allowed(before: StrEnum, after: StrEnum) -> bool:
    """Whether ``after`` may follow ``before``; raises TypeError when they are not states of one and the same kind."""
    # Chosen by type: members of different StrEnums with the same text are equal, so one big table would mix them up.
    if isinstance(before, RunStatus) and isinstance(after, RunStatus):
        return after in RUN_TRANSITIONS[before]
    if isinstance(before, SliceState) and isinstance(after, SliceState):
        return after in SLICE_TRANSITIONS[before]
    if isinstance(before, PublishState) and isinstance(after, PublishState):
        return after in PUBLISH_TRANSITIONS[before]
    if isinstance(before, PartitionState) and isinstance(after, PartitionState):
        return after in PARTITION_TRANSITIONS[before]
    raise TypeError(f"{before!r} and {after!r} are not two states of one kind")


def process_for(process_name: str, manual: bool) -> str:
    """The journal's name of a lane: ``process_name`` for the schedule, ``manual_<process_name>`` for runs by hand."""
    return MANUAL_PREFIX + process_name if manual else process_name


def lanes_of(process_name: str) -> list[str]:
    """The names of all our lanes: the schedule, the runs by hand beside it, and the publishes of each."""
    loading = [process_for(process_name, manual) for manual in (False, True)]
    return [*loading, *map(dedup_process, loading)]


def dedup_process(process: str) -> str:
    """The journal's name under which the publishes of ``process`` stand: ``<process>:dedup``."""
    return process + DEDUP_SUFFIX
