"""Which shards there are, which replicas each has and which of them answers: found out by asking, never from settings.

One shard with four replicas, four shards and one plain node come out as the same value; nothing else tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from etl_tasks.adapters.clickhouse import catalog_sql
from etl_tasks.adapters.clickhouse.client import Connection, Failover, Row, listed, probe
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.identifiers import TableName, parse_table
from etl_tasks.errors import EtlError, SchemaError, Unreachable

log = structlog.get_logger(__name__)
TAG = "etl-catalog"


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What ``system.tables`` says of a table."""

    engine: str
    engine_full: str
    partition_key: str
    sorting_key: str
    primary_key: str
    storage_policy: str

    @property
    def replicated(self) -> bool:
        """Whether parts of this table are shared through Keeper."""
        return self.engine.startswith("Replicated")

    @property
    def sorted_by(self) -> tuple[str, ...]:
        """The columns (or expressions) of the sorting key, unquoted: the key by which rows are told apart."""
        return tuple(name.strip(" `") for name in self.sorting_key.split(",")) if self.sorting_key else ()

    @property
    def default_codec(self) -> str | None:
        """What the table says that columns without a codec are compressed with; None when it says nothing."""
        found = re.search(r"\bdefault_compression_codec = ('(?:[^'\\]|\\.)*')", self.engine_full)
        return _unquoted(found[1]) if found else None

    @property
    def has_ttl(self) -> bool:
        """Whether rows of this table expire."""
        return " TTL " in self.engine_full.partition(" SETTINGS ")[0]


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard: its replicas in the order in which they are tried; all those of ``CH_HOSTS`` come first."""

    number: int
    replicas: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The shards behind RAW, and RAW's name on each of them."""

    raw_local: TableName
    shards: tuple[Shard, ...]
    cluster: str | None


def table_facts(connection: Connection, table: TableName) -> TableFacts | None:
    """What ``table`` is on this host, None when it is not there."""
    there = {"database": table.database, "table": table.table}
    rows = listed(connection.execute(catalog_sql.TABLE, there, tag=TAG))
    return TableFacts(*rows[0]) if rows else None


def cluster_seats(connection: Connection, cluster: str) -> list[Row]:
    """(Shard, replica, host, port, whether it is the one that answers) of every replica; empty for no such cluster."""
    return listed(connection.execute(catalog_sql.CLUSTER, {"cluster": cluster}, tag=TAG))


def engine_arguments(engine_full: str) -> list[str]:
    """The arguments of an engine as written, unquoted: ``Distributed('a', 'b', 'c', hash(k))`` → a, b, c, hash(k)."""
    named = re.match(r"\w+\s*(?=\()", engine_full)  # "MergeTree PARTITION BY f(x)" has none
    arguments: list[str] = []
    depth, quote, current = 0, "", ""
    escaped = False
    for char in engine_full[named.end() :] if named else "":
        if quote:
            current += char
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
            continue
        if char in "'`\"":
            quote = char
        elif char == "(":
            depth += 1
            if depth == 1:
                continue
        elif char == ")":
            depth -= 1
            if depth == 0:
                break
        elif char == "," and depth == 1:
            arguments.append(current)
            current = ""
            continue
        current += char
    if current.strip():
        arguments.append(current)
    return [_unquoted(argument.strip()) for argument in arguments]


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'`\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


_NOT_A_FUNCTION_OF_THE_KEY = re.compile(
    r"\b(rand\w*|now\w*|today|generate\w+|hostName|rowNumber\w*)\s*\(", re.IGNORECASE
)


def check_sharding(expression: str | None, key_columns: Sequence[str], raw_table: str) -> None:
    """Raise SchemaError unless the same key always goes to the same shard."""
    said = expression or "none"
    if expression:
        bare = re.sub(r"'(?:[^'\\]|\\.)*'", "", expression)
        names = {quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|([A-Za-z_]\w*)(?!\w*\s*\()", bare)}
        if names and names <= set(key_columns) and not _NOT_A_FUNCTION_OF_THE_KEY.search(bare):
            return
    raise SchemaError(
        f"{raw_table} spreads rows over its shards by {said}: use a hash of columns of the key "
        f"({', '.join(key_columns)}), or the same key ends up on two shards and CLEAN shows it twice"
    )


@dataclass(frozen=True, slots=True)
class RawTable:
    """RAW as the first host that answers knows it."""

    insert_into: TableName
    """The Distributed table, or the local one where there is nothing to distribute over."""
    local: TableName
    cluster: str | None
    sharding: str | None
    replicated: bool
    key: tuple[str, ...]
    """What the local table is sorted by."""


def locate_raw(config: ClickHouseConfig, failover: Failover) -> RawTable:
    """What ``raw_table`` stands for; raises SchemaError when it cannot be inserted into and published from."""
    raw = parse_table(config.raw_table)
    facts = failover.run(lambda connection: table_facts(connection, raw))
    if facts is None:
        raise SchemaError(f"there is no table {raw} in ClickHouse (CH_RAW_TABLE): run `python -m etl_tasks migrate`")
    if facts.engine == "Distributed":
        arguments = engine_arguments(facts.engine_full)
        local = TableName(arguments[1] or raw.database, arguments[2])
        behind = failover.run(lambda connection: table_facts(connection, local))
        sharding = arguments[3] if len(arguments) > 3 else None
        replicated, key = (behind.replicated, behind.sorted_by) if behind else (False, ())
        return RawTable(raw, local, arguments[0], sharding, replicated, key)
    local = _behind(raw, facts)
    behind = failover.run(lambda connection: table_facts(connection, local))
    replicated, key = (behind.replicated, behind.sorted_by) if behind else (False, ())
    if len(config.hosts) > 1 and not replicated:
        raise SchemaError(
            f"CH_HOSTS names {len(config.hosts)} hosts, but {raw} is {facts.engine}: its rows would be scattered "
            "by a failover; name one host, or make it Distributed over a cluster"
        )
    return RawTable(local, local, None, None, replicated, key)


def discover(config: ClickHouseConfig, failover: Failover) -> Topology:
    """The shards behind ``raw_table`` and every host of ``CH_HOSTS`` in its place.

    Raises SchemaError when the tables cannot be published from, Unreachable when no host answers.
    """
    raw = locate_raw(config, failover)
    cluster = raw.cluster
    if cluster is None:
        return Topology(raw.local, (Shard(1, config.hosts),), None)
    rows = failover.run(lambda connection: cluster_seats(connection, cluster))
    if not rows:
        raise SchemaError(f"{config.raw_table} is Distributed over {cluster}, which system.clusters does not know")
    if len({shard for shard, *_ in rows}) > 1 and raw.key:
        check_sharding(raw.sharding, raw.key, config.raw_table)
    return Topology(raw.local, place_hosts(config, failover, cluster, rows), cluster)


def _behind(raw: TableName, facts: TableFacts) -> TableName:
    """The MergeTree table behind the ``…_raw_all`` of a plain node, which is a Merge table over it."""
    if facts.engine.endswith("MergeTree"):
        return raw
    if facts.engine == "Merge":
        database, pattern = engine_arguments(facts.engine_full)[:2]
        name = re.sub(r"\\(.)", r"\1", pattern.removeprefix("^").removesuffix("$"))
        if pattern.startswith("^") and re.fullmatch(r"\w+", name):
            return TableName(database or raw.database, name)
    raise SchemaError(
        f"{raw} is {facts.engine_full}: expected Distributed, a MergeTree, or Merge over exactly one table"
    )


def place_hosts(
    config: ClickHouseConfig, failover: Failover, cluster: str, rows: Sequence[tuple[object, ...]]
) -> tuple[Shard, ...]:
    addresses = {
        (int(str(shard)), int(str(replica))): Host(str(name), int(str(port))) for shard, replica, name, port, _ in rows
    }
    found: dict[tuple[int, int], Host] = {}
    for host, connection in failover.each():
        seat = _seat(host, connection, cluster)
        if (
            seat is None
        ):  # not there, or it does not recognise itself: the literal address may still say where it belongs
            seat = next((each for each, address in addresses.items() if address == host), None)
        if seat is not None:
            found.setdefault(seat, host)
    shards = []
    for number in sorted({shard for shard, _ in addresses}):
        seats = [seat for seat in addresses if seat[0] == number]
        listed = sorted((found[seat] for seat in seats if seat in found), key=config.hosts.index)
        others = [addresses[seat] for seat in seats if seat not in found]
        shards.append(Shard(number, (*listed, *others)))
    return tuple(shards)


def _seat(host: Host, connection: Connection | Unreachable, cluster: str) -> tuple[int, int] | None:
    """Which shard and replica ``host`` says it is; None when it does not say."""
    if isinstance(connection, Unreachable):
        log.warning("cluster_place_assumed", host=str(host), cluster=cluster, error=str(connection))
        return None
    rows = cluster_seats(connection, cluster)
    seats = [(int(shard), int(replica)) for shard, replica, _, _, is_local in rows if is_local]
    if len({shard for shard, _ in seats}) > 1:
        raise SchemaError(
            f"ClickHouse {host} is more than one shard of the cluster {cluster}: its CLEAN would be published twice"
        )
    return seats[0] if seats else None


def pin(config: ClickHouseConfig, topology: Topology, shard: Shard) -> Connection:
    """A connection of its own to one replica of ``shard`` that answers and has the tables; the caller closes it.

    Raises Unreachable naming the shard when none answers, SchemaError when CLEAN cannot be shared by its replicas.
    """
    said: list[str] = []
    for host in shard.replicas:
        connection = Connection(config, host, read_timeout_s=config.publish_statement_timeout_s + 60.0, local=True)
        try:
            probe(config, host)
            _check_tables_here(config, topology, shard, connection)
            return connection
        except Unreachable as error:
            connection.close()
            said.append(str(error))
        except EtlError:
            connection.close()
            raise
    where = f"cluster {topology.cluster}" if topology.cluster else "CH_HOSTS"
    raise Unreachable(f"shard {shard.number} of {where} has no replica that answers: {'; '.join(said)}")


def _check_tables_here(config: ClickHouseConfig, topology: Topology, shard: Shard, connection: Connection) -> None:
    clean = parse_table(config.clean_table)
    for table in (topology.raw_local, clean, parse_table(config.dedup_buf_table)):
        facts = table_facts(connection, table)
        if facts is None:
            raise SchemaError(f"ClickHouse {connection.host} has no table {table}: run `python -m etl_tasks migrate`")
        if table == clean and len(shard.replicas) > 1 and not facts.replicated:
            raise SchemaError(
                f"{clean} is {facts.engine} on {connection.host}, but its shard has {len(shard.replicas)} replicas: "
                "a publish on one of them would never reach the others; make it Replicated or name one host"
            )
