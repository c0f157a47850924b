"""What the adapters tell ``doctor``: plain values, read and not judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock beside this host's: ``ahead_s`` seconds ahead of it, known to within ``unsure_s`` (half a round trip)."""

    owner: str
    ahead_s: float
    unsure_s: float


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """One session: the server's version (``160004`` and ``16.4``), its clock, and the backends that answered.

    ``announced_pid`` is what the other side said at the start, ``pids`` those of one transaction after the other.
    """

    version_number: int
    version: str
    clock: Clock
    announced_pid: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JournalIndex:
    """An index of the journal's, as the catalog knows it."""

    name: str
    valid: bool
    unique: bool


@dataclass(frozen=True, slots=True)
class JournalSchema:
    """Columns by table, and indexes by name."""

    columns: Mapping[str, frozenset[str]]
    indexes: Mapping[str, JournalIndex]


@dataclass(frozen=True, slots=True)
class PublishCost:
    """The last publishes: how many were looked at, the longest in milliseconds, and the partition that it was of."""

    publishes: int
    longest_ms: int
    partition: int


@dataclass(frozen=True, slots=True)
class OldRow:
    """A row of the journal in the form of the system before this one."""

    process: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """``saves`` is the configured snapshot schedule, None where the server does not tell; ``maxmemory_bytes`` 0 is no
    limit.
    """

    version: str
    append_only: bool
    saves: str | None
    policy: str
    maxmemory_bytes: int


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker that answered: the queues it takes, and what its configuration says (``conf``, secrets left out)."""

    name: str
    queues: frozenset[str]
    conf: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClickHouseHost:
    """A host of ``CH_HOSTS`` or of the cluster. ``error`` is why it did not answer; else the rest is known.

    ``shard`` is its place in the cluster, None where it has none or does not say; ``listed`` whether ``CH_HOSTS``
    names it.
    """

    name: str
    listed: bool
    shard: int | None = None
    version: str = ""
    timezone: str = ""
    clock: Clock | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """A setting as the server has it for our user: its value, its bounds ('' for none), whether it may be changed."""

    name: str
    value: str
    low: str
    high: str
    fixed: bool


@dataclass(frozen=True, slots=True)
class LocalTable:
    """A table on one host: None as ``engine`` where it is missing. ``ttl_s`` as of the column that is asked for."""

    name: str
    host: str
    engine_full: str
    engine: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Keys of CLEAN looked at on one shard, those that belong on another one, and one of these as an example."""

    host: str
    rows: int
    misplaced: int
    example: str


@dataclass(frozen=True, slots=True)
class StrangeInsert:
    """Statements of somebody else that wrote into our tables, from the server's query log."""

    host: str
    user: str
    client: str
    statements: int
    last_at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class NewestVersion:
    """The newest ``ingested_at`` in the newest partitions of a table, in milliseconds; None where it has no rows."""

    table: str
    host: str
    version_ms: int | None
    rows_after: int


@dataclass(frozen=True, slots=True)
class PhoenixFacts:
    """Version of Phoenix, the Query Server's clock, and how far its JVM's zone is from UTC in winter and in summer."""

    version: str
    clock: Clock
    zone_offsets_min: tuple[int, ...]
