"""The values of cells, from Avatica's bytes to Python values: slow and sure, for what ``vectors`` does not read.

How a value looks on the wire (seen on Query Server 6.0): a ColumnValue holds the same TypedValue twice, ``value``
(field 1) and ``scalar_value`` (field 4); a TypedValue holds its type (field 1), then ``string_value`` (3),
``number_value`` (4, zigzag), ``bytes_value`` (5), ``double_value`` (6) or ``null`` (7). So a short text is ``0a LL 08
15 1a NN`` and NN bytes, a number ``0a LL 08 TT 20`` and a varint (nothing at all for 0), and NULL always the same
twelve bytes.

Arrays are read by what each element says of itself and by the catalog's type, never by the signature, whose component
type is wrong past the first frames (FACTS). A NULL in an array of texts is None; in an array of numbers Phoenix itself
sends 0. Times come as integer milliseconds since the epoch, so that year 1 and year 10000 pass.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from google.protobuf.message import DecodeError
from phoenixdb.avatica.proto import common_pb2

from etl_tasks.core.batch import SourceColumn
from etl_tasks.errors import SchemaError, ShortRead

_CHUNK_ROWS: Final = 512
"""Rows decoded at once, so that few of their pieces are alive at a time."""

NULL: Final = b'\n\x04\x08\x188\x01"\x04\x08\x188\x01'
_ColumnValue: Final[Any] = common_pb2.ColumnValue

TEXTS: Final = frozenset({common_pb2.STRING, common_pb2.CHARACTER, common_pb2.PRIMITIVE_CHAR})
NUMBERS: Final = frozenset(
    {
        common_pb2.BYTE, common_pb2.SHORT, common_pb2.INTEGER, common_pb2.LONG,
        common_pb2.PRIMITIVE_BYTE, common_pb2.PRIMITIVE_SHORT, common_pb2.PRIMITIVE_INT, common_pb2.PRIMITIVE_LONG,
        common_pb2.JAVA_SQL_TIMESTAMP, common_pb2.JAVA_SQL_DATE, common_pb2.JAVA_SQL_TIME,
    }
)  # fmt: skip
_DOUBLES: Final = frozenset({common_pb2.DOUBLE, common_pb2.PRIMITIVE_DOUBLE})
_FLOATS: Final = frozenset({common_pb2.FLOAT, common_pb2.PRIMITIVE_FLOAT})
_BOOLEANS: Final = frozenset({common_pb2.BOOLEAN, common_pb2.PRIMITIVE_BOOLEAN})
_DECIMALS: Final = frozenset({common_pb2.BIG_DECIMAL, common_pb2.BIG_INTEGER})
_BYTES: Final = frozenset({common_pb2.BYTE_STRING})

_NUMBER_TYPES: Final = (
    "TINYINT", "UNSIGNED_TINYINT", "SMALLINT", "UNSIGNED_SMALLINT", "INTEGER", "UNSIGNED_INT", "BIGINT",
    "UNSIGNED_LONG",
)  # fmt: skip
_TIME_TYPES: Final = ("TIMESTAMP", "DATE", "TIME", "UNSIGNED_TIMESTAMP", "UNSIGNED_DATE", "UNSIGNED_TIME")
_FRACTION_TYPES: Final = ("DOUBLE", "UNSIGNED_DOUBLE", "FLOAT", "UNSIGNED_FLOAT")

EXPECTED: Final[Mapping[str, frozenset[int]]] = {
    **dict.fromkeys(("VARCHAR", "CHAR"), TEXTS),
    **dict.fromkeys(_NUMBER_TYPES, NUMBERS),
    **dict.fromkeys(_TIME_TYPES, NUMBERS),
    **dict.fromkeys(_FRACTION_TYPES, _DOUBLES | _FLOATS),
    "BOOLEAN": _BOOLEANS,
    "DECIMAL": _DECIMALS,
    **dict.fromkeys(("BINARY", "VARBINARY"), _BYTES),
}
"""Phoenix type of a scalar → the types that its values may have on the wire."""


class NotThisType(Exception):
    """A value on the wire is of another type than its column: the frame is not of our statement."""


def _type_name(kind: int) -> str:
    """The wire type's name, or its number when Avatica has no such type."""
    names: dict[int, str] = {number: name for name, number in common_pb2.Rep.items()}
    return names.get(kind, str(kind))


def typed_value(value: Any, expected: frozenset[int] | None = None) -> Any:
    """The Python value of one TypedValue; raises NotThisType when its type is not ``expected`` (None: any)."""
    if value.null or value.type == common_pb2.NULL:
        return None
    kind = value.type
    if expected is not None and kind not in expected:
        raise NotThisType(_type_name(kind))
    if kind in TEXTS:
        return value.string_value
    if kind in NUMBERS:
        return value.number_value
    if kind in _BOOLEANS:
        return value.bool_value
    if kind in _DECIMALS:
        return Decimal(value.string_value)
    if kind in _DOUBLES:
        return value.double_value
    if kind in _FLOATS:  # elements of a FLOAT ARRAY: the 32 bits of the number, as an integer
        return struct.unpack("<f", struct.pack("<i", value.number_value))[0]
    if kind in _BYTES:
        return value.bytes_value
    raise NotThisType(_type_name(kind))


def cell_value(cell: bytes, expected: frozenset[int] | None = None, array: bool | None = None) -> Any:
    """The Python value of one cell, the slow and sure way; ``array`` says whether it must be one (None: either)."""
    value = _ColumnValue.FromString(cell)
    if value.has_array_value:
        if array is False:
            raise NotThisType("ARRAY")
        return [typed_value(element, expected) for element in value.array_value]
    if array and not value.scalar_value.null:
        raise NotThisType(_type_name(value.scalar_value.type))
    return typed_value(value.scalar_value, expected)


def decodable(phoenix_type: str) -> bool:
    """Whether a column of this type can be read: ARRAYs of UNSIGNED types cannot be sent by the Query Server (seen)."""
    element = phoenix_type.removesuffix(" ARRAY")
    return element in EXPECTED and not (element != phoenix_type and element.startswith("UNSIGNED_"))


class CellDecoder:
    """Turns cells into Python values one by one, by the types that Phoenix's catalog gives the columns.

    Raises SchemaError when made for a type that cannot be read.
    """

    def __init__(self, columns: Sequence[SourceColumn]) -> None:
        self.names: tuple[str, ...] = tuple(column.name for column in columns)
        self._types: list[tuple[frozenset[int], bool]] = []
        for column in columns:
            element = column.type.removesuffix(" ARRAY")
            if not decodable(column.type):
                raise SchemaError(
                    f"column {column.name} is of type {column.type}, which cannot be read from the Query Server"
                )
            self._types.append((EXPECTED[element], element != column.type))

    def rows(self, rows: Sequence[Any], place: str) -> list[list[Any]]:
        """The columns of ``rows`` (messages with ``value`` as bytes); ``place`` is where they are, for messages.

        Raises ShortRead when the rows are not of our statement: another number of columns, or other types.
        """
        columns: list[list[Any]] = [[] for _ in self.names]
        for start in range(0, len(rows), _CHUNK_ROWS):
            try:
                by_column = list(zip(*[row.value for row in rows[start : start + _CHUNK_ROWS]], strict=True))
            except ValueError:
                by_column = []
            if len(by_column) != len(self.names):
                raise ShortRead(
                    f"{place} do not have the {len(self.names)} columns asked for: another statement's rows"
                )
            for number, cells in enumerate(by_column):
                columns[number] += self.column(number, cells, place)
        return columns

    def column(self, number: int, cells: Sequence[bytes], place: str) -> list[Any]:
        """The values of some cells of the column; raises ShortRead for other types than the column's, and
        for a text that is no UTF-8.
        """
        expected, array = self._types[number]
        try:
            return [None if cell == NULL else cell_value(cell, expected, array) for cell in cells]
        except (NotThisType, DecodeError, InvalidOperation) as error:
            what = f"{type(error).__name__} ({error}) in column {self.names[number]}"
            raise ShortRead(f"{place} have {what}: another statement's rows") from error
