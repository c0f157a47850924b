"""The one place where a name becomes part of a statement. Values never do: they are parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from etl_tasks.errors import ConfigError


class TableName(NamedTuple):
    """``database.table``, unquoted; ``str()`` is how people write it, ``sql`` how a statement does."""

    database: str
    table: str

    @property
    def sql(self) -> str:
        """Both parts quoted."""
        return f"{quote_name(self.database)}.{quote_name(self.table)}"

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"


def quote_name(name: str) -> str:
    """``name`` as a quoted identifier, which may stand in a statement with parameters and in one without.

    Backquotes and backslashes are escaped, and so is %: the driver puts parameters in by Python's % operator, but only
    where there are some, so neither % nor %% would be right everywhere. ClickHouse reads ``\\x25`` as %.
    """
    if not name or "\0" in name:
        raise ConfigError(f"{name!r} cannot be the name of a database, table or column")
    escaped = name.replace("\\", "\\\\").replace("`", "\\`").replace("%", "\\x25")
    return f"`{escaped}`"


def beside_parameters(sql: str) -> str:
    """An expression in ClickHouse's own writing (a key, a sharding expression), for a statement that has parameters."""
    return sql.replace("%", "%%")


def quote_names(names: Iterable[str]) -> str:
    """The names quoted, with commas in between."""
    return ", ".join(quote_name(name) for name in names)


def quote_text(text: str) -> str:
    """A string literal, for the few places of DDL that take no parameters (engine arguments)."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def parse_table(name: str) -> TableName:
    """``database.table`` in two parts; raises ConfigError when it is anything else."""
    database, dot, table = name.partition(".")
    if not (database and dot and table) or "." in table:
        raise ConfigError(f"{name!r} is no table name: write it as database.table")
    return TableName(database, table)
