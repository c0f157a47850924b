"""Rows of one fetch or one insert, held as columns, and the columns' descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the Phoenix table as its catalog tells it.

    ``type`` is the Phoenix type name without length or scale: ``VARCHAR``, ``UNSIGNED_TINYINT``, ``TIMESTAMP``,
    ``VARCHAR ARRAY``. ``key_position`` counts from 1 for columns of the primary key, else None.
    """

    name: str
    type: str
    key_position: int | None = None


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of a ClickHouse table; ``type`` as ``system.columns`` spells it, such as
    ``Nullable(DateTime64(3, 'UTC'))``.
    """

    name: str
    type: str
    default_kind: str = ""


@dataclass(slots=True)
class ColumnBatch:
    """``rows`` rows as one list a column, in the order of ``names``.

    ``approximate_bytes`` is the size on the wire, which bounds memory. As read from the source, times are integers of
    milliseconds since the epoch (DATE, TIME, TIMESTAMP alike), arrays are lists or None, DECIMAL is
    ``decimal.Decimal``.
    """

    names: Sequence[str]
    columns: list[list[Any]] = field(default_factory=list)
    rows: int = 0
    approximate_bytes: int = 0

    def column(self, name: str) -> list[Any]:
        """The values of the column ``name``; raises ValueError if there is no such column."""
        return self.columns[list(self.names).index(name)]
