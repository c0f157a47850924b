"""``ddl/phoenix_source.sql`` applied: the source's table of a development stack, never that of a real source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from etl_tasks.adapters.phoenix.connection import QueryServerConnection
from etl_tasks.adapters.phoenix.errors import phoenix_errors
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.sql import quote_table

FILE: Final = Path(__file__).parents[3] / "ddl" / "phoenix_source.sql"
_TABLE: Final = re.compile(r"(?<=CREATE TABLE IF NOT EXISTS )TBL_JTI_TRACE_CIS_HISTORY\b")


def statements(table: str) -> list[str]:
    """The file's statements for ``table``, without comments and semicolons; raises ConfigError for no table's name."""
    bare = re.sub(r"^\s*--.*$", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted = quote_table(table)
    return [_TABLE.sub(lambda _: quoted, part.strip()) for part in bare.split(";") if part.strip()]


def apply(config: PhoenixConfig) -> str:
    """Create the source's table if it is not there; what was done. Raises by the error table."""
    todo = statements(config.table)
    connection = QueryServerConnection(config)
    client = connection._client
    try:
        with phoenix_errors(f"creating {config.place}"):
            # Not connection.frames: what creates has no frames, and no frame that says it is the last.
            for statement in todo:
                client.prepare_and_execute(connection._id, client.create_statement(connection._id), statement)
        connection.close()
    finally:
        connection.discard()
    return f"{len(todo)} statement for {config.place}; a table that was there stays as it was"
