"""ClickHouse behind ``CH_HOSTS``: RAW is inserted into, CLEAN is published. The only importer of clickhouse_driver."""

from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.target import ClickHouseTarget

__all__ = ["ClickHouseConfig", "ClickHouseTarget", "Host"]
