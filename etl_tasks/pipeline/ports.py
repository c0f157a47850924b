"""What the pipeline asks of its adapters. The composition root (``etl_tasks.wiring``) puts the real ones in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from etl_tasks.core.batch import ColumnBatch, SourceColumn, TargetColumn
from etl_tasks.core.publishing import PublishRequest, PublishResult, StageMetric
from etl_tasks.core.windows import Window


class Source(Protocol):
    """A Phoenix table behind a Query Server. One instance a thread; made after fork."""

    def probe(self) -> None:
        """TCP connect within ``PHX_TCP_PROBE_TIMEOUT_MS``; raises Unreachable."""

    def columns(self) -> Sequence[SourceColumn]:
        """``MAIN_COLUMNS`` as Phoenix's catalog knows them, in that order; raises SchemaError naming every missing one."""

    def access_path(self, window: Window) -> str:
        """What EXPLAIN says of the read of ``window`` (one line a step)."""

    def count(self, window: Window) -> int:
        """Rows of the window now."""

    def read(self, window: Window) -> Iterator[ColumnBatch]:
        """The window's rows, a frame at a time, as raw columns in the order of ``MAIN_COLUMNS``.

        Raises ShortRead for a row outside the window, StatementLost / Unreachable / Overloaded as the error table says.
        Never ends early in silence.
        """

    def discard(self) -> None:
        """Forget the connection without talking to the server (after any failure)."""

    def close(self) -> None:
        """Close politely after success; never raises, never hangs longer than the time-outs."""


class Target(Protocol):
    """ClickHouse behind ``CH_HOSTS``. One instance a thread; made after fork."""

    def columns(self, table: str) -> Sequence[TargetColumn]:
        """The columns of ``database.table`` in order; raises SchemaError when the table is missing."""

    def check_tables(self, main_columns: Sequence[str]) -> Sequence[TargetColumn]:
        """Check RAW, buffer and CLEAN against ``main_columns``; return RAW's columns. Raises SchemaError with all faults."""

    def datetime64_range_ms(self) -> tuple[int, int]:
        """The first and last millisecond that DateTime64(3) holds on this server."""

    def insert(self, batch: ColumnBatch, version_ms: int) -> None:
        """Insert one block into RAW with ``ingested_at = version_ms`` for all rows; returns when every shard has it."""

    def publish(
        self,
        request: PublishRequest,
        *,
        checkpoint: Callable[[], None],
        before_replace: Callable[[], None],
        on_stage: Callable[[StageMetric], None],
    ) -> PublishResult:
        """DESIGN's six steps for one partition on every shard.

        ``checkpoint`` is called between steps and ``before_replace`` right before the first REPLACE of every shard; both raise
        LostOwnership when this publish is no longer the newest. Raises CountMismatch and leaves CLEAN as it was.
        """

    def kill_queries(self, tag: str) -> None:
        """End this system's queries whose query id begins with ``tag`` on every host."""

    def close(self) -> None:
        """Drop the connections; never raises."""
