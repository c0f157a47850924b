"""Following a run in the journal until it ends; whoever follows does none of its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from etl_tasks.cli.texts import count_of, duration, first_line, iso
from etl_tasks.core.status import FailedSlice, PartitionProgress, RunProgress
from etl_tasks.errors import Unreachable

T = TypeVar("T")

WORKER_COMMAND = "celery -A etl_tasks worker"
POLL_S = 1.0
IDLE_S = 15.0
"""So long nothing may move before the operator is told that no worker seems to be there."""
JOURNAL_PATIENCE_S = 120.0


class RunReader(Protocol):
    """Where a run is read."""

    def progress(self, run_id: int, settled: Collection[int] = ()) -> RunProgress:
        """The run as it is now; raises Unreachable."""

    def failed_slices(self, run_id: int, most: int) -> list[FailedSlice]:
        """Windows that it could not load."""


class Screen(Protocol):
    """Where it is shown."""

    def show(self, progress: RunProgress, totals: Totals) -> None:
        """The state of the run, again and again."""

    def line(self, text: str) -> None:
        """What stays: a partition that is done."""

    def note(self, text: str) -> None:
        """What somebody may have to do."""


class Totals:
    """Sums over the partitions, whose slices are counted no more once a partition has been announced."""

    def __init__(self) -> None:
        self._by_partition: dict[int, PartitionProgress] = {}
        self._announced: set[int] = set()

    @property
    def announced(self) -> Collection[int]:
        """Partitions that are done and have been said to be."""
        return self._announced

    def take(self, progress: RunProgress) -> list[PartitionProgress]:
        """Remember the state; the partitions that are done since the last time, in order."""
        news = []
        for partition in progress.partitions:
            if partition.partition in self._announced:
                continue
            self._by_partition[partition.partition] = partition
            if partition.state == "done":
                self._announced.add(partition.partition)
                news.append(partition)
        return news

    @property
    def rows(self) -> int:
        """Rows inserted so far."""
        return sum(partition.rows for partition in self._by_partition.values())

    @property
    def splits(self) -> int:
        """Slices split so far."""
        return sum(partition.splits for partition in self._by_partition.values())

    @property
    def published(self) -> int:
        """Partitions published as far as the run wants them to be."""
        return sum(partition.published for partition in self._by_partition.values())


class Follower:
    """Polls the journal and says what is new."""

    def __init__(
        self,
        reader: RunReader,
        screen: Screen,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._screen = screen
        self._sleep = sleep
        self._clock = clock
        self._last: object = None
        self._changed_at = clock()
        self._noted: object = None
        self.totals = Totals()

    def follow(self, run_id: int) -> RunProgress:
        """The run as it ended. Raises Unreachable when the journal has been away for too long; the run goes on."""
        while True:
            progress = self._read(run_id)
            for partition in self.totals.take(progress):
                self._screen.line(partition_line(partition))
            self._screen.show(progress, self.totals)
            if progress.run.ended_at is not None:
                return progress
            self._watch(progress)
            self._sleep(POLL_S)

    def _read(self, run_id: int) -> RunProgress:
        return read_patiently(
            lambda: self._reader.progress(run_id, self.totals.announced),
            self._screen.note,
            sleep=self._sleep,
            clock=self._clock,
        )

    def _watch(self, progress: RunProgress) -> None:
        """Tell why nothing moves, once for every reason."""
        now = self._clock()
        state = (
            progress.done,
            progress.total,
            [(each.partition, each.state, each.publish_state, each.rows) for each in progress.partitions],
        )
        if state != self._last or progress.at_work:
            if state != self._last and progress.waiting is None:
                self._noted = None
            self._last, self._changed_at = state, now
        waiting = progress.waiting
        if waiting is not None:
            self._note_once(
                (waiting.error_kind, waiting.first_line),
                f"{sum(each.waiting for each in progress.partitions)} slices wait to be tried again, the first at "
                f"{iso(waiting.not_before) if waiting.not_before else '-'}: {waiting.error_kind}: {waiting.first_line}",
            )
        elif not progress.bides_its_time and now - self._changed_at >= IDLE_S:
            self._note_once("idle", f"no worker has taken anything for {IDLE_S:g} s: start one with {WORKER_COMMAND}")

    def _note_once(self, reason: object, text: str) -> None:
        if reason != self._noted:
            self._noted = reason
            self._screen.note(text)


def read_patiently(
    read: Callable[[], T],
    note: Callable[[str], None],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> T:
    """What ``read`` returns, through an absence of the journal; raises Unreachable when that lasts too long."""
    away_since: float | None = None
    while True:
        try:
            return read()
        except Unreachable as error:
            if away_since is None:
                away_since = clock()
                note(f"{error}; the work goes on, following it is tried again")
            elif clock() - away_since > JOURNAL_PATIENCE_S:
                raise
            sleep(POLL_S * 3)


def partition_line(partition: PartitionProgress) -> str:
    """What became of a partition of the run, in one line."""
    facts = [
        count_of(partition.rows, "row"),
        count_of(partition.slices, "slice"),
        count_of(partition.splits, "split"),
        f"loaded and published in {duration(partition.loading_s)}",
    ]
    if partition.failed_slices:
        facts.insert(2, f"{count_of(partition.failed_slices, 'slice')} in error")
    if partition.publish_failed:
        return f"{partition.partition}  NOT PUBLISHED: {first_line(partition.publish_error)} ({', '.join(facts[:-1])})"
    if not partition.loaded:
        return f"{partition.partition}  nothing loaded ({', '.join(facts[:-1])})"
    if not partition.published:
        return f"{partition.partition}  loaded, its publish is owed ({', '.join(facts[:-1])})"
    if partition.publish_ms is not None:
        facts.append(f"the publish {duration(partition.publish_ms / 1000)}")
    if partition.clean_rows is not None:
        facts.append(f"{count_of(partition.clean_rows, 'row')} in CLEAN")
    state = "published, INCOMPLETE" if partition.failed_slices else "published"
    return f"{partition.partition}  {state}: {', '.join(facts)}"
