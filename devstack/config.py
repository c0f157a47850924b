"""Where the stack lives and which ports it takes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import DevstackError

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = Path(__file__).resolve().parent
DEFAULT_PORT_BASE = 25000

PORT_VARIABLES: tuple[tuple[str, str], ...] = (
    # (name of the port, variable that overrides it); its place in this list is its offset from the base.
    ("postgres", "DEVSTACK_PG_PORT"),
    ("redis", "DEVSTACK_REDIS_PORT"),
    ("clickhouse1", "DEVSTACK_CH1_PORT"),
    ("clickhouse1_http", "DEVSTACK_CH1_HTTP_PORT"),
    ("clickhouse2", "DEVSTACK_CH2_PORT"),
    ("clickhouse2_http", "DEVSTACK_CH2_HTTP_PORT"),
    ("zookeeper", "DEVSTACK_ZK_PORT"),
    ("hbase_master", "DEVSTACK_HBASE_MASTER_PORT"),
    ("hbase_region", "DEVSTACK_HBASE_REGION_PORT"),
    ("pqs", "DEVSTACK_PQS_PORT"),
)


@dataclass(frozen=True)
class Port:
    """A port and the variable that moves it."""

    name: str
    number: int
    variable: str


@dataclass(frozen=True)
class Config:
    """The stack's directories and ports."""

    state_dir: Path
    cache_dir: Path
    ports: Mapping[str, Port]

    def port(self, name: str) -> int:
        """The number of a port by its name."""
        return self.ports[name].number


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration from the environment (`DEVSTACK_DIR`, `DEVSTACK_PORT_BASE`, `DEVSTACK_*_PORT`)."""
    env = os.environ if environ is None else environ
    base = _port_number(env, "DEVSTACK_PORT_BASE", DEFAULT_PORT_BASE)
    ports = {
        name: Port(name, _port_number(env, variable, base + offset), variable)
        for offset, (name, variable) in enumerate(PORT_VARIABLES)
    }
    seen: dict[int, Port] = {}
    for port in ports.values():
        other = seen.setdefault(port.number, port)
        if other is not port:
            raise DevstackError(f"{other.name} and {port.name} both have port {port.number}; set {port.variable}")
    state = Path(env.get("DEVSTACK_DIR") or CHECKOUT / ".devstack").expanduser().absolute()
    cache_home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute()
    return Config(state, cache_home / "phoenix-clickhouse-etl", ports)


def _port_number(env: Mapping[str, str], variable: str, default: int) -> int:
    text = env.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise DevstackError(f"{variable} is {text!r}; it must be a port number from 1 to 65535")
    return int(text)
