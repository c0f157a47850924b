"""ClickHouse under names of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from etl_tasks.adapters.clickhouse import ClickHouseConfig, Host


@pytest.fixture
def own_clickhouse(stack_env: dict[str, str]) -> Callable[..., ClickHouseConfig]:
    """``own_clickhouse("test_x", …)``: settings for a database that is not there yet."""

    def settings(prefix: str, **changes: Any) -> ClickHouseConfig:
        database = f"{prefix}_{uuid.uuid4().hex[:12]}"
        addresses = [each.partition(":") for each in stack_env["CH_HOSTS"].split(",")]
        return ClickHouseConfig(
            hosts=tuple(Host(name, int(port)) for name, _, port in addresses),
            user=stack_env["CH_USER"],
            password=stack_env["CH_PASSWORD"],
            database=database,
            raw_table=f"{database}.codes_raw_all",
            clean_table=f"{database}.codes",
            clean_all_table=f"{database}.codes_all",
            dedup_buf_table=f"{database}.codes_dedup_buf",
            cluster=stack_env["CH_CLUSTER"],
            **changes,
        )

    return settings
