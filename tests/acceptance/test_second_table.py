"""Any other table of Phoenix: its ClickHouse tables are what ``ddl --from-source`` prints, and every value arrives.

Each column has its values twice: as Phoenix SQL and as what ClickHouse must hold, both written by hand.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from devstack.deployment import Deployment, iso, midnight, ms, named_settings
from devstack.phoenix_seed import timestamp
from devstack.stack import Stack

SINCE = midnight(2)
UNTIL = midnight(0)
WIDEST = Decimal("99999999999999999999999999999999999999")
TINIEST = Decimal("0.00000000000000000000000000000000000001")
LATE = "TIMESTAMP '9999-12-31 23:59:59.999'"
LATE_MS = 253_402_300_799_999
EARLY = "TIMESTAMP '1969-12-31 23:59:59.999'"


@dataclass(frozen=True)
class Column:
    """A column, its Phoenix and ClickHouse types, how it is read, and its values: (Phoenix SQL, what must arrive)."""

    name: str
    phoenix: str
    clickhouse: str
    values: Sequence[tuple[str, Any]]
    read: str = "{}"


def number(text: str, kind: str) -> str:
    """A literal of this type: Phoenix reads no plain -2^63, and casts 2^63 - 1 to an UNSIGNED_LONG that is less."""
    return text if kind.startswith("UNSIGNED") else f"CAST(TO_NUMBER('{text}') AS {kind})"


def hexed(digits: str) -> str:
    """Bytes by their hexadecimal digits."""
    return f"DECODE('{digits}', 'HEX')"


def integers(name: str, kind: str, into: str, *values: int) -> Column:
    """A column of integers, NULL among them."""
    cells: list[tuple[str, Any]] = [(number(str(value), kind), value) for value in values]
    return Column(name, kind, f"Nullable({into})", [*cells, ("NULL", None)])


MS = "toUnixTimestamp64Milli({})"
MS_EACH = "arrayMap(x -> toUnixTimestamp64Milli(x), {})"
TIME = "DateTime64(3, 'UTC')"
COLUMNS = (
    integers("ti", "TINYINT", "Int8", -128, 127),
    integers("si", "SMALLINT", "Int16", -32768, 32767),
    integers("in", "INTEGER", "Int32", -(2**31), 2**31 - 1),
    integers("between", "BIGINT", "Int64", -(2**63), 2**63 - 1, 0),
    integers("uti", "UNSIGNED_TINYINT", "UInt8", 0, 127),
    integers("usi", "UNSIGNED_SMALLINT", "UInt16", 0, 32767),
    integers("ui", "UNSIGNED_INT", "UInt32", 0, 2**31 - 1),
    integers("ul", "UNSIGNED_LONG", "UInt64", 0, 2**63 - 1),
    Column(
        "any decimal", "DECIMAL", "Nullable(Decimal(76, 38))",
        [(str(WIDEST), WIDEST), (f"-{TINIEST:f}", -TINIEST), ("0.10", Decimal("0.1")), ("NULL", None)],
    ),
    Column(
        "money", "DECIMAL(12, 2)", "Nullable(Decimal(12, 2))",
        [("9999999999.99", Decimal("9999999999.99")), ("-0.01", Decimal("-0.01")), ("NULL", None)],
    ),
    Column(
        "double", "DOUBLE", "Nullable(Float64)",
        [("1.7976931348623157E308", 1.7976931348623157e308), ("-0.1", -0.1), ("2.5E-300", 2.5e-300), ("NULL", None)],
    ),
    Column("share %", "INTEGER", "Nullable(Int32)", [("7", 7), ("-7", -7), ("NULL", None)]),
    Column("float", "FLOAT", "Nullable(Float32)", [("CAST(-2.25 AS FLOAT)", -2.25), ("0.5", 0.5), ("NULL", None)]),
    Column("yes/no", "BOOLEAN", "Nullable(Bool)", [("TRUE", True), ("FALSE", False), ("NULL", None)]),
    Column(
        "bytes", "VARBINARY", "Nullable(String)",
        [(hexed("FF00FE"), "FF00FE"), (hexed("616263"), "616263"), (hexed("00"), "00"), ("NULL", None)], "hex({})",
    ),
    Column(
        "three", "BINARY(3)", "Nullable(String)",
        [(hexed("FFFFFF"), "FFFFFF"), (hexed("01"), "010000"), ("NULL", None)], "hex({})",
    ),
    Column("text", "VARCHAR(40)", "Nullable(String)", [("'ё🚀 ''quoted'' \\ `'", "ё🚀 'quoted' \\ `"), ("''", None)]),
    Column("code", "CHAR(4)", "Nullable(String)", [("'ab'", "ab"), ("'abcd'", "abcd"), ("NULL", None)]),
    Column(
        "day", "DATE", f"Nullable({TIME})",
        [("DATE '2024-02-29 23:59:59'", 1_709_251_199_000), ("DATE '1969-12-31'", -86_400_000), ("NULL", None)], MS,
    ),
    Column("hour", "TIME", f"Nullable({TIME})", [("TIME '1970-01-01 01:02:03'", 3_723_000), ("NULL", None)], MS),
    Column("stamp", "TIMESTAMP", f"Nullable({TIME})", [(LATE, LATE_MS), (EARLY, -1), ("NULL", None)], MS),
    Column(
        "ints", "INTEGER ARRAY", "Array(Int32)",
        [("ARRAY[-2147483648, 0, 2147483647]", [-(2**31), 0, 2**31 - 1]), ("NULL", [])],
    ),
    Column(
        "longs", "BIGINT ARRAY", "Array(Int64)", [("ARRAY[9223372036854775807, -1]", [2**63 - 1, -1]), ("NULL", [])]
    ),
    Column("doubles", "DOUBLE ARRAY", "Array(Float64)", [("ARRAY[0.1, -1.5E100]", [0.1, -1.5e100]), ("NULL", [])]),
    Column(
        "decimals", "DECIMAL(9, 3) ARRAY", "Array(Decimal(9, 3))",
        [("ARRAY[1.125, -3]", [Decimal("1.125"), Decimal(-3)]), ("NULL", [])],
    ),
    Column("flags", "BOOLEAN ARRAY", "Array(Bool)", [("ARRAY[TRUE, FALSE]", [True, False]), ("NULL", [])]),
    Column("tags", "VARCHAR ARRAY", "Array(String)", [("ARRAY['a', 'ё,']", ["a", "ё,"]), ("NULL", [])]),
    Column("stamps", "TIMESTAMP ARRAY", f"Array({TIME})", [(f"ARRAY[{EARLY}]", [-1]), ("NULL", [])], MS_EACH),
)  # fmt: skip
KEY = (
    Column("Konto nr", "VARCHAR", "String", [("'a''b'", "a'b"), ("'ё'", "ё"), ("NULL", "")]),
    Column("select", "UNSIGNED_LONG NOT NULL", "UInt64", [(str(2**63 - 1), 2**63 - 1), ("0", 0)]),
    Column("Wert", "DECIMAL(10, 2) NOT NULL", "Decimal(10, 2)", [("1.50", Decimal("1.5")), ("-2", Decimal(-2))]),
    Column("wann", "TIMESTAMP NOT NULL", TIME, (), MS),
    Column("bis", "DATE NOT NULL", TIME, [("DATE '2026-01-01 06:00:00'", 1_767_247_200_000)], MS),
    Column("tail", "VARBINARY", "String", [(hexed("FE"), "FE"), ("NULL", "")], "hex({})"),
)
TABLE = '"Acc_S"."second-1"'
# Not carried: arrays of unsigned numbers, and a name of two families.
NOT_CARRIED = '"uints" UNSIGNED_INT ARRAY, "f1"."twin" INTEGER, "f2"."twin" INTEGER'


@pytest.fixture
def second(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """``second("name", table, ddl)``: a deployment whose source table is made by ``ddl``; nothing else is there."""
    with ExitStack() as made:

        def make(name: str, table: str, ddl: str) -> Deployment:
            settings = {**named_settings(stack, name), "HBASE_MAIN_TABLE": table, "PHX_INITIAL_SLICE_MIN": "240"}
            deployment = Deployment(stack, tmp_path, settings)
            made.callback(deployment.close)
            deployment.destroy()
            deployment.seeder.execute(ddl)
            return deployment

        yield make


def quoted(names: Sequence[str]) -> str:
    """Column names for Phoenix."""
    return ", ".join(f'"{name}"' for name in names)


class SecondTable:
    """The rows of the odd table: written to Phoenix as SQL, and remembered as what CLEAN must hold."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def write(self, number: int, at: datetime, turn: int = 0) -> None:
        """Row ``number`` at ``at``; each column takes one of its values, another one at another ``turn``."""
        key = [
            (timestamp(ms(at)), ms(at)) if column.name == "wann" else column.values[number % len(column.values)]
            for column in KEY
        ]
        cells = [column.values[(number + turn) % len(column.values)] for column in COLUMNS]
        names = quoted([column.name for column in (*KEY, *COLUMNS)])
        literals = ", ".join(sql for sql, _ in (*key, *cells))
        self.deployment.seeder.execute(f"UPSERT INTO {TABLE} ({names}) VALUES ({literals})")
        self.rows[tuple(value for _, value in key)] = tuple(value for _, value in (*key, *cells))

    def in_clean(self) -> list[tuple[Any, ...]]:
        """All rows of CLEAN over all shards, in order of their text."""
        reads = ", ".join(column.read.format(f"`{column.name}`") for column in (*KEY, *COLUMNS))
        return sorted(self.deployment.query(f"SELECT {reads} FROM {self.deployment.clean_all}"), key=repr)

    def assert_exact(self) -> None:
        """Every row is there once, every value as it must be: of the same type too, bar Decimal's trailing zeros."""
        expected, actual = sorted(map(plain, self.rows.values())), sorted(map(plain, self.in_clean()))
        assert len(actual) == len(expected)
        names = [column.name for column in (*KEY, *COLUMNS)]
        for should, did in zip(expected, actual, strict=True):
            assert dict(zip(names, did, strict=True)) == dict(zip(names, should, strict=True))


def plain(row: Sequence[Any]) -> list[str]:
    """A row as text, in which 1, True and 1.0 differ and 0.1 and 0.10 of a Decimal do not."""
    return [repr(_normal(value)) for value in row]


def _normal(value: Any) -> Any:
    if isinstance(value, list):
        return [_normal(each) for each in value]
    return value.normalize() if isinstance(value, Decimal) else value


def test_a_table_of_every_type_and_of_odd_names_runs_whole(second: Callable[..., Deployment]) -> None:
    columns = ", ".join(f'"{column.name}" {column.phoenix}' for column in (*KEY, *COLUMNS))
    primary = quoted([column.name for column in KEY])
    deployment = second(
        "second", TABLE, f"CREATE TABLE {TABLE} ({columns}, {NOT_CARRIED} CONSTRAINT pk PRIMARY KEY ({primary}))"
    )
    source = SecondTable(deployment)
    ddl = ("ddl", "--from-source", TABLE, "--name", f"{deployment.settings['CH_DB']}.zweite")
    # Two columns of the key are times: which one is not for us to guess.
    refused = deployment.cli(*ddl, expect=2).stderr
    assert "wann, bis" in refused
    assert "--time-column" in refused
    chosen = (*ddl, "--time-column", "wann", "--key", "Konto nr,select,wann,Wert,bis,tail")

    printed = deployment.cli(*chosen)
    for name in ("uints", "twin"):
        assert f"{name} is left out" in printed.stderr
    statements = [
        "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
        for statement in printed.stdout.split(";\n")
    ]
    for statement in filter(None, statements):
        deployment.each_shard(statement)
    found = deployment.query(
        "SELECT name, type FROM system.columns WHERE database = %(db)s AND table = 'zweite' ORDER BY position",
        {"db": deployment.settings["CH_DB"]},
    )
    wanted = [(column.name, column.clickhouse) for column in (*KEY, *COLUMNS)]
    assert found == [*wanted, ("ingested_at", TIME)]
    settings = dotenv_values(stream=io.StringIO(deployment.cli(*chosen, "--env").stdout), interpolate=False)
    deployment.settings |= {name: value or "" for name, value in settings.items()}
    assert deployment.settings["HBASE_MAIN_TABLE"] == TABLE
    migrated = deployment.cli("migrate").stdout
    assert migrated.count("all tables were there") == len(deployment.endpoints)

    for row in range(40):
        source.write(row, SINCE + timedelta(hours=row, milliseconds=row))
    # The last millisecond of a day, and the first of the next.
    source.write(41, SINCE + timedelta(days=1, milliseconds=-1))
    source.write(42, SINCE + timedelta(days=1))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(UNTIL - timedelta(hours=2)))
    source.assert_exact()

    # Every value changed, NULLs over values and values over NULLs; then what came since, for the schedule.
    for row in range(20):
        source.write(row, SINCE + timedelta(hours=row, milliseconds=row), turn=1)
    deployment.cli("run", "--manual", "--since", iso(SINCE), "--until", iso(SINCE + timedelta(days=1)))
    for row in range(50, 55):
        source.write(row, UNTIL - timedelta(minutes=100 - row))
    deployment.cli("run")
    source.assert_exact()
    assert [run.status for run in deployment.runs()] == ["ok"] * 3

    said = deployment.cli("reconcile", "--hash", "--since", iso(SINCE), "--until", iso(UNTIL)).stdout
    assert "reconciled: exact" in said

    # It compares what is there: a byte, a digit, an element that differs is found.
    source.write(3, SINCE + timedelta(hours=3, milliseconds=3), turn=2)
    window = ("--since", iso(SINCE + timedelta(hours=3)), "--until", iso(SINCE + timedelta(hours=4)))
    differing = json.loads(deployment.cli("reconcile", "--hash", "--json", *window, expect=1).stdout)
    assert sum(each["differing"] for each in differing["slices"]) == 1


@pytest.mark.parametrize(
    ("kind", "options", "units", "literal"),
    [
        ("BIGINT", ("--time-column", "at", "--units", "millis"), "millis", lambda at: str(ms(at))),
        ("UNSIGNED_INT", ("--time-column", "at"), "seconds", lambda at: str(ms(at) // 1000)),
        ("DATE", (), "timestamp", lambda at: f"DATE '{at:%Y-%m-%d %H:%M:%S}'"),
    ],
)
def test_times_of_integers_and_dates(
    second: Callable[..., Deployment], kind: str, options: tuple[str, ...], units: str, literal: Callable[..., str]
) -> None:
    """``migrate`` alone makes the tables, from the settings that ``ddl --env`` printed."""
    name = f"times_{units}"
    table = f"ACC_{name.upper()}"
    deployment = second(
        name, table, f'CREATE TABLE {table} ("id" INTEGER NOT NULL, "at" {kind} NOT NULL, "v" VARCHAR CONSTRAINT pk '
        'PRIMARY KEY ("id", "at"))',
    )  # fmt: skip
    if kind == "BIGINT":
        # An id and a time look alike: neither is guessed, nor what a number counts.
        ddl = ("ddl", "--from-source", table)
        assert "(id, at)" in deployment.cli(*ddl, expect=2).stderr
        assert "--units millis or --units seconds" in deployment.cli(*ddl, "--time-column", "at", expect=2).stderr
    settings = dotenv_values(
        stream=io.StringIO(deployment.cli("ddl", "--from-source", table, "--env", *options).stdout), interpolate=False
    )
    assert settings["PHX_TS_UNITS"] == units
    deployment.settings |= {each: value or "" for each, value in settings.items()}
    assert "created" in deployment.cli("migrate").stdout
    expected = []
    for row in range(12):
        at = SINCE + timedelta(hours=4 * row)
        deployment.seeder.execute(f"UPSERT INTO {table} VALUES ({row}, {literal(at)}, 'v{row}')")
        expected.append((row, at.replace(tzinfo=UTC), f"v{row}"))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(SINCE), "--until", iso(UNTIL))
    assert deployment.query(f"SELECT id, at, v FROM {deployment.clean_all} ORDER BY id") == expected
    said = deployment.cli("reconcile", "--hash", "--since", iso(SINCE), "--until", iso(UNTIL)).stdout
    assert "reconciled: exact" in said
