"""A publish by hand: made due now and sent; a rebuild only with what it would take from CLEAN agreed to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from etl_tasks.core.publishing import PublishProgress
from etl_tasks.core.rebuilding import RebuildOutlook, minutes_of, rebuild_outlook
from etl_tasks.core.windows import Window, midnight_of
from etl_tasks.errors import UsageError
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.tell import send_publishes

log = structlog.get_logger(__name__)


class AskJournal(Protocol):
    """Publishes asked for by hand."""

    def progress(self, partition: int) -> PublishProgress | None: ...
    def ask(self, partition: int, *, rebuild: bool, least_rows: int | None, lost: Sequence[Window]) -> int | None: ...


class CountedTarget(Protocol):
    """What is asked of ClickHouse here."""

    def count_windows(self, table: str, windows: Sequence[Window]) -> list[int]:
        """The rows of each window; RAW is counted without its repeats."""


@dataclass(frozen=True, slots=True)
class AskContext:
    """What asking needs; ``raw_table`` and ``clean_all_table`` are over all shards. ``shift_min`` is for messages."""

    journal: Journal
    asking: AskJournal
    dispatcher: Dispatcher
    target: CountedTarget
    clean_table: str
    raw_table: str
    clean_all_table: str
    shift_min: int


def known_partition(partition: int, context: AskContext) -> PublishProgress:
    """The partition as it is now; raises UsageError when nothing was ever loaded into it."""
    progress = context.asking.progress(partition)
    if progress is None or not progress.loaded_gen:
        since = midnight_of(partition) - timedelta(minutes=context.shift_min)
        raise UsageError(
            f"nothing was ever loaded into partition {partition} of {context.clean_table}, so there is nothing to "
            f"publish; load it with python -m etl_tasks run --manual --since {since:%Y-%m-%dT%H:%M:%SZ} --until "
            f"{since + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
        )
    return progress


def look_ahead(partition: int, context: AskContext) -> RebuildOutlook:
    """What a rebuild of the partition would take from CLEAN, by the minute. Raises what ClickHouse raises."""
    minutes = minutes_of(partition)
    clean = context.target.count_windows(context.clean_all_table, minutes)
    # RAW last: what it gets meanwhile is no loss of CLEAN's.
    return rebuild_outlook(partition, minutes, clean, context.target.count_windows(context.raw_table, minutes))


def ask_publish(partition: int, outlook: RebuildOutlook | None, context: AskContext) -> int | None:
    """Make the partition's publish due now and send it; the generation that it reaches at least.

    With an ``outlook`` it is a rebuild that leaves at least the keys that RAW was seen to have; windows in which it
    loses rows count as not loaded once it is done, so that ``gaps`` names them until they are loaded again. None:
    nothing is to be published, or it is being published right now.
    """
    asked = context.asking.ask(
        partition,
        rebuild=outlook is not None,
        least_rows=outlook.raw_rows if outlook else None,
        lost=[loss.window for loss in outlook.losses] if outlook else [],
    )
    if asked is not None:
        log.info("publish_asked", partition=partition, rebuild=outlook is not None)
        send_publishes(context.dispatcher, [partition])
    return asked
