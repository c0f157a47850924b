"""What the ClickHouse adapter must be told. Plain values, checked where they are read from the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Host(NamedTuple):
    """A native-protocol address; ``str()`` gives ``host:port`` as logs and the journal spell it."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class ClickHouseConfig:
    """Addresses, names and limits. Tables are ``database.table``; ``raw_table`` is the Distributed one of a cluster.

    ``cluster`` is None for one plain node. ``insert_max_retries`` is the one documented repeat after a reconnect.
    ``insert_quorum`` (``"auto"`` is the majority) is sent only where RAW is replicated. Zero means no limit of ours.
    The key is not written here: it is what RAW and CLEAN are sorted by.
    """

    hosts: tuple[Host, ...]
    user: str
    password: str = field(repr=False)
    database: str
    raw_table: str
    clean_table: str
    clean_all_table: str
    dedup_buf_table: str
    cluster: str | None = None
    secure: bool = False
    verify: bool = True
    ca_file: str | None = None
    compression: Literal["lz4", "lz4hc", "zstd", "none"] = "lz4"
    insert_max_retries: int = 1
    insert_quorum: str = "auto"
    connect_timeout_s: float = 5.0
    send_receive_timeout_s: float = 300.0
    max_execution_time_s: int = 600
    publish_statement_timeout_s: int = 7200
    publish_drain_timeout_s: float = 120.0
    publish_max_threads: int = 0
    publish_max_memory_bytes: int = 0
    ts_column: str = "opd"
    version_column: str = "ingested_at"
