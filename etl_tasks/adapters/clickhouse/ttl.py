"""How long a table keeps its rows, read from ``engine_full``."""

from __future__ import annotations

import re

_SECONDS = {
    "Second": 1, "Minute": 60, "Hour": 3_600, "Day": 86_400, "Week": 604_800,
    "Month": 28 * 86_400, "Quarter": 90 * 86_400, "Year": 365 * 86_400,
}  # fmt: skip
_INTERVAL = re.compile(rf"\btoInterval({'|'.join(_SECONDS)})\((\d+)\)|\bINTERVAL (\d+) ({'|'.join(_SECONDS)})\b", re.I)
# A move to another disk, a recompression or an aggregation removes nothing.
_KEEPS = re.compile(r"\b(TO DISK|TO VOLUME|RECOMPRESS|GROUP BY)\b", re.I)


def ttl_seconds(engine_full: str, column: str) -> int | None:
    """Seconds after ``column`` at which rows are deleted, the shortest of several rules; None without such a rule.

    A rule that is not ``column + interval`` is not understood, and counts as none: this is for a warning only. A
    month counts as its shortest.
    """
    clause = re.search(r"\sTTL\s(.*?)(?:\sSETTINGS\s|$)", engine_full, re.S)
    if clause is None:
        return None
    found = []
    for rule in re.split(r",(?![^(]*\))", clause[1]):
        if (
            _KEEPS.search(rule)
            or re.search(r"\bWHERE\b", rule, re.I)
            or not re.search(rf"\b{re.escape(column)}\b", rule)
        ):
            continue
        intervals = [(one or other, int(count or number)) for one, count, number, other in _INTERVAL.findall(rule)]
        if intervals:
            found.append(sum(_SECONDS[unit.capitalize()] * count for unit, count in intervals))
    return min(found, default=None)
