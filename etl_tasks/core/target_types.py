"""Which ClickHouse type holds every value of a Phoenix type: what ``ddl --from-source`` writes.

The way of the values themselves is the table of ``coercion_rules``, which allows more than what is chosen here.

| Phoenix | ClickHouse |
| --- | --- |
| VARCHAR, CHAR(n), VARBINARY, BINARY(n) | String (FixedString would lose or add zero bytes at the end) |
| TINYINT, SMALLINT, INTEGER, BIGINT | Int8, Int16, Int32, Int64 |
| UNSIGNED_TINYINT, UNSIGNED_SMALLINT, UNSIGNED_INT, UNSIGNED_LONG | UInt8, UInt16, UInt32, UInt64 |
| DECIMAL(p, s) | Decimal(p, s) |
| DECIMAL | Decimal(76, 38): 38 digits, Phoenix's most, on either side of the point |
| DOUBLE, UNSIGNED_DOUBLE; FLOAT, UNSIGNED_FLOAT | Float64; Float32 |
| BOOLEAN | Bool |
| TIMESTAMP, DATE, TIME and their UNSIGNED forms | DateTime64(3, 'UTC'): a DATE and a TIME of Phoenix hold both |
| T ARRAY | Array of T's, bar the UNSIGNED types, which the Query Server cannot send |

Nullable outside the key and of arrays: a NULL array is ``[]``, a NULL text or bytes of the key ``''``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.coercion_rules import BYTES, TEXTS, TIMES

TIME_TYPE: Final = "DateTime64(3, 'UTC')"
_PLAIN: Final[Mapping[str, str]] = {
    **dict.fromkeys(TEXTS | BYTES, "String"),
    **dict.fromkeys(TIMES, TIME_TYPE),
    "TINYINT": "Int8",
    "SMALLINT": "Int16",
    "INTEGER": "Int32",
    "BIGINT": "Int64",
    "UNSIGNED_TINYINT": "UInt8",
    "UNSIGNED_SMALLINT": "UInt16",
    "UNSIGNED_INT": "UInt32",
    "UNSIGNED_LONG": "UInt64",
    "DOUBLE": "Float64",
    "UNSIGNED_DOUBLE": "Float64",
    "FLOAT": "Float32",
    "UNSIGNED_FLOAT": "Float32",
    "BOOLEAN": "Bool",
}
_WIDEST_DECIMAL: Final = "Decimal(76, 38)"


def target_type(column: SourceColumn) -> str | None:
    """The ClickHouse type for a column, as ``system.columns`` spells it; None when its type cannot be carried."""
    element = column.type.removesuffix(" ARRAY")
    is_array = element != column.type
    if is_array and element.startswith("UNSIGNED_"):
        return None
    if element == "DECIMAL":
        bare = f"Decimal({column.size}, {column.scale or 0})" if column.size else _WIDEST_DECIMAL
    elif element in _PLAIN:
        bare = _PLAIN[element]
    else:
        return None
    if is_array:
        return f"Array({bare})"
    return bare if column.key_position is not None else f"Nullable({bare})"
