"""Rows from Apache Phoenix (HBase) into ClickHouse, incrementally and in backfills, with a journal in PostgreSQL.

The flow: ``plan`` cuts an interval into slices (journal), ``extract`` reads and loads each into RAW, ``publish``
turns a partition of RAW into CLEAN, ``finalize`` ends the run; ``sweep`` sends again whatever is due and not moving.

Imports go one way: ``cli, tasks → pipeline → core`` and ``adapters → core``; only ``wiring`` puts adapters into the
pipeline.
"""
