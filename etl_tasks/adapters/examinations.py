"""All that ``doctor`` asks services with: connections of its own, with short time-outs, none of which writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from celery import Celery

from etl_tasks.adapters.celery_examination import WorkerExamination
from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget
from etl_tasks.adapters.clickhouse.client import OLDER_NAMES, OPTIONAL_SETTINGS
from etl_tasks.adapters.clickhouse.examination import ClickHouseExamination
from etl_tasks.adapters.clickhouse.topology import check_sharding
from etl_tasks.adapters.clickhouse.ttl import ttl_seconds
from etl_tasks.adapters.journal import JournalConfig
from etl_tasks.adapters.journal.examination import JournalExamination
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource
from etl_tasks.adapters.phoenix.examination import examine
from etl_tasks.adapters.redis_examination import RedisExamination
from etl_tasks.core.doctor.facts import PhoenixFacts

ANSWER_S = 30.0
"""How long a service may take to answer one question."""


class Examinations:
    """One of each; ``close`` drops every connection that was made."""

    older_settings = OLDER_NAMES
    optional_settings = OPTIONAL_SETTINGS
    ttl_seconds = staticmethod(ttl_seconds)
    check_sharding = staticmethod(check_sharding)

    def __init__(
        self,
        journal: JournalConfig,
        clickhouse: ClickHouseConfig,
        phoenix: PhoenixConfig,
        redis_url: str,
        redis_tls: Mapping[str, Any] | None,
        app: Celery,
    ) -> None:
        self._phoenix = replace(phoenix, read_timeout_s=min(ANSWER_S, phoenix.read_timeout_s))
        clickhouse = replace(clickhouse, send_receive_timeout_s=ANSWER_S)
        self.version_column = clickhouse.version_column
        self.journal = JournalExamination(journal)
        self.redis = RedisExamination(redis_url, redis_tls, "REDIS_URL")
        self.workers = WorkerExamination(app)
        self.clickhouse = ClickHouseExamination(clickhouse)
        self.source = PhoenixSource(self._phoenix)
        self.target = ClickHouseTarget(clickhouse)

    def examine_phoenix(self, moments: Sequence[datetime]) -> PhoenixFacts:
        """The Query Server's version and clock, and its zone at each of ``moments``."""
        return examine(self._phoenix, moments)

    def close(self) -> None:
        """Drop the connections."""
        for each in (self.journal, self.redis, self.clickhouse, self.source, self.target):
            each.close()
