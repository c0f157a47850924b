"""How the buffer of a publish is filled: CLEAN's parts as hard links, then what is new of RAW.

Where every row that RAW has of the partition is to be published, as after the first load of a day, RAW's parts are
taken as hard links too: OPTIMIZE writes each row once, and not a second time after an INSERT … SELECT has written it.
"""

from __future__ import annotations

import structlog

from etl_tasks.adapters.clickhouse import publish_sql
from etl_tasks.adapters.clickhouse.catalog import insertable, table_columns
from etl_tasks.adapters.clickhouse.client import listed, single
from etl_tasks.adapters.clickhouse.identifiers import TableName, quote_name, quote_names, quote_text
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.adapters.clickhouse.statements import ENOUGH_FOR_ANY_SIZE, Statements
from etl_tasks.adapters.clickhouse.topology import table_facts
from etl_tasks.errors import LostOwnership, SchemaError, TerminalError

log = structlog.get_logger(__name__)

MERGE_BLOCK_ROWS = 65_536
"""Rows of a block while the buffer is merged, within the server's bound in bytes (10 MiB): a tenth faster than its own
8,192.
"""

DEFAULT_CODEC = "LZ4"
"""For a day that is published again and again: a large merge of 26.9 takes ZSTD(3), a quarter of its time.

The codec of a column of the ``_dedup_buf`` table goes before it, then CLEAN's own ``default_compression_codec``, then
the server's where its configuration sets one for all tables.
"""


def create_buffer(statements: Statements, work: ShardWork) -> None:
    """Make the publish's own buffer on the shard."""
    facts = work.clean_facts
    statements.execute(
        work,
        publish_sql.CREATE_BUFFER.format(
            buffer=statements.fence.buffer.sql,
            template=statements.fence.template.sql,
            version=quote_name(statements.config.version_column),
            partition_key=facts.partition_key,
            primary_key=facts.primary_key,
            sorting_key=facts.sorting_key,
            storage_policy=quote_text(facts.storage_policy or "default"),
            merging=_merging(statements, work),
        ),
    )


def _merging(statements: Statements, work: ShardWork) -> str:
    """The buffer's settings of blocks and codec, as far as this server knows them.

    An old one bounds only a block's rows, so that large blocks of wide rows would do harm.
    """
    try:
        bounds_bytes, leaves_codec_open = single(statements.execute(work, publish_sql.MERGE_SETTINGS))
    except TerminalError as error:
        log.info("merge_settings_not_readable", host=str(work.connection.host), error=str(error))
        return ""
    settings = f", merge_max_block_size = {MERGE_BLOCK_ROWS:d}" if bounds_bytes else ""
    codec = work.clean_facts.default_codec
    if codec is None and leaves_codec_open:
        codec = DEFAULT_CODEC
    return settings + (f", default_compression_codec = {quote_text(codec)}" if codec else "")


def attach_clean(statements: Statements, work: ShardWork) -> None:
    """Take what CLEAN has of the partition, unless RAW alone counts, and note how many rows it is."""
    if statements.request.rebuild:
        work.rows_before = statements.count(work, publish_sql.COUNT_PARTITION, table=statements.fence.clean)
        return
    statements.execute(work, statements.of(publish_sql.ATTACH))
    # Counted in the buffer: CLEAN's own rows may expire at any time.
    work.rows_before = statements.count(work, publish_sql.COUNT_PARTITION, table=statements.fence.buffer)


def attach_raw(statements: Statements, work: ShardWork) -> bool:
    """Take RAW's parts of the partition as they are; False when that cannot be, and the buffer is as it was before.

    They may hold nothing but rows of the windows to publish. RAW is looked at before, and what has come into the
    buffer after, for a load goes on inserting meanwhile; nothing merges in the buffer until it is told to.
    """
    if not _wholly_new(statements, work) or not _fits(statements, work):
        return False
    before = _strange(statements, work)
    try:
        statements.execute(work, statements.of(publish_sql.ATTACH_RAW))
    except (SchemaError, TerminalError) as error:
        require_buffer(statements, work, error)
        # Two tables may differ in more than we ask for, an index or a projection: the rows are read instead.
        log.warning("raw_parts_refused", host=str(work.connection.host), error=str(error))
        return False
    if _strange(statements, work) == before:
        return True
    log.info("raw_parts_given_back", host=str(work.connection.host))
    statements.execute(work, statements.of(publish_sql.EMPTY_BUFFER), settings=ENOUGH_FOR_ANY_SIZE)
    attach_clean(statements, work)
    return False


def insert_new(statements: Statements, work: ShardWork) -> None:
    """Read the windows' rows out of RAW and write them into the buffer."""
    sql = publish_sql.INSERT_NEW.format(
        buffer=statements.fence.buffer.sql,
        columns=quote_names(_columns(statements, work)),
        raw=statements.raw.sql,
        ts=statements.ts,
        windows=statements.windows_sql,
    )
    statements.execute(work, sql, {"partition": statements.request.partition}, statements.inserting())


def require_buffer(statements: Statements, work: ShardWork, error: Exception | None = None) -> None:
    """Raise LostOwnership when the buffer is gone."""
    buffer = statements.fence.buffer
    if table_facts(work.connection, buffer) is None:
        raise LostOwnership(f"{buffer} is gone on {work.connection.host}: a newer publish dropped it") from error


def _wholly_new(statements: Statements, work: ShardWork) -> bool:
    """Whether RAW has rows of these windows only. Both numbers may change meanwhile: the buffer is asked after."""
    there = statements.count(work, publish_sql.COUNT_PARTITION, table=statements.raw)
    return 0 < there <= work.new_rows


def _fits(statements: Statements, work: ShardWork) -> bool:
    """Whether a part of RAW could be one of the buffer: the same columns with the same defaults, keys and disks."""
    raw, clean = work.raw_facts, work.clean_facts
    if (raw.partition_key, raw.sorting_key, raw.primary_key, raw.storage_policy) != (
        clean.partition_key,
        clean.sorting_key,
        clean.primary_key,
        clean.storage_policy,
    ):
        return False
    return _form(statements, work, statements.raw) == _form(statements, work, statements.fence.buffer)


def _form(statements: Statements, work: ShardWork, table: TableName) -> list[object]:
    names: dict[str, int | str] = {"database": table.database, "table": table.table}
    return listed(statements.execute(work, publish_sql.FORM, names))


def _strange(statements: Statements, work: ShardWork) -> tuple[int, int]:
    """Rows of the buffer outside the windows, and parts that would expire by the TTL of the table they came from.

    ClickHouse 26.9 forgets the TTL of a part that comes into a table without one; an older server may not.
    """
    outside = statements.count(work, publish_sql.COUNT_OUTSIDE, table=statements.fence.buffer)
    (expiring,) = single(statements.execute(work, publish_sql.EXPIRING_PARTS, statements.buffer_names()))
    return outside, int(expiring)


def _columns(statements: Statements, work: ShardWork) -> list[str]:
    """The columns that are copied: all of the buffer's that are stored and not computed. RAW must have them."""
    raw, fence = statements.raw, statements.fence
    there = {column.name for column in table_columns(work.connection, raw)}
    wanted = [column for column in table_columns(work.connection, fence.buffer) if insertable(column)]
    if not wanted:
        require_buffer(statements, work)
    missing = [column.name for column in wanted if column.name not in there and column.default_kind != "DEFAULT"]
    if missing:
        raise SchemaError(f"{raw} on {work.connection.host} lacks {', '.join(missing)}, which {fence.clean} has")
    return [column.name for column in wanted if column.name in there]
