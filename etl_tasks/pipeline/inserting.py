"""Blocks on their way into RAW while the source is read: at most one at a time, each bounded in rows and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType

from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.columns import joined
from etl_tasks.threads import Crew, Job

INTERRUPT_EVERY_S = 1.0
"""An insert that is nearly done may end; one that is interrupted may have been about to connect."""


class Inserter:
    """A context manager that inserts one block while the next one is fetched; every call after a failure raises it.
    Entered twice (see ``threads``), nothing is inserted any more when it was left, by whatever.

    ``insert`` is called in a thread of its own, one call at a time; ``interrupt`` is to make it fail. A block has at
    most ``most_rows`` rows and ``most_bytes`` bytes, unless a single batch has more. ``rows`` counts what is in RAW.
    """

    def __init__(
        self,
        insert: Callable[[ColumnBatch], None],
        interrupt: Callable[[], None],
        most_rows: int,
        most_bytes: int,
    ) -> None:
        self._insert = insert
        self._interrupt = interrupt
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._crew = Crew(1, "insert")
        self._latest: Job[None] | None = None
        self._pending: list[ColumnBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self.rows = 0

    def __enter__(self) -> Inserter:
        self._crew.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the block on its way, which nobody else may use the target beside; broken off, end it."""
        try:
            self._crew.dismiss()
            self._crew.wait_until_ended()
        except BaseException:
            self._end()
            raise
        failure = self._latest.error if self._latest is not None else None
        if failure is not None and failure is not error:
            # It is nobody's: the frames of its traceback hold a block and this object, until there is a collection.
            failure.__traceback__ = None

    def add(self, batch: ColumnBatch) -> None:
        """Take the batch; insert what is pending first if the two together would pass a bound, and all of it if it is
        half a block and nothing else is being inserted.
        """
        rows, size = self._pending_rows + batch.rows, self._pending_bytes + batch.approximate_bytes
        if self._pending and (rows > self._most_rows or size > self._most_bytes):
            self._submit()
        self._pending.append(batch)
        self._pending_rows += batch.rows
        self._pending_bytes += batch.approximate_bytes
        half = self._pending_rows * 2 >= self._most_rows or self._pending_bytes * 2 >= self._most_bytes
        if half and (self._latest is None or self._latest.over):
            # ClickHouse waits for the source: the less is pending at the end, the sooner the slice is done.
            self._submit()

    def finish(self) -> None:
        """Insert the rest; returns when every row is in RAW."""
        if self._pending_rows:
            self._submit()
        self._wait()

    def _submit(self) -> None:
        self._wait()
        block = _joined(self._pending)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        self._latest = Job(partial(self._run, block))
        self._crew.give(self._latest)

    def _run(self, block: ColumnBatch) -> None:
        self._insert(block)
        self.rows += block.rows

    def _end(self) -> None:
        self._crew.dismiss()  # the first time may have been interrupted
        while not self._crew.wait_until_ended(INTERRUPT_EVERY_S):
            self._interrupt()

    def _wait(self) -> None:
        if self._latest is not None:
            self._latest.result()


def _joined(batches: Sequence[ColumnBatch]) -> ColumnBatch:
    """One block of all batches' rows."""
    if len(batches) == 1:
        return batches[0]
    columns = [joined(parts) for parts in zip(*(batch.columns for batch in batches), strict=True)]
    return ColumnBatch(
        batches[0].names,
        columns,
        sum(batch.rows for batch in batches),
        sum(batch.approximate_bytes for batch in batches),
    )
