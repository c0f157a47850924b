"""A batch in the target's types: every row that fits, and what kept the others out (DESIGN, Coerce).

The rules themselves, Phoenix type × ClickHouse type, are the table of ``etl_tasks.core.coercion_rules``, and those for
columns that stay bytes ``etl_tasks.core.column_rules``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from etl_tasks.core.batch import ColumnBatch, SourceColumn, TargetColumn, key_columns
from etl_tasks.core.coercion_rules import BYTES, DAY_MS, EMPTY_IN_KEY, TIMES, RuleContext
from etl_tasks.core.column_rules import AnyColumnRule, column_rule
from etl_tasks.core.columns import Column, Hashes, in_list, taken
from etl_tasks.core.distinct import any_repeats, key_hashes
from etl_tasks.errors import SchemaError

VALUE_TEXT_LIMIT: Final = 200
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
PARTITION_RANGE_MS: Final = (0, (date(2106, 1, 1) - date(1970, 1, 1)).days * DAY_MS - 1)
"""1970-01-01 to 2105-12-31: past it ``toDateTime`` in CLEAN's TTL overflows and the rows vanish at once (FACTS)."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A value that its column cannot hold. ``key`` and ``value_text`` are fit for PostgreSQL: zero bytes show as
    ``\\0``; a time of the key is a text in UTC, as one would look for the row.
    """

    key: tuple[Any, ...]
    column: str
    value_text: str
    reason: str


@dataclass(slots=True)
class CoercedBatch:
    """The rows that fit, ready for the insert, and what kept the others out (two misfits of a row are two entries)."""

    batch: ColumnBatch
    misfits: list[Misfit]


def visible(text: str, limit: int = VALUE_TEXT_LIMIT) -> str:
    """The text as PostgreSQL can hold it, at most ``limit`` characters: ``\\0`` for a zero byte, lone surrogates
    escaped.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    shown = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def value_text(value: object) -> str:
    """A value as a short text for the journal; bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return visible("0x" + value[:VALUE_TEXT_LIMIT].hex())
    return visible(value if isinstance(value, str) else repr(value))


def time_text(time_ms: Any) -> Any:
    """Milliseconds since the epoch as one would look for them in the source, in UTC; what is no such time as it is.

    ``1754611200123`` is ``2025-08-08T00:00:00.123Z``.
    """
    if not isinstance(time_ms, int):
        return time_ms
    try:
        shown = EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return time_ms
    return shown.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class CoercionPlan:
    """How one table's batches are brought into another table's types. Made once a run; holds no state of batches."""

    def __init__(
        self,
        names: tuple[str, ...],
        rules: tuple[AnyColumnRule, ...],
        key: tuple[str, ...],
        empty_in_key: Mapping[str, str | bytes],
        byte_columns: frozenset[str],
        time_columns: frozenset[str],
    ) -> None:
        self._names = names
        self._rules = rules
        self.key = key
        """The columns of the source's primary key, in its order."""
        self._empty_in_key = empty_in_key
        self.byte_columns = byte_columns
        """The columns of bytes, which may be no text."""
        self._time_columns = time_columns

    @classmethod
    def build(
        cls,
        source_columns: Sequence[SourceColumn],
        target_columns: Sequence[TargetColumn],
        *,
        key: Sequence[str] | None = None,
        partition_column: str = "opd",
        datetime64_range_ms: tuple[int, int],
    ) -> CoercionPlan:
        """Find the rule of every source column by the name of its target; other target columns are left to their
        defaults.

        ``datetime64_range_ms`` is what DateTime64(3) holds on the server, ``partition_column`` is held to 1970 .. 2105
        besides. ``key`` is the source's primary key (None: what of it is in ``source_columns``). Raises SchemaError
        with every pair that has no rule, and for a key by which rows cannot be told apart here.
        """
        context = RuleContext(datetime64_range_ms)
        targets = {column.name: column for column in target_columns}
        key = key_columns(source_columns) if key is None else key
        read = {column.name for column in source_columns}
        faults = [
            f"the key column {name} is not among the columns read: add it to MAIN_COLUMNS, or rows would become one"
            for name in key
            if name not in read
        ]
        faults += [
            f"the key column {column.name} is {column.type}, by which no rows are told apart here"
            for column in source_columns
            if column.name in key and column.type.endswith(" ARRAY")
        ]
        if not key:
            faults.append("none of the columns read is in the source's primary key")
        rules: list[AnyColumnRule] = []
        for column in source_columns:
            target = targets.get(column.name)
            if target is None or target.default_kind in ("ALIAS", "MATERIALIZED"):
                what = "has no such column" if target is None else f"computes it ({target.default_kind})"
                faults.append(f"{column.name}: the target {what}")
                continue
            narrowed = context
            if column.name == partition_column:
                low, high = PARTITION_RANGE_MS
                narrowed = RuleContext((max(low, datetime64_range_ms[0]), min(high, datetime64_range_ms[1])))
            rule = column_rule(column.type, target.type, narrowed, in_key=column.name in key)
            if rule is None:
                faults.append(f"{column.name}: {column.type} of Phoenix does not go into {target.type} of ClickHouse")
            else:
                rules.append(rule)
        if faults:
            raise SchemaError("the source's columns do not fit the target's: " + "; ".join(faults))
        empty = {c.name: EMPTY_IN_KEY[c.type] for c in source_columns if c.name in key and c.type in EMPTY_IN_KEY}
        byte_columns = frozenset(c.name for c in source_columns if c.type.removesuffix(" ARRAY") in BYTES)
        time_columns = frozenset(c.name for c in source_columns if c.type in TIMES)
        names = tuple(column.name for column in source_columns)
        return cls(names, tuple(rules), tuple(key), empty, byte_columns, time_columns)

    def apply(self, batch: ColumnBatch) -> CoercedBatch:
        """The batch in the target's types, without the rows that do not fit; the given batch is left as it is."""
        if tuple(batch.names) != self._names:
            raise SchemaError(f"the batch has the columns {', '.join(batch.names)} instead of {', '.join(self._names)}")
        columns: list[Column] = []
        faults: dict[int, list[tuple[int, str]]] = {}
        for position, (rule, values) in enumerate(zip(self._rules, batch.columns, strict=True)):
            converted, found = rule(values)
            columns.append(converted)
            for row, reason in found:
                faults.setdefault(row, []).append((position, reason))
        if not faults:
            return CoercedBatch(ColumnBatch(self._names, columns, batch.rows, batch.approximate_bytes), [])
        misfits = [
            Misfit(
                tuple(
                    time_text(part) if name in self._time_columns else visible(part) if isinstance(part, str) else part
                    for name, part in zip(self.key, self.key_of(batch, row), strict=True)
                ),
                self._names[position],
                value_text(batch.columns[position][row]),
                visible(reason),
            )
            for row in sorted(faults)
            for position, reason in faults[row]
        ]
        fitting = ColumnBatch(self._names, columns, batch.rows, batch.approximate_bytes)
        return CoercedBatch(_rows(fitting, [row for row in range(batch.rows) if row not in faults]), misfits)

    def key_of(self, batch: ColumnBatch, row: int) -> tuple[Any, ...]:
        """The key of a row of a batch, raw or coerced, as the target holds it: a NULL text is ``''``."""
        parts = ((name, batch.column(name)[row]) for name in self.key)
        return tuple(self._empty_in_key.get(name) if part is None else part for name, part in parts)


def drop_repeats(batch: ColumnBatch, key_names: Sequence[str]) -> tuple[ColumnBatch, Hashes]:
    """The batch with only the last row of every key, in the order of rows (the same batch when no key repeats), and
    the hash of each row's key.
    """
    hashes = key_hashes([batch.column(name) for name in key_names], batch.rows)
    if not any_repeats(hashes):
        return batch, hashes
    # Two keys of one hash are still two keys.
    keys = zip(*[in_list(batch.column(name)) for name in key_names], strict=True)
    last = {key: row for row, key in enumerate(keys)}
    if len(last) == batch.rows:
        return batch, hashes
    kept = sorted(last.values())
    return _rows(batch, kept), hashes[kept]


def _rows(batch: ColumnBatch, kept: Sequence[int]) -> ColumnBatch:
    size = batch.approximate_bytes * len(kept) // max(batch.rows, 1)
    return ColumnBatch(batch.names, [taken(column, kept) for column in batch.columns], len(kept), size)
