"""How the name of a Phoenix table is written: ``table``, ``schema.table`` or ``"s"."t"``, case kept either way."""

from __future__ import annotations

import re
from typing import Final

_PART: Final = re.compile(r'"([^"]*)"|([^".]+)')


def split_source_table(name: str) -> tuple[str, str]:
    """Schema ('' when there is none) and table; raises ValueError when it is anything else."""
    parts: list[str] = []
    position = 0
    while match := _PART.match(name, position):
        parts.append(match[1] if match[1] is not None else match[2])
        position = match.end()
        if not name.startswith(".", position):
            break
        position += 1
    if position != len(name) or name.endswith(".") or not 1 <= len(parts) <= 2:
        raise ValueError('write table, schema.table or "schema"."table"')
    if not all(part and part == part.strip() and part.isprintable() for part in parts):
        raise ValueError("a name is empty, has a blank at its end or a control character in it")
    return (parts[0] if len(parts) == 2 else "", parts[-1])
