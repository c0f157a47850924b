"""``ddl/stg_daily_codes_history.sql`` rendered for the cluster at hand and applied to every host, repeatably.

The file is the production form and the only definition of the columns. Rendering changes engines and names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from etl_tasks.adapters.clickhouse.client import Connection, Failover
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.identifiers import TableName, parse_table, quote_name, quote_text
from etl_tasks.adapters.clickhouse.table_ddl import for_table
from etl_tasks.adapters.clickhouse.topology import Shard, cluster_seats, place_hosts, table_facts
from etl_tasks.core.target_table import TargetTable
from etl_tasks.errors import ConfigError, SchemaError, Unreachable

FILE = Path(__file__).parents[3] / "ddl" / "stg_daily_codes_history.sql"
CLUSTER = "shardless"
DATABASE = "stg"
CLEAN = "daily_codes_history"
"""Names as they stand in the file."""


class Form(Enum):
    """What the tables are rendered for."""

    REPLICATED = "replicated"
    """A cluster whose shards have replicas: the file as it is, by ON CLUSTER."""
    SHARDS = "shards"
    """A cluster of plain nodes, one a shard: applied to every host."""
    NODE = "node"
    """One plain node: the tables over all shards are Merge tables over the local ones."""


@dataclass(frozen=True, slots=True)
class TableNames:
    """What the five tables are called here. On one plain node an ``…_all`` may be the local table itself."""

    raw: TableName
    raw_all: TableName
    clean: TableName
    clean_all: TableName
    buffer: TableName

    @classmethod
    def of(cls, config: ClickHouseConfig) -> TableNames:
        """The names of the settings; RAW's local table is CH_RAW_TABLE without its ``_all``."""
        raw_all = parse_table(config.raw_table)
        raw = TableName(raw_all.database, raw_all.table.removesuffix("_all"))
        return cls(
            raw,
            raw_all,
            parse_table(config.clean_table),
            parse_table(config.clean_all_table),
            parse_table(config.dedup_buf_table),
        )


def statements(form: Form, names: TableNames, cluster: str | None, *, shard_macro: bool = False) -> list[str]:
    """The file's statements for ``form``, in order. ``shard_macro`` puts ``{shard}`` into the Keeper paths."""
    _check_names(form, names, cluster)
    rendered = []
    for statement in split_statements(FILE.read_text(encoding="utf-8")):
        text = _engines(statement, form, names, shard_macro)
        text = _names(text, names, cluster, on_cluster=form is Form.REPLICATED)
        created = re.match(r"CREATE TABLE IF NOT EXISTS (\S+)\s+AS (\S+)\s", text)
        if created and created[1] == created[2]:
            continue  # one plain node whose table over all shards is the local one
        rendered.append(text)
    databases = dict.fromkeys(
        table.database for table in (names.clean, names.raw, names.raw_all, names.clean_all, names.buffer)
    )
    first, *rest = rendered
    return [*(first.replace(quote_name(names.clean.database), quote_name(each), 1) for each in databases), *rest]


def split_statements(text: str) -> list[str]:
    """The statements of a file without comments and semicolons."""
    bare = re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE)
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


def _check_names(form: Form, names: TableNames, cluster: str | None) -> None:
    if form is not Form.NODE:
        if cluster is None:
            raise ConfigError("CH_CLUSTER is not set, but the tables are to stand on a cluster")
        if names.raw == names.raw_all:
            raise ConfigError(
                f"CH_RAW_TABLE is {names.raw_all}; on a cluster it is the Distributed table and its name ends in _all"
            )
        if names.clean == names.clean_all:
            raise ConfigError(
                f"CH_CLEAN_TABLE and CH_CLEAN_ALL_TABLE are both {names.clean}: on a cluster they are two tables"
            )
    if len({names.raw, names.clean, names.buffer}) < 3:
        raise ConfigError(f"RAW, CLEAN and buffer must be three tables, not {names.raw}, {names.clean}, {names.buffer}")


def _engines(statement: str, form: Form, names: TableNames, shard_macro: bool) -> str:
    if form is Form.REPLICATED:
        shard = "/{shard}" if shard_macro else ""
        return re.sub(
            r"'/clickhouse/tables/(\S+?)'",
            lambda found: quote_text(f"/clickhouse/tables{shard}/{_named(found[1], names)}"),
            statement,
        )
    statement = re.sub(r"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?([^)]*)\)", _plain_engine, statement)
    if form is Form.NODE:
        statement = re.sub(
            r"Distributed\('[^']*', '([^']*)', '([^']*)', [^;]*\)",
            lambda found: _merge_over(_named(f"{found[1]}.{found[2]}", names)),
            statement,
        )
    return statement


def _plain_engine(found: re.Match[str]) -> str:
    return f"{found[1]}({found[2]})" if found[2] else found[1]


def _merge_over(table: TableName) -> str:
    return f"Merge({quote_text(table.database)}, {quote_text('^' + re.escape(table.table) + '$')})"


def _named(name: str, names: TableNames) -> TableName:
    """What the file's ``stg.daily_codes_history…`` is called here."""
    here = {
        "": names.clean,
        "_all": names.clean_all,
        "_raw": names.raw,
        "_raw_all": names.raw_all,
        "_dedup_buf": names.buffer,
    }
    suffix = name.removeprefix(f"{DATABASE}.{CLEAN}")
    if suffix == name or suffix not in here:
        raise SchemaError(f"{FILE.name} names {name}, which is none of its five tables")
    return here[suffix]


def _names(statement: str, names: TableNames, cluster: str | None, *, on_cluster: bool) -> str:
    where = f" ON CLUSTER {quote_name(cluster)}" if on_cluster and cluster else ""
    statement = statement.replace(f" ON CLUSTER {CLUSTER}", where)
    if cluster:
        statement = re.sub(
            rf"Distributed\('{CLUSTER}', '(\w+)', '(\w+)'",
            lambda found: _distributed_over(cluster, _named(f"{found[1]}.{found[2]}", names)),
            statement,
        )
    statement = re.sub(rf"(?<=[\s(]){DATABASE}\.{CLEAN}\w*", lambda found: _named(found[0], names).sql, statement)
    return re.sub(
        rf"(CREATE DATABASE IF NOT EXISTS ){DATABASE}\b",
        lambda found: found[1] + quote_name(names.clean.database),
        statement,
    )


def _distributed_over(cluster: str, table: TableName) -> str:
    return f"Distributed({quote_text(cluster)}, {quote_text(table.database)}, {quote_text(table.table)}"


def is_shipped(main_columns: Collection[str], ts_column: str) -> bool:
    """Whether the file's own table is meant: its key, and no column that it does not have."""
    defining = next(each for each in split_statements(FILE.read_text(encoding="utf-8")) if "\n(\n" in each)
    names = set(re.findall(r"^    (\w+) ", defining, re.MULTILINE))
    return ts_column == "opd" and {"c", "t", "opd"} <= set(main_columns) <= names


def render(
    config: ClickHouseConfig, table: TargetTable, form: Form | None = None, clean_ttl_days: int | None = None
) -> list[str]:
    """The statements that create ``table`` and need no other; without ``form`` ClickHouse is asked for it."""
    shards = 1
    if form is None and config.cluster is not None:
        failover = Failover(config)
        try:
            found = _shards(config, failover)
        finally:
            failover.close()
        form, shards = _form_for(config, found), len(found)
    form = form or Form.NODE
    several = form is Form.REPLICATED and shards > 1
    rendered = statements(form, TableNames.of(config), config.cluster, shard_macro=several)
    created = [statement for statement in rendered if statement.startswith("CREATE")]
    return for_table(created, table, clean_ttl_days)


def apply(
    config: ClickHouseConfig, form: Form | None = None, table: Callable[[], TargetTable] | None = None
) -> list[str]:
    """Create what is missing wherever it belongs; says in a line each what was done where.

    Without ``form`` the cluster's replicas decide. The columns are the file's, or those of ``table``, which is asked
    for only where a table is missing. Raises Unreachable when a host that must have the tables does not answer.
    """
    failover = Failover(config)
    try:
        shards = _shards(config, failover)
        form = form or _form_for(config, shards)
        names = TableNames.of(config)
        several = form is Form.REPLICATED and len(shards) > 1
        todo = statements(form, names, config.cluster, shard_macro=several)
        if table is not None:
            hosts = [replica for shard in shards for replica in shard.replicas]
            if any(_missing(failover.reach(host), names) for host in hosts):
                todo = for_table(todo, table())
            else:
                todo = [statement for statement in todo if not statement.startswith("CREATE TABLE")]
        return _run_where_they_belong(config, failover, shards, form, todo)
    finally:
        failover.close()


def run(config: ClickHouseConfig, todo: Sequence[str], form: Form | None = None) -> list[str]:
    """Run the statements of ``render`` wherever they belong; says in a line each what was done where."""
    failover = Failover(config)
    try:
        shards = _shards(config, failover)
        return _run_where_they_belong(config, failover, shards, form or _form_for(config, shards), todo)
    finally:
        failover.close()


def _run_where_they_belong(
    config: ClickHouseConfig, failover: Failover, shards: Sequence[Shard], form: Form, todo: Sequence[str]
) -> list[str]:
    names = TableNames.of(config)
    if form is Form.REPLICATED:
        done = failover.run(lambda connection: _run_all(connection, todo, names))
        return [f"cluster {config.cluster} ({len(shards)} shards, replicated): {done}"]
    return [_apply_on(failover, host, todo, names, form) for shard in shards for host in shard.replicas]


def _shards(config: ClickHouseConfig, failover: Failover) -> Sequence[Shard]:
    cluster = config.cluster
    if cluster is None:
        return [Shard(1, config.hosts)]
    rows = failover.run(lambda connection: cluster_seats(connection, cluster))
    if not rows:
        raise SchemaError(f"ClickHouse knows no cluster {cluster} (CH_CLUSTER): see the table system.clusters")
    return place_hosts(config, failover, cluster, rows)


def _form_for(config: ClickHouseConfig, shards: Sequence[Shard]) -> Form:
    if config.cluster is None:
        if len(config.hosts) > 1:
            raise ConfigError(
                "CH_HOSTS names several hosts, but CH_CLUSTER does not say which cluster they are: set it"
            )
        return Form.NODE
    return Form.REPLICATED if any(len(shard.replicas) > 1 for shard in shards) else Form.SHARDS


def _run_all(connection: Connection, todo: Sequence[str], names: TableNames) -> str:
    """Run the statements and say which tables are new."""
    missing = _missing(connection, names)
    for statement in todo:
        connection.execute(statement, tag="etl-migrate", settings={"alter_sync": 1})
    return f"created {', '.join(map(str, missing))}" if missing else "all tables were there"


def _missing(connection: Connection, names: TableNames) -> list[TableName]:
    tables = dict.fromkeys((names.clean, names.buffer, names.raw, names.raw_all, names.clean_all))
    return [table for table in tables if table_facts(connection, table) is None]


def _apply_on(failover: Failover, host: Host, todo: Sequence[str], names: TableNames, form: Form) -> str:
    try:
        return f"{host} ({form.value}): {_run_all(failover.reach(host), todo, names)}"
    except Unreachable as error:
        raise Unreachable(
            f"the tables on {host} are not complete, run migrate again when it answers: {error}"
        ) from error
