"""What ``doctor`` asks of the Query Server; nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from phoenixdb.avatica.proto import common_pb2, requests_pb2, responses_pb2

from etl_tasks.adapters.clock import compared
from etl_tasks.adapters.phoenix.connection import FramePace, QueryServerConnection
from etl_tasks.adapters.phoenix.decode import cell_value
from etl_tasks.adapters.phoenix.errors import phoenix_errors
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.sql import edge_literal
from etl_tasks.core.doctor.facts import PhoenixFacts
from etl_tasks.errors import StatementLost

_CLOCK = "SELECT TO_NUMBER(CURRENT_TIME()) FROM SYSTEM.CATALOG LIMIT 1"
_SHIFT = "SELECT TO_NUMBER({literal} - ?) FROM SYSTEM.CATALOG LIMIT 1"
_VERSION = "GET_DATABASE_PRODUCT_VERSION"


def examine(config: PhoenixConfig, moments: Sequence[datetime]) -> PhoenixFacts:
    """Version, clock, and the offset of the JVM's zone at each of ``moments``; raises by the error table.

    A literal is read in UTC and a bound time in the JVM's zone (FACTS): their difference is the zone's offset.
    """
    connection = QueryServerConnection(config)
    try:
        version = _version(connection)
        with compared("the Query Server") as clock:
            read = clock(float(_number(connection, _CLOCK)) / 1000)
        offsets = tuple(_offset_min(connection, moment) for moment in moments)
        connection.close()
        return PhoenixFacts(version, read, offsets)
    finally:
        connection.discard()


def _version(connection: QueryServerConnection) -> str:
    client: Any = connection._client
    with phoenix_errors("asking for the version of Phoenix"):
        request = requests_pb2.DatabasePropertyRequest(connection_id=connection._id)
        answer = responses_pb2.DatabasePropertyResponse.FromString(client._apply(request, "DatabasePropertyResponse"))
    return next((prop.value.string_value for prop in answer.props if prop.key.name == _VERSION), "")


def _number(connection: QueryServerConnection, sql: str) -> Decimal:
    context = "asking the Query Server for its clock"
    cells = [row.value[0] for frame in connection.frames(sql, FramePace(1, 1 << 20), context) for row in frame.rows]
    return _only(cells, context)


def _offset_min(connection: QueryServerConnection, moment: datetime) -> int:
    context = "asking the Query Server for its JVM's zone"
    client: Any = connection._client
    bound = common_pb2.TypedValue(
        type=common_pb2.JAVA_SQL_TIMESTAMP, number_value=int(moment.astimezone(UTC).timestamp() * 1000)
    )
    with phoenix_errors(context):
        statement = client.prepare(connection._id, _SHIFT.format(literal=edge_literal(moment, "timestamp")))
        results = client.execute(connection._id, statement.id, statement.signature, [bound], first_frame_max_size=1)
        cells = [row.value[0].SerializeToString() for result in results for row in result.first_frame.rows]
        client.close_statement(connection._id, statement.id)
    return round(_only(cells, context) / 60_000)


def _only(cells: Sequence[bytes], context: str) -> Decimal:
    if len(cells) != 1:
        raise StatementLost(f"{context}: {len(cells)} rows came instead of one")
    return Decimal(str(cell_value(cells[0])))
