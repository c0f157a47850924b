"""Celery's Redis results without the subscriptions: the chord needs stored results, and nobody here waits for one.

With them, every slice sent subscribes its sender to a channel, and a sender whose Redis is away for some seconds gets
"The Celery application must be restarted" (a bare RuntimeError) instead of an error that can be waited out.
"""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend
from celery.backends.redis import ResultConsumer as SubscribingConsumer


class SilentConsumer(SubscribingConsumer):  # type: ignore[misc]
    """Never subscribes."""

    def start(self, initial_task_id: str, **_: Any) -> None:
        """Nothing to start."""

    def consume_from(self, task_id: str) -> None:
        """Nothing to listen for."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing to give up."""


class ChordBackend(RedisBackend):  # type: ignore[misc]
    """Stores results and counts chords in Redis; ``AsyncResult.get()`` in this app would wait in vain."""

    ResultConsumer = SilentConsumer
