"""What ``doctor`` asks of ClickHouse, host by host; nothing here writes, and no statement carries a setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from etl_tasks.adapters.clickhouse import examination_sql
from etl_tasks.adapters.clickhouse.catalog import column_faults, table_columns
from etl_tasks.adapters.clickhouse.client import (
    ALL_SETTINGS,
    OLDER_NAMES,
    Connection,
    Row,
    listed,
    single,
)
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.ddl import TableNames
from etl_tasks.adapters.clickhouse.identifiers import TableName, beside_parameters, quote_name, quote_names
from etl_tasks.adapters.clickhouse.topology import cluster_seats, engine_arguments, table_facts
from etl_tasks.adapters.clock import compared
from etl_tasks.core.doctor.facts import (
    ClickHouseHost,
    LocalTable,
    Misplaced,
    NewestVersion,
    ServerSetting,
    StrangeInsert,
)
from etl_tasks.errors import EtlError, TerminalError

TAG = "etl-doctor"
READ_TIMEOUT_S = 60.0
PARTITIONS_SETTING = "max_partitions_per_insert_block"
MOST_PARTITIONS = 7
MOST_ROWS = 20_000_000
"""Of the newest partitions so many are read that this is not passed, one at least."""


class ClickHouseExamination:
    """The hosts of ``CH_HOSTS`` and of the cluster, over connections that send no settings."""

    def __init__(self, config: ClickHouseConfig) -> None:
        self._config = config
        self._names = TableNames.of(config)
        self._connections: dict[Host, Connection] = {}

    def hosts(self) -> list[ClickHouseHost]:
        """Every host that is named in ``CH_HOSTS`` or in the cluster, whether or not it answers."""
        found: list[ClickHouseHost] = []
        seats: dict[tuple[int, int], Host] = {}
        taken: set[tuple[int, int]] = set()
        for host in self._config.hosts:
            answer = self._look(host, is_listed=True)
            rows = [] if answer.error else self._seats(host)
            seats.update({(shard, replica): Host(name, port) for shard, replica, name, port, _ in rows})
            own = [(shard, replica) for shard, replica, _, _, is_local in rows if is_local]
            own += [seat for seat, address in seats.items() if address == host and not own]
            taken.update(own)
            found.append(replace(answer, shard=own[0][0] if own else None))
        for seat, address in seats.items():
            if seat not in taken and address not in self._config.hosts:
                found.append(replace(self._look(address, is_listed=False), shard=seat[0]))
        return found

    def tables(self) -> dict[str, list[LocalTable]]:
        """RAW, buffer and CLEAN (``raw``, ``buffer``, ``clean``) on every host that answers and has them."""
        found: dict[str, list[LocalTable]] = {"raw": [], "buffer": [], "clean": []}
        for host, connection in self._answering():
            for part, table in self._parts(connection).items():
                facts = table_facts(connection, table)
                if facts is not None:
                    columns = frozenset(column.name for column in table_columns(connection, table))
                    found[part].append(LocalTable(str(table), str(host), facts.engine_full, facts.engine, columns))
        return found

    def column_faults(self, main_columns: Sequence[str]) -> list[str]:
        """How RAW, buffer and CLEAN differ from each other and from ``main_columns`` on every host that answers."""
        return [
            fault
            for _, connection in self._answering()
            for fault in column_faults(self._config, connection, self._parts(connection)["raw"], main_columns, ())
        ]

    def key(self) -> Sequence[str]:
        """The columns that CLEAN is ordered by, in that order. Raises TerminalError where there is no CLEAN."""
        for _, connection in self._answering():
            facts = table_facts(connection, self._names.clean)
            if facts is not None:
                return facts.sorted_by
        raise TerminalError(f"there is no table {self._names.clean}: run: python -m etl_tasks migrate")

    def settings(self) -> dict[str, Mapping[str, ServerSetting]]:
        """What every host that answers says of the settings that we send, and of a few more."""
        names = sorted({*self.wanted_settings(), *OLDER_NAMES.values(), *ALL_SETTINGS, "readonly", PARTITIONS_SETTING})
        return {
            str(host): {
                name: ServerSetting(name, value, low, high, bool(fixed))
                for name, value, low, high, fixed in listed(
                    connection.execute(examination_sql.SETTINGS, {"names": names}, tag=TAG)
                )
            }
            for host, connection in self._answering()
        }

    def wanted_settings(self) -> dict[str, str]:
        """The settings that inserts and publishes send, and the values that matter."""
        return {
            "alter_sync": "1",
            "async_insert": "0",
            "distributed_foreground_insert": "1",
            "insert_deduplicate": "0",
            "max_execution_time": str(self._config.max_execution_time_s),
            "max_partition_size_to_drop": "0",
            "max_table_size_to_drop": "0",
            "mutations_sync": "0",
            "optimize_aggregation_in_order": "1",
            "optimize_on_insert": "0",
            "optimize_read_in_window_order": "1",
            "optimize_throw_if_noop": "1",
            "skip_unavailable_shards": "0",
        }

    def sharding(self) -> tuple[str | None, str | None]:
        """Cluster and sharding expression of the Distributed RAW; None and None where it is not Distributed."""
        for _, connection in self._answering():
            facts = table_facts(connection, self._names.raw_all)
            if facts is None:
                raise TerminalError(f"there is no table {self._names.raw_all}: run: python -m etl_tasks migrate")
            if facts.engine != "Distributed":
                return None, None
            arguments = engine_arguments(facts.engine_full)
            return arguments[0], arguments[3] if len(arguments) > 3 else None
        return None, None

    def misplaced(self, cluster: str, sharding: str) -> list[Misplaced]:
        """Rows of CLEAN's newest partitions that are not on the shard where ``sharding`` puts them."""
        found = []
        for host, connection in self._answering():
            weights = listed(connection.execute(examination_sql.WEIGHTS, {"cluster": cluster}, tag=TAG))
            shard = self._shard_of(host, connection, cluster)
            partitions = self._newest(connection, self._names.clean)
            if len(weights) < 2 or shard is None or not partitions:
                continue
            first = sum(weight for number, weight in weights if number < shard)
            own = next(weight for number, weight in weights if number == shard)
            statement = examination_sql.MISPLACED.format(
                # The server's own text of the table that rows are inserted into.
                sharding=beside_parameters(sharding),
                table=self._names.clean.sql,
                key=quote_names(self.key()),
            )
            slots = {"slots": sum(weight for _, weight in weights), "first": first, "past": first + own}
            rows, misplaced, example = single(
                connection.execute(statement, {**slots, "partitions": partitions}, tag=TAG)
            )
            found.append(Misplaced(str(host), int(rows), int(misplaced), str(example)))
        return found

    def versions_after(self, ours_ms: int) -> list[NewestVersion]:
        """The newest versions in RAW and CLEAN, and how many rows of their newest partitions are newer than ours."""
        found = []
        for host, connection in self._answering():
            for part, table in self._parts(connection).items():
                has_version = self._config.version_column in {c.name for c in table_columns(connection, table)}
                partitions = self._newest(connection, table)
                if part == "buffer" or not partitions or not has_version:
                    continue
                statement = examination_sql.NEWEST_VERSION.format(
                    table=table.sql, version=quote_name(self._config.version_column)
                )
                rows, newest, after = single(
                    connection.execute(statement, {"ours": ours_ms, "partitions": partitions}, tag=TAG)
                )
                found.append(NewestVersion(str(table), str(host), int(newest) if rows else None, int(after)))
        return found

    def strange_inserts(self) -> list[StrangeInsert]:
        """Who else wrote into RAW or CLEAN within a day, by the query log; raises where it may not be read."""
        found = []
        for host, connection in self._answering():
            tables = sorted({*self._parts(connection).values(), self._names.raw_all, self._names.clean_all})
            asked = {"tables": [str(table) for table in tables], "writes": writes_into(tables)}
            rows = listed(connection.execute(examination_sql.STRANGE_INSERTS, asked, tag=TAG))
            for user, client, count, last_s, text in rows:
                last_at = datetime.fromtimestamp(last_s, UTC)
                found.append(StrangeInsert(str(host), user, client, int(count), last_at, " ".join(text.split())))
        return found

    def close(self) -> None:
        """Drop the connections; never raises."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _look(self, host: Host, *, is_listed: bool) -> ClickHouseHost:
        connection = Connection(self._config, host, read_timeout_s=READ_TIMEOUT_S, bare=True)
        try:
            with compared(f"ClickHouse {host}") as clock:
                version, zone, now_ms = single(connection.execute(examination_sql.SERVER, tag=TAG))
                read = clock(now_ms / 1000)
        except EtlError as error:
            connection.close()
            return ClickHouseHost(str(host), is_listed, error=str(error))
        self._connections[host] = connection
        return ClickHouseHost(str(host), is_listed, None, version, zone, read)

    def _answering(self) -> list[tuple[Host, Connection]]:
        if not self._connections:
            self.hosts()
        return list(self._connections.items())

    def _seats(self, host: Host) -> list[Row]:
        cluster = self._config.cluster
        return cluster_seats(self._connections[host], cluster) if cluster else []

    def _parts(self, connection: Connection) -> dict[str, TableName]:
        raw = self._names.raw
        facts = table_facts(connection, self._names.raw_all)
        if facts is not None and facts.engine == "Distributed":
            arguments = engine_arguments(facts.engine_full)
            raw = TableName(arguments[1] or self._names.raw_all.database, arguments[2])
        elif facts is not None and facts.engine.endswith("MergeTree"):
            raw = self._names.raw_all
        return {"raw": raw, "buffer": self._names.buffer, "clean": self._names.clean}

    def _shard_of(self, host: Host, connection: Connection, cluster: str) -> int | None:
        seats = cluster_seats(connection, cluster)
        own = [int(shard) for shard, _, _, _, is_local in seats if is_local]
        named = [int(shard) for shard, _, name, port, _ in seats if Host(name, int(port)) == host]
        return next(iter([*own, *named]), None)

    def _newest(self, connection: Connection, table: TableName) -> list[str]:
        which = {"database": table.database, "table": table.table, "most": MOST_PARTITIONS}
        chosen: list[str] = []
        rows_so_far = 0
        for partition, rows in listed(connection.execute(examination_sql.NEWEST_PARTITIONS, which, tag=TAG)):
            rows_so_far += rows
            if chosen and rows_so_far > MOST_ROWS:
                break
            chosen.append(partition)
        return chosen


def writes_into(tables: Iterable[TableName]) -> str:
    """A pattern (RE2) of statements that insert rows or partitions into one of ``tables``, however it is quoted."""
    quote = '[`"]?'
    names = "|".join(
        f"(?:{quote}{re.escape(table.database)}{quote}[.])?{quote}{re.escape(table.table)}{quote}" for table in tables
    )
    return (
        r"(?is)^(?:\s|/\*.*?\*/)*(?:INSERT\s+INTO(?:\s+TABLE)?\s+(?:" + names + r")(?:[\s(]|$)"
        r"|ALTER\s+TABLE\s+(?:" + names + r")\s.*\b(?:REPLACE|ATTACH|MOVE)\s+PART)"
    )
