"""From the columns of any Phoenix table to the ClickHouse table that carries it: key, time column, types, what is left
out. Pure: the caller has asked Phoenix's catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from etl_tasks.core.batch import SourceColumn, key_columns
from etl_tasks.core.coercion_rules import EMPTY_IN_KEY, TIMES
from etl_tasks.core.target_types import TIME_TYPE, target_type
from etl_tasks.errors import SchemaError, UsageError

VERSION_COLUMN: Final = "ingested_at"
UNITS: Final = ("millis", "seconds")
_COUNTERS: Final = frozenset({"BIGINT", "UNSIGNED_LONG"})
_SECONDS_ONLY: Final = frozenset({"INTEGER", "UNSIGNED_INT"})
_NOT_IN_A_NAME: Final = frozenset("\"'`\\,")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A column of the source that is not carried, and why, with what can be done."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A ClickHouse table for a table of Phoenix: (name, type) of its columns in the source's order, the key in the
    order it is sorted by, the time column, and what it holds in the source (``timestamp``, ``millis``, ``seconds``).
    """

    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    ts_column: str
    ts_units: str
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def sharded_by(self) -> tuple[str, ...]:
        """The key without its time: what one thing wrote stays on one shard. The time alone where there is no more."""
        return tuple(name for name in self.key if name != self.ts_column) or self.key


def time_candidates(columns: Sequence[SourceColumn]) -> list[str]:
    """The columns of the primary key that can be the time column: its times, or its integers when it has none."""
    in_key = [column for column in columns if column.key_position is not None]
    times = [column.name for column in in_key if column.type in TIMES]
    return times or [column.name for column in in_key if column.type in _COUNTERS | _SECONDS_ONLY]


def has_one_time(columns: Sequence[SourceColumn]) -> bool:
    """Whether the time column is beyond doubt. An integer of the key never is: it may be an id."""
    return sum(column.key_position is not None and column.type in TIMES for column in columns) == 1


def design(
    columns: Sequence[SourceColumn],
    place: str,
    *,
    key: Sequence[str] = (),
    ts_column: str = "",
    ts_units: str = "",
    leave_out: Collection[str] = (),
) -> TargetTable:
    """The table that carries ``columns``, of which the empty arguments are chosen where only one choice is right.

    ``key`` is an order of the primary key's columns, to sort by. Raises UsageError, naming the candidates, for a choice
    that is missing or cannot be; SchemaError when the table cannot be carried.
    """
    known = {column.name: column for column in columns}
    primary = key_columns(columns)
    unknown = [name for name in leave_out if name not in known]
    if unknown:
        raise UsageError(f"{place} has no column {', '.join(unknown)}: it has {', '.join(known)}")
    chosen_key = _chosen_key(primary, key, place)
    time_column = known[_chosen_time(columns, ts_column, place)]
    units = _chosen_units(time_column, ts_units)
    left_out = _left_out(columns, leave_out)
    lost = [each for each in left_out if each.name in primary]
    if lost:
        said = "; ".join(f"{each.name}: {each.reason}" for each in lost)
        raise SchemaError(
            f"{place} cannot be carried without its whole primary key ({', '.join(primary)}): {said}. "
            "A view or a copy of the table with another key can be"
        )
    gone = {each.name for each in left_out}
    carried = [column for column in columns if column.name not in gone]
    return TargetTable(
        columns=tuple(
            (column.name, TIME_TYPE if column is time_column else str(target_type(column))) for column in carried
        ),
        key=chosen_key,
        ts_column=time_column.name,
        ts_units=units,
        left_out=tuple(left_out),
        notices=tuple(
            f"{column.name} of the key may be NULL in Phoenix, and ClickHouse's {target_type(column)} holds none: "
            "such a row is a reject (MAX_REJECTED_ROWS)"
            for column in carried
            if column.key_position is not None and column.nullable and column.type not in EMPTY_IN_KEY
        ),
    )


def _chosen_key(primary: tuple[str, ...], asked: Sequence[str], place: str) -> tuple[str, ...]:
    if not primary:
        raise SchemaError(f"Phoenix's catalog names no primary key of {place}: rows could not be told apart")
    if asked and sorted(asked) != sorted(primary):
        raise UsageError(
            f"--key {','.join(asked)}: the key is the primary key of {place}, whose columns are {','.join(primary)}; "
            "name all of them and no other, in the order ClickHouse is to sort by"
        )
    return tuple(asked) or primary


def _chosen_time(columns: Sequence[SourceColumn], asked: str, place: str) -> str:
    primary = key_columns(columns)
    candidates = time_candidates(columns)
    if not candidates:
        raise SchemaError(
            f"no column of the primary key ({', '.join(primary)}) of {place} holds a time (a TIMESTAMP, DATE or TIME, "
            "or an integer of milliseconds or seconds): it cannot be read by windows. The time must be in the key, "
            "since a row whose time changed would become two; a copy of the table with a time in its key can be"
        )
    if asked:
        usable = [column.name for column in columns if column.name in primary and _may_be_time(column)]
        if asked not in usable:
            raise UsageError(
                f"--time-column {asked}: it must be a time, or an integer of milliseconds or seconds, in the primary "
                f"key of {place}; there is {', '.join(usable)}"
            )
        return asked
    if len(candidates) > 1 or not has_one_time(columns):
        raise UsageError(
            f"say which column of the primary key of {place} is the time column ({', '.join(candidates)}): "
            "--time-column NAME"
        )
    return candidates[0]


def _may_be_time(column: SourceColumn) -> bool:
    return column.type in TIMES | _COUNTERS | _SECONDS_ONLY


def _chosen_units(column: SourceColumn, asked: str) -> str:
    if column.type in TIMES:
        if asked not in ("", "timestamp"):
            raise UsageError(f"--units {asked}: the time column {column.name} is {column.type}; leave --units out")
        return "timestamp"
    if column.type in _SECONDS_ONLY:
        if asked not in ("", "seconds"):
            raise UsageError(
                f"--units {asked}: the time column {column.name} is {column.type}, which holds seconds only"
            )
        return "seconds"
    if asked not in UNITS:
        raise UsageError(
            f"the time column {column.name} is {column.type}: say whether it counts milliseconds or seconds since 1970 "
            "(UTC), --units millis or --units seconds"
        )
    return asked


def _left_out(columns: Sequence[SourceColumn], asked: Collection[str]) -> list[LeftOut]:
    times = Counter(column.name for column in columns)
    found: dict[str, LeftOut] = {}
    for column in columns:
        reason = ""
        if column.name in asked:
            reason = "left out as asked"
        elif times[column.name] > 1:
            reason = "a column of this name is in more than one column family; a view can name them apart"
        elif column.name == VERSION_COLUMN:
            reason = "the name is taken by the version that every row gets here; a view can name it otherwise"
        elif (
            _NOT_IN_A_NAME.intersection(column.name)
            or column.name != column.name.strip()
            or not column.name.isprintable()
        ):
            reason = "its name has a quote, comma, backslash, or a blank at its end; a view can name it otherwise"
        elif target_type(column) is None:
            reason = f"values of {column.type} cannot be carried; it is not in MAIN_COLUMNS"
        if reason:
            found[column.name] = LeftOut(column.name, reason)
    return list(found.values())
