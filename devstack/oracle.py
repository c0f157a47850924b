"""What CLEAN must hold, worked out from what was done to the source and from nothing of the pipeline.

A `State` is the list of operations on the source table since it was empty. Replaying it gives the last version of every
key; `expected_rows` gives those in ClickHouse's form. Instants are integer milliseconds since the epoch, UTC.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from devstack.dataset import (
    COLUMN_TYPES,
    MAIN_COLUMNS,
    DatasetSpec,
    Key,
    Row,
    Value,
    changed_indexes,
    changed_row,
    check_span,
    key_at,
    late_key,
    late_row,
    row_at,
    wide_key,
    wide_row,
)

STATE_FILE: Final = "dataset.json"
CleanValue = str | int | tuple[str, ...] | None
CleanRow = tuple[CleanValue, ...]
CleanKey = tuple[str, int, int]


@dataclass(frozen=True)
class Rows:
    """Operation: all rows of `spec` were written."""

    spec: DatasetSpec

    def indexed_keys(self) -> Iterator[tuple[Key, int]]:
        return ((key_at(self.spec, index), index) for index in range(self.spec.rows))

    def row(self, index: int) -> Row:
        return row_at(self.spec, index)


@dataclass(frozen=True)
class Change:
    """Operation: `rows` rows of `spec` in `[since_ms, until_ms)` got new values; `version` says which and what."""

    spec: DatasetSpec
    rows: int
    since_ms: int
    until_ms: int
    version: int

    def indexed_keys(self) -> Iterator[tuple[Key, int]]:
        indexes = changed_indexes(self.spec, self.rows, self.since_ms, self.until_ms, self.version)
        return ((key_at(self.spec, index), index) for index in indexes)

    def row(self, index: int) -> Row:
        return changed_row(self.spec, index, self.version)


@dataclass(frozen=True)
class Late:
    """Operation: `rows` keys that `spec` does not have were written in `[since_ms, until_ms)`."""

    spec: DatasetSpec
    rows: int
    since_ms: int
    until_ms: int
    version: int

    def __post_init__(self) -> None:
        check_span(self.rows, self.since_ms, self.until_ms)

    def indexed_keys(self) -> Iterator[tuple[Key, int]]:
        window = self.rows, self.since_ms, self.until_ms, self.version
        return ((late_key(self.spec, *window, index), index) for index in range(self.rows))

    def row(self, index: int) -> Row:
        return late_row(self.spec, self.rows, self.since_ms, self.until_ms, self.version, index)


@dataclass(frozen=True)
class Wide:
    """Operation: `rows` rows of at least `bytes_each` bytes were written in `[since_ms, until_ms)`."""

    rows: int
    bytes_each: int
    since_ms: int
    until_ms: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_span(self.rows, self.since_ms, self.until_ms)

    def indexed_keys(self) -> Iterator[tuple[Key, int]]:
        window = self.rows, self.since_ms, self.until_ms, self.seed
        return ((wide_key(*window, index), index) for index in range(self.rows))

    def row(self, index: int) -> Row:
        return wide_row(self.rows, self.bytes_each, self.since_ms, self.until_ms, self.seed, index)


Operation = Rows | Change | Late | Wide
_KINDS: Final[Mapping[str, type[Operation]]] = {"rows": Rows, "change": Change, "late": Late, "wide": Wide}


def rows_written(operation: Operation) -> Iterator[Row]:
    """The rows that an operation writes into the source."""
    return (operation.row(index) for _, index in operation.indexed_keys())


@dataclass(frozen=True)
class State:
    """What has been done to the source table since it was empty, in order."""

    operations: tuple[Operation, ...] = ()

    def then(self, operation: Operation) -> State:
        """The state after one more operation."""
        return State((*self.operations, operation))

    @property
    def spec(self) -> DatasetSpec | None:
        """The spec written last: changes and late rows are of it."""
        return next((op.spec for op in reversed(self.operations) if isinstance(op, Rows)), None)

    def to_json(self) -> dict[str, Any]:
        """The state as plain values for `json`."""
        kinds = {cls: kind for kind, cls in _KINDS.items()}
        return {"operations": [{"kind": kinds[type(op)], **asdict(op)} for op in self.operations]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> State:
        """The state that `to_json` wrote."""
        operations: list[Operation] = []
        for entry in document["operations"]:
            fields = {name: value for name, value in entry.items() if name != "kind"}
            if "spec" in fields:
                fields["spec"] = DatasetSpec(**fields["spec"])
            operations.append(_KINDS[entry["kind"]](**fields))
        return cls(tuple(operations))


def state_path() -> Path:
    """The state file: in `DEVSTACK_DIR`, by default `.devstack` of the checkout."""
    directory = os.environ.get("DEVSTACK_DIR") or Path(__file__).resolve().parent.parent / ".devstack"
    return Path(directory) / STATE_FILE


def load_state(path: Path | None = None) -> State:
    """The saved state; the empty one when nothing has been saved."""
    path = path or state_path()
    return State.from_json(json.loads(path.read_text("utf-8"))) if path.exists() else State()


def save_state(state: State, path: Path | None = None) -> None:
    """Saves the state; a reader sees the old file or the new one, never half of it."""
    path = path or state_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(state.to_json(), indent=1), "utf-8")
    draft.replace(path)


def clean_row(row: Row) -> CleanRow:
    """A source row in the form in which ClickHouse holds it.

    Phoenix keeps no empty string apart from NULL. The key column `c` cannot be NULL in ClickHouse, nor can arrays and
    what is in them: there NULL becomes `''` and `()`.
    """
    return tuple(_clean_value(name, kind, value) for (name, kind), value in zip(COLUMN_TYPES.items(), row, strict=True))


def _clean_value(name: str, kind: str, value: Value) -> CleanValue:
    if kind == "VARCHAR ARRAY":
        if value is not None and not isinstance(value, tuple):
            raise TypeError(f"{name} takes an array, not {value!r}")
        return tuple(element or "" for element in value or ())
    if isinstance(value, tuple):
        raise TypeError(f"{name} takes no array: {value!r}")
    if name == "c":
        return value or ""
    return None if value == "" else value


def expected_rows(state: State, since_ms: int | None = None, until_ms: int | None = None) -> Iterator[CleanRow]:
    """The rows that CLEAN must hold with `opd` in `[since_ms, until_ms)`, one a key, in no special order."""
    last: dict[Key, tuple[Operation, int]] = {}
    for operation in state.operations:
        for key, index in operation.indexed_keys():
            if (since_ms is None or since_ms <= key[2]) and (until_ms is None or key[2] < until_ms):
                last[key] = operation, index
    return (clean_row(operation.row(index)) for operation, index in last.values())


def expected_counts(state: State, since_ms: int | None = None, until_ms: int | None = None) -> dict[int, int]:
    """How many rows CLEAN must hold in each partition, an integer such as 20250808."""
    keys = {
        key
        for operation in state.operations
        for key, _ in operation.indexed_keys()
        if (since_ms is None or since_ms <= key[2]) and (until_ms is None or key[2] < until_ms)
    }
    return dict(sorted(Counter(partition_of(opd) for _, _, opd in keys).items()))


def partition_of(opd_ms: int) -> int:
    """`toYYYYMMDD` of an instant: its UTC day as an integer."""
    return int(datetime.fromtimestamp(opd_ms // 1000, UTC).strftime("%Y%m%d"))


def row_hash(row: Sequence[Any]) -> int:
    """A 64-bit hash of a row in ClickHouse's form; lists count as tuples. The same on every machine."""
    text = json.dumps(row, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "big")


def content_hash(rows: Iterable[Sequence[Any]]) -> str:
    """A hash of a multiset of rows, whatever their order: the sum of their hashes modulo 2^64, as 16 hex digits."""
    return f"{sum(map(row_hash, rows)) % 2**64:016x}"


@dataclass(frozen=True)
class Difference:
    """A fault: its `kind` is missing, extra, repeated or differs; only the last has a column."""

    kind: str
    key: CleanKey
    column: str | None = None
    expected: Any = None
    actual: Any = None


@dataclass
class Differences:
    """How actual rows differ from the expected ones: numbers of keys, and the first differences as examples."""

    missing: int = 0
    extra: int = 0
    repeated: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.repeated or self.differing)


def difference(expected: Iterable[CleanRow], actual: Iterable[Sequence[Any]], limit: int = 10) -> Differences:
    """Compares rows by key; holds the expected ones in memory. At most `limit` examples are kept."""
    found = Differences()
    owed: dict[Any, CleanRow] = {row[:3]: row for row in expected}
    seen: set[Any] = set()

    def note(examples: Iterable[Difference]) -> None:
        found.examples += [example for example, _ in zip(examples, range(limit - len(found.examples)), strict=False)]

    for raw in actual:
        row = tuple(tuple(value) if isinstance(value, list) else value for value in raw)
        key: Any = row[:3]
        if key in seen:
            found.repeated += 1
            note([Difference("repeated", key)])
            continue
        seen.add(key)
        wanted = owed.get(key)
        if wanted is None:
            found.extra += 1
            note([Difference("extra", key)])
        elif wanted != row:
            found.differing += 1
            columns = zip(MAIN_COLUMNS, wanted, row, strict=True)
            note(Difference("differs", key, name, want, have) for name, want, have in columns if want != have)
    missing = [key for key in owed if key not in seen]
    found.missing = len(missing)
    note(Difference("missing", key) for key in missing)
    return found


def digest(state: State, since_ms: int | None = None, until_ms: int | None = None) -> dict[str, Any]:
    """What `expect` prints: how many rows, how many a partition, the first and last (opd, c, t), the hash."""
    count = total = 0
    low: tuple[Any, ...] | None = None
    high: tuple[Any, ...] | None = None
    for row in expected_rows(state, since_ms, until_ms):
        count += 1
        total += row_hash(row)
        instant = row[2], row[0], row[1]
        low = instant if low is None else min(low, instant)
        high = instant if high is None else max(high, instant)
    return {
        "rows": count,
        "partitions": expected_counts(state, since_ms, until_ms),
        "first": low,
        "last": high,
        "hash": f"{total % 2**64:016x}",
    }
