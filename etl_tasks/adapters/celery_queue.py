"""Messages to the workers through Celery, and what Redis holds of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis.exceptions
from celery import Celery, chord
from kombu.exceptions import KombuError, OperationalError

from etl_tasks.errors import BrokerFull, BrokerRefused, Unreachable

EXTRACT_QUEUE = "extract"
BACKFILL_QUEUE = "backfill"
# How Redis and redis-py say it, whatever kombu wraps it in.
_REFUSALS = ("WRONGPASS", "NOAUTH", "invalid username-password pair", "Authentication required", "invalid password")
# redis-py takes the leading "OOM" off.
_FULL = "used memory > 'maxmemory'"


@contextmanager
def sending() -> Iterator[None]:
    """What kombu and redis-py raise, as BrokerRefused, BrokerFull or Unreachable."""
    try:
        yield
    except (OperationalError, KombuError, redis.exceptions.RedisError, ConnectionError, TimeoutError) as error:
        said = f"{type(error).__name__}: {error}"
        if any(word in said for word in _REFUSALS):
            raise BrokerRefused(
                f"Redis refused us ({said}); check the user and password in REDIS_URL; what is planned stays in the "
                "journal, and a worker that Redis lets in sends it"
            ) from error
        if _FULL in said:
            raise BrokerFull(
                f"Redis is full ({said}); give it more memory (maxmemory) or remove what else it holds; what is due "
                "stays in the journal, and the first sweep that Redis lets in sends it"
            ) from error
        raise Unreachable(
            f"Redis did not take the message ({said}); the sweeper sends it again; check REDIS_URL and that Redis runs"
        ) from error


class CeleryDispatcher:
    """The ``Dispatcher`` port over the app's broker. Every message carries ids only."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send_partition(self, partition: int, slice_ids: Sequence[int], manual: bool) -> None:
        """A chord: one ``extract_load_slice`` a slice, then ``dedup_publish`` of the partition."""
        queue = BACKFILL_QUEUE if manual else EXTRACT_QUEUE
        header = [
            self._app.signature(
                "etl_tasks.extract_load_slice", args=(slice_id,), immutable=True, options={"queue": queue}
            )
            for slice_id in slice_ids
        ]
        body = self._app.signature("etl_tasks.dedup_publish", args=(partition,), immutable=True)
        with sending():
            chord(header, body, app=self._app).apply_async()

    def send_slices(self, slice_ids: Sequence[int], manual: bool) -> None:
        """One ``extract_load_slice`` a slice, outside any chord."""
        queue = BACKFILL_QUEUE if manual else EXTRACT_QUEUE
        with sending(), self._app.producer_or_acquire() as producer:
            for slice_id in slice_ids:
                self._app.send_task(
                    "etl_tasks.extract_load_slice", args=(slice_id,), queue=queue, producer=producer, ignore_result=True
                )

    def send_publish(self, partition: int) -> None:
        """``dedup_publish`` of the partition."""
        with sending():
            self._app.send_task("etl_tasks.dedup_publish", args=(partition,), ignore_result=True)

    def send_finalize(self, run_id: int) -> None:
        """``finalize_run`` of the run."""
        with sending():
            self._app.send_task("etl_tasks.finalize_run", args=(run_id,), ignore_result=True)

    def messages_held(self) -> int:
        """Messages that wait in the queues of slices; those that a worker has taken are not among them."""
        return self.messages_waiting((EXTRACT_QUEUE, BACKFILL_QUEUE))

    def messages_waiting(self, queues: Sequence[str]) -> int:
        """Messages of every priority that wait in ``queues``, asked over a new connection. Raises Unreachable."""
        with sending(), self._app.connection_for_read() as connection:
            channel = connection.default_channel
            keys = [channel._q_for_pri(queue, priority) for queue in queues for priority in channel.priority_steps]
            with channel.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.llen(key)
                return sum(int(length) for length in pipe.execute())
