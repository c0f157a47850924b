"""Partitions whose rows CLEAN's TTL removes as soon as they come. Pure: the moment is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from etl_tasks.core.windows import midnight_of


def expired_partitions(partitions: Iterable[int], ttl_s: int | None, now: datetime) -> list[int]:
    """Those of ``partitions`` (20250808) of which some is more than ``ttl_s`` seconds before ``now``; None: no TTL."""
    if ttl_s is None:
        return []
    return [partition for partition in partitions if midnight_of(partition) + timedelta(seconds=ttl_s) < now]


def expiry_notice(partitions: Iterable[int], ttl_s: int | None, now: datetime) -> str | None:
    """What to tell whoever plans ``partitions`` past CLEAN's TTL; None when there is none."""
    expired = expired_partitions(partitions, ttl_s, now)
    if not expired or ttl_s is None:
        return None
    days = ", ".join(map(str, expired[:5])) + (f" and {len(expired) - 5} more" if len(expired) > 5 else "")
    return (
        f"CLEAN keeps rows for {ttl_s / 86400:g} days by their own time, so rows of {days} go again after they are "
        "published; lengthen CLEAN's TTL first if they are to stay"
    )
