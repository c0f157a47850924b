"""Comparing what the source holds with what CLEAN holds: counts of windows, and the content of every row."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from etl_tasks.core.batch import TargetColumn
from etl_tasks.core.windows import Window

Key = tuple[Any, ...]
Row = Sequence[Any]
Converter = Callable[[Any], Any] | None
"""What brings a value into comparable form; None where it is so already."""

_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)", re.DOTALL)
_ARRAY = re.compile(r"Array\((.*)\)", re.DOTALL)
_DATETIME64 = re.compile(r"DateTime64\((\d+)")


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """Rows of one window in source time, in the three places; RAW and CLEAN without repeats of a key."""

    window: Window
    source: int
    raw: int
    clean: int

    @property
    def equal(self) -> bool:
        """Whether the source and CLEAN hold as many rows; RAW forgets by its TTL and does not decide."""
        return self.source == self.clean


@dataclass(frozen=True, slots=True)
class Example:
    """A key on which the two sides differ; ``columns`` maps each column that differs to (source's value, CLEAN's)."""

    kind: str
    key: Key
    columns: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowContent:
    """What the comparison of every row of a window found.

    ``missing`` keys are in the source only, ``extra`` ones in CLEAN only, ``differing`` in both with other content,
    ``repeated`` more than once in CLEAN. ``unfit`` source rows fit no column of the target and cannot be in CLEAN.
    ``collisions`` are source rows beyond the first of a key (Phoenix's keys can differ below a millisecond).
    """

    window: Window
    source_keys: int = 0
    clean_rows: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    repeated: int = 0
    unfit: int = 0
    collisions: int = 0
    examples: Sequence[Example] = ()

    @property
    def equal(self) -> bool:
        """Whether CLEAN holds exactly the source's rows, one of each key."""
        return not (self.missing or self.extra or self.differing or self.repeated or self.unfit)


class RowFingerprints:
    """A row as 16 bytes: the same for the same content, whichever side it was read from.

    The text of the values is what is hashed, not Python's ``hash``, for which -1 and -2 are the same.
    """

    def __init__(self, names: Sequence[str], key: Sequence[str]) -> None:
        self._key_positions = [list(names).index(name) for name in key]

    def key_of(self, row: Row) -> Key:
        """The row's key."""
        return tuple(row[position] for position in self._key_positions)

    def content_of(self, row: Row) -> bytes:
        """The row's content."""
        return blake2b(repr(list(row)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class WindowComparison:
    """Takes the source's rows, then CLEAN's, in any order and any number of blocks; holds a key and 16 bytes a row."""

    def __init__(self, window: Window, fingerprints: RowFingerprints, most_examples: int) -> None:
        self._window = window
        self._fingerprints = fingerprints
        self._most = most_examples
        self._source: dict[Key, bytes | list[bytes]] = {}
        self._seen: set[Key] = set()
        self._collisions = 0
        self._unfit = 0
        self._clean_rows = 0
        self._counts = {"extra": 0, "differing": 0, "repeated": 0}
        self._examples: list[Example] = []
        self.differing: dict[Key, Row] = {}
        """CLEAN's rows of some keys that differ, to be looked at column by column."""

    def add_source(self, rows: Iterable[tuple[Key, bytes]]) -> None:
        """Keys and fingerprints of rows of the source."""
        for key, content in rows:
            before = self._source.setdefault(key, content)
            if before is not content:
                # Any of them may be the one that CLEAN kept.
                self._collisions += 1
                self._source[key] = [*(before if isinstance(before, list) else [before]), content]

    def add_unfit(self, rows: int) -> None:
        """Source rows that the target cannot hold."""
        self._unfit += rows

    def add_clean(self, rows: Iterable[Row]) -> None:
        """Rows of CLEAN; after all of the source's."""
        for row in rows:
            self._clean_rows += 1
            key = self._fingerprints.key_of(row)
            wanted = self._source.get(key)
            if wanted is None:
                self._count("extra", key)
            elif key in self._seen:
                self._count("repeated", key)
            else:
                self._seen.add(key)
                content = self._fingerprints.content_of(row)
                if content != wanted and not (isinstance(wanted, list) and content in wanted):
                    self._counts["differing"] += 1
                    if len(self.differing) < self._most:
                        self.differing[key] = row

    def result(self, explained: Sequence[Example] = ()) -> WindowContent:
        """What was found; ``explained`` are the examples of ``differing`` rows with their columns."""
        missing = len(self._source) - len(self._seen)
        examples = [*explained, *self._examples]
        if missing:
            lost = [key for key in self._source if key not in self._seen][: self._most]
            examples += [Example("missing", key) for key in lost]
        return WindowContent(
            window=self._window,
            source_keys=len(self._source),
            clean_rows=self._clean_rows,
            missing=missing,
            unfit=self._unfit,
            collisions=self._collisions,
            examples=tuple(examples[: self._most]),
            **self._counts,
        )

    def _count(self, kind: str, key: Key) -> None:
        self._counts[kind] += 1
        if len(self._examples) < self._most:
            self._examples.append(Example(kind, key))


def differing_columns(names: Sequence[str], source: Row, clean: Row) -> dict[str, tuple[Any, Any]]:
    """The columns in which two rows of one key differ: (source's value, CLEAN's)."""
    # By text, as the fingerprints: 1 and True, 0.0 and -0.0 are equal to Python and not the same content.
    return {
        name: (ours, theirs)
        for name, ours, theirs in zip(names, source, clean, strict=True)
        if repr(ours) != repr(theirs)
    }


def converters(
    columns: Sequence[TargetColumn], byte_columns: frozenset[str] = frozenset()
) -> list[tuple[Converter, Converter]]:
    """For each column: what brings a coerced source value, and a value read from ClickHouse, into one comparable form.

    Coerced values are as the driver takes them (ticks of DateTime64(p), seconds of DateTime, dates); ClickHouse's are
    as ``target.rows`` gives them (times as milliseconds). ``byte_columns`` hold bytes: the driver gives them as text
    where they happen to be UTF-8.
    """
    return [_converters(column.type, column.name in byte_columns) for column in columns]


def converted(values: Sequence[Any], convert: Converter) -> Sequence[Any]:
    """The values in comparable form; NULLs stay."""
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _converters(type_: str, is_bytes: bool) -> tuple[Converter, Converter]:
    bare = type_
    while wrapped := _WRAPPED.fullmatch(bare):
        bare = wrapped[1]
    if array := _ARRAY.fullmatch(bare):
        ours, theirs = _converters(array[1], is_bytes)
        return _for_arrays(ours), _for_arrays(theirs)
    if precise := _DATETIME64.match(bare):
        ticks_a_second = 10 ** int(precise[1])
        return (None if ticks_a_second == 1000 else lambda ticks: ticks * 1000 // ticks_a_second), None
    if bare.startswith("DateTime"):
        return (lambda seconds: seconds * 1000), None
    if bare.startswith("Date"):
        return (lambda day: (day - _EPOCH).days * _DAY_MS), None
    both: Converter = None
    if is_bytes:
        both = _as_bytes
    elif bare.startswith("Decimal"):
        both = _plain_decimal
    elif bare == "Bool":
        both = bool
    elif bare == "Float32":
        both = _float32
    elif bare == "Float64":
        both = float
    return both, both


def _for_arrays(convert: Converter) -> Converter:
    return None if convert is None else lambda values: converted(values, convert)


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _plain_decimal(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
