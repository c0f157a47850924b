"""What is read out of a table's ``engine_full``, as ClickHouse 26.9 spells it."""

from __future__ import annotations

import pytest

from etl_tasks.adapters.clickhouse.topology import TableFacts


@pytest.mark.parametrize(
    ("settings", "codec"),
    [
        ("index_granularity = 8192", None),
        ("default_compression_codec = 'ZSTD(3)', index_granularity = 8192", "ZSTD(3)"),
        ("index_granularity = 8192, default_compression_codec = 'LZ4HC(9)'", "LZ4HC(9)"),
        ("default_compression_codec = ''", ""),
        (r"default_compression_codec = 'SZ3(\'ALGO\', 0.1)', index_granularity = 8192", "SZ3('ALGO', 0.1)"),
        ("marks_compression_codec = 'ZSTD(3)'", None),
    ],
)
def test_the_codec_that_a_table_chooses_for_its_columns(settings: str, codec: str | None) -> None:
    engine = f"MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t) SETTINGS {settings}"
    facts = TableFacts("MergeTree", engine, "toYYYYMMDD(opd)", "c, opd, t", "c, opd, t", "default")
    assert facts.default_codec == codec
