"""Following publishes asked for by hand in the journal until they end; whoever follows does none of the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from etl_tasks.cli.following import IDLE_S, POLL_S, WORKER_COMMAND, read_patiently
from etl_tasks.cli.texts import count_of, duration, first_line, iso_second, number
from etl_tasks.core.publishing import PublishProgress
from etl_tasks.core.states import PublishState
from etl_tasks.errors import UsageError


@dataclass(slots=True)
class _Followed:
    """One partition: how it was when it was asked for, the generation to be reached (None: it is to be asked for yet),
    and what has been said of it.
    """

    partition: int
    before: PublishProgress
    asked_gen: int | None = None
    seen_run: int | None = None
    stages_said: int = 0
    noted: str = ""
    last: object = None
    changed_at: float = 0.0


class PublishFollower:
    """Asks for publishes, and says what becomes of them: a line a stage on stdout, what hinders them on stderr.

    ``read`` is the partition's publish now; ``ask`` makes it due and returns the generation it will reach, or None when
    there is nothing to publish or it is being published already.
    """

    def __init__(
        self,
        read: Callable[[int], PublishProgress | None],
        ask: Callable[[int], int | None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_now = read
        self._ask = ask
        self._sleep = sleep
        self._clock = clock

    def ask_once(self, partition: int, rebuild: bool) -> None:
        """Ask, and say what is to be expected. Raises UsageError for a rebuild while a publish is under way."""
        if self._ask(partition) is not None:
            click.echo(f"{partition}  its publish is due now; follow it with: python -m etl_tasks status")
            return
        now = self._read(partition)
        if now.state != PublishState.RUNNING:
            click.echo(_already(now))
        elif rebuild:
            raise UsageError(f"partition {partition} is being published right now: ask again when that has ended")
        else:
            click.echo(f"{partition}  is being published right now")

    def follow(self, partitions: Sequence[int], rebuild: bool) -> bool:
        """Ask for all of them and wait for their ends; whether every one is published. Raises what the journal raises
        when it has been away for too long; the publishes go on.
        """
        open_ones = []
        for partition in partitions:
            before = self._read(partition)
            seen_run = None if before.state == PublishState.RUNNING else before.publish_run_id
            open_ones.append(_Followed(partition, before, seen_run=seen_run, changed_at=self._clock()))
        failed = False
        while open_ones:
            for each in list(open_ones):
                ended = self._look(each, rebuild)
                if ended is not None:
                    open_ones.remove(each)
                    failed = failed or not ended
            if open_ones:
                self._sleep(POLL_S)
        return not failed

    def _look(self, each: _Followed, rebuild: bool) -> bool | None:
        """None while it goes on, else whether it is published."""
        now = self._read(each.partition)
        self._say_stages(each, now)
        if each.asked_gen is None:
            return self._ask_when_free(each, now)
        if rebuild:
            if not now.rebuild:
                return self._rebuilt(each, now)
        elif now.state == PublishState.ERROR:
            click.echo(f"{each.partition}  NOT PUBLISHED: {first_line(now.error)}", err=True)
            return False
        # One that was in error with nothing owed has its generation before anything is done.
        elif now.published_gen >= each.asked_gen and now.published_at != each.before.published_at:
            click.echo(_published(now))
            return True
        self._watch(each, now)
        return None

    @staticmethod
    def _rebuilt(each: _Followed, now: PublishProgress) -> bool:
        """Whether the rebuild was done, by its own end: other publishes may have come since."""
        tried = now.rebuild_run_id != each.before.rebuild_run_id
        if tried and not now.rebuild_error:
            click.echo(_published(now))
            return True
        why = first_line(now.rebuild_error) if tried else "no attempt of it was made"
        click.echo(f"{each.partition}  NOT REBUILT, CLEAN keeps what it had: {why}", err=True)
        return False

    def _ask_when_free(self, each: _Followed, now: PublishProgress) -> bool | None:
        if now.state == PublishState.RUNNING:
            self._note(each, "is being published right now; once more when that has ended")
            return None
        each.before = now
        each.asked_gen = self._ask(each.partition)
        each.changed_at = self._clock()
        if each.asked_gen is None and (after := self._read(each.partition)).state != PublishState.RUNNING:
            click.echo(_already(after))
            return True
        return None

    def _say_stages(self, each: _Followed, now: PublishProgress) -> None:
        if now.publish_run_id == each.seen_run:
            return
        if each.stages_said > len(now.stages):
            each.stages_said = 0  # another attempt
        for metric in now.stages[each.stages_said :]:
            click.echo(f"{metric.part}  {metric.stage:<16} {number(metric.ms):>8} ms")
        each.stages_said = len(now.stages)

    def _watch(self, each: _Followed, now: PublishProgress) -> None:
        """Tell why nothing moves, once for every reason."""
        state = now.state, now.publish_run_id, len(now.stages), now.not_before
        if state != each.last or now.busy:
            each.last, each.changed_at = state, self._clock()
        if now.state == PublishState.DUE and now.waits and now.not_before is not None:
            why = first_line(now.error) or "it was put off"
            self._note(each, f"is tried again from {iso_second(now.not_before)}: {why}")
        elif self._clock() - each.changed_at >= IDLE_S:
            self._note(each, f"no worker has taken it for {IDLE_S:g} s: start one with {WORKER_COMMAND}")

    def _read(self, partition: int) -> PublishProgress:
        now = read_patiently(
            lambda: self._read_now(partition),
            lambda text: click.echo(f"note: {text}", err=True),
            sleep=self._sleep,
            clock=self._clock,
        )
        if now is None:
            raise UsageError(f"the journal knows nothing of partition {partition} any more")
        return now

    @staticmethod
    def _note(each: _Followed, text: str) -> None:
        if text != each.noted:
            each.noted = text
            click.echo(f"note: {each.partition} {text}", err=True)


def _published(now: PublishProgress) -> str:
    rows = f"{count_of(now.rows, 'row')} in CLEAN, " if now.rows is not None else ""
    return f"{now.partition}  published: {rows}{duration((now.duration_ms or 0) / 1000)}"


def _already(now: PublishProgress) -> str:
    when = f", at {iso_second(now.published_at)}" if now.published_at else ""
    return f"{now.partition}  nothing to publish: all that is loaded is published{when}"
