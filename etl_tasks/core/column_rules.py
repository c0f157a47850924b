"""The coercion table for columns that stay bytes: what is checked and converted for all rows at once.

Only what fits is dealt with here. Where a value does not fit, or the pair of types is a rarer one, the column becomes a
list of Python values and the rule of ``coercion_rules`` says what is to be said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from etl_tasks.core.coercion_rules import INTEGERS, TEXTS, TIMES, ColumnRule, Faults, RuleContext, rule_for
from etl_tasks.core.columns import Column, IntegerColumn, TextArrayColumn, TextColumn, in_list

AnyColumnRule: TypeAlias = Callable[[Column], tuple[Column, Faults]]
_Fit: TypeAlias = Callable[[Any], Column | None]
"""A column in the target's type; None where a value does not fit."""

_NULLABLE: Final = re.compile(r"Nullable\((.*)\)")
_INTEGER: Final = re.compile(r"(U?)Int(8|16|32|64)")
_DATETIME64: Final = re.compile(r"DateTime64\(([0-3])\b.*\)")
_LONG_MOST: Final = 2**63 - 1


def column_rule(
    source_type: str, target_type: str, context: RuleContext, *, in_key: bool = False
) -> AnyColumnRule | None:
    """The rule for a Phoenix type into a ClickHouse type over a column in whatever form; None when there is none."""
    rule = rule_for(source_type, target_type, context, in_key=in_key)
    if rule is None:
        return None
    fit = _fit(source_type, target_type, context, in_key=in_key)
    return _either(rule, fit)


def _either(rule: ColumnRule, fit: _Fit | None) -> AnyColumnRule:
    def apply(column: Column) -> tuple[Column, Faults]:
        if fit is not None and not isinstance(column, list):
            fitting = fit(column)
            if fitting is not None:
                return fitting, []
        return rule(in_list(column))

    return apply


def _fit(source_type: str, target_type: str, context: RuleContext, *, in_key: bool) -> _Fit | None:
    whole = _NULLABLE.fullmatch(target_type)
    kind = whole[1] if whole else target_type
    if source_type in TEXTS and kind == "String":
        return _texts(target_type, nulls_stay=bool(whole), nulls_go=in_key)
    if source_type in INTEGERS:
        return _integers(kind, target_type, nulls_stay=bool(whole))
    if source_type in TIMES:
        return _times(kind, target_type, context, nulls_stay=bool(whole))
    if source_type.removesuffix(" ARRAY") in TEXTS and target_type == "Array(String)":
        return lambda column: _arrays(column, target_type)
    return None


def _arrays(column: Any, target_type: str) -> Column | None:
    if not isinstance(column, TextArrayColumn):
        return None
    return TextArrayColumn(replace(column.elements, nulls=None), column.counts, None, target_type)


def _texts(target_type: str, *, nulls_stay: bool, nulls_go: bool) -> _Fit:
    def fit(column: Any) -> Column | None:
        if not isinstance(column, TextColumn):
            return None
        if column.nulls is None or nulls_stay:
            return replace(column, target_type=target_type)
        return replace(column, nulls=None, target_type=target_type) if nulls_go else None

    return fit


def _integers(kind: str, target_type: str, *, nulls_stay: bool) -> _Fit | None:
    match = _INTEGER.fullmatch(kind)
    if match is None:
        return None
    bits = int(match[2])
    low, high = (0, 2**bits - 1) if match[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return _within(low, min(high, _LONG_MOST), 1, target_type, nulls_stay=nulls_stay)


def _times(kind: str, target_type: str, context: RuleContext, *, nulls_stay: bool) -> _Fit | None:
    if kind.split("(")[0] == "DateTime":
        return _within(0, 2**32 * 1_000 - 1, 1_000, target_type, nulls_stay=nulls_stay)
    match = _DATETIME64.fullmatch(kind)
    if match is None:
        return None
    return _within(*context.datetime64_range_ms, 10 ** (3 - int(match[1])), target_type, nulls_stay=nulls_stay)


def _within(low: int, high: int, step: int, target_type: str, *, nulls_stay: bool) -> _Fit:
    """Values of ``low`` to ``high``, divided by ``step`` and floored."""

    def fit(column: Any) -> Column | None:
        if not isinstance(column, IntegerColumn) or not (nulls_stay or column.nulls is None):
            return None
        values = column.values
        present = values if column.nulls is None else values[~column.nulls]
        if len(present) and not (low <= int(present.min()) and int(present.max()) <= high):
            return None
        return replace(column, values=values if step == 1 else np.floor_divide(values, step), target_type=target_type)

    return fit
