"""When and with what the numbers were measured."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from benchmarks.report import machine
from devstack.clickhouse import ClickHouse
from devstack.config import PACKAGE
from devstack.stack import Stack

PACKAGES = ("numpy", "pyarrow", "protobuf", "phoenixdb", "clickhouse-driver", "celery")
_POM = re.compile(r"<(hbase|phoenix|pqs)\.version>([\d.]+)")
_SERVICES = {"hbase": "HBase", "phoenix": "Phoenix", "pqs": "Query Server"}


def versions(stack: Stack) -> str:
    """One line: the day, Python, the libraries that move rows, and the services."""
    libraries = [f"{name} {version(name)}" for name in PACKAGES if _installed(name)]
    server = ClickHouse(stack.config, stack.tools, "clickhouse1").query("SELECT version()").strip('"\n')
    services = [f"{_SERVICES[name]} {number}" for name, number in _POM.findall((PACKAGE / "conf/pom.xml").read_text())]
    told = (f"Python {platform.python_version()}", *libraries, f"ClickHouse {server}", *services)
    return f"{datetime.now(UTC):%Y-%m-%d}: {', '.join(told)}; {machine()}"


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
