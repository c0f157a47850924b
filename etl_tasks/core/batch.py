"""Rows of one fetch or one insert, held as columns, and the columns' descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from etl_tasks.core.columns import Column


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the Phoenix table as its catalog tells it.

    ``type`` is the Phoenix type name without length or scale: ``VARCHAR``, ``UNSIGNED_TINYINT``, ``TIMESTAMP``,
    ``VARCHAR ARRAY``. ``key_position`` grows along the primary key and is None outside of it. ``size`` and ``scale``
    are what the type was declared with (digits of a DECIMAL, length of a CHAR or BINARY), None for what was not.
    """

    name: str
    type: str
    key_position: int | None = None
    size: int | None = field(default=None, compare=False)
    scale: int | None = field(default=None, compare=False)
    nullable: bool = field(default=True, compare=False)


def key_columns(columns: Iterable[SourceColumn]) -> tuple[str, ...]:
    """The names of the primary key's columns, in its order."""
    placed = sorted((column.key_position, column.name) for column in columns if column.key_position is not None)
    return tuple(name for _, name in placed)


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
    """``rows`` rows as one column each of ``names``, in that order: a list of values or one of ``core.columns``.

    ``approximate_bytes`` is the size on the wire, which bounds memory. As read from the source, times are integers of
    milliseconds since the epoch (DATE, TIME, TIMESTAMP alike), arrays are lists or None, DECIMAL is
    ``decimal.Decimal``. ``decoded_slowly`` says why the frame was not read the fast way, '' when it was.
    """

    names: Sequence[str]
    columns: list[Column] = field(default_factory=list)
    rows: int = 0
    approximate_bytes: int = 0
    decoded_slowly: str = ""

    def column(self, name: str) -> Column:
        """The values of the column ``name``; raises ValueError if there is no such column."""
        return self.columns[list(self.names).index(name)]
